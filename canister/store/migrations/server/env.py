"""Alembic's entry for the server schema."""

from canister.store.migrations import run_environment
from canister.store.tables import server_metadata

run_environment(server_metadata)
