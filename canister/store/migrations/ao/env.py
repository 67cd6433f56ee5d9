"""Alembic's entry for the schema of AO."""

from canister.store.migrations import run_environment
from canister.store.tables import ao_metadata

run_environment(ao_metadata)
