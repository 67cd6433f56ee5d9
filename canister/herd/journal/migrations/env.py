"""Alembic's entry for a herd's tables."""

from canister.herd.journal.migrations import run_environment

run_environment()
