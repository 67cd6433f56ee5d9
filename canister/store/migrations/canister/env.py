"""Alembic's entry for the canister schema."""

from canister.store.migrations import run_environment
from canister.store.tables import canister_metadata

run_environment(canister_metadata)
