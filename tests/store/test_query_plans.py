"""What a call asks of SQLite is found by an index: it takes as long with a hundred thousand rows as with ten."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import canister
from canister.store.database import Database
from canister.store.migrations import Schema
from canister.store.statements import Prepared, driver_of

# They look at all rows, in a worker thread: once a start, once a start and caller, once a clean-up.
WHOLE_TABLE = {
    "canister.store.recovery._FILES",
    "canister.store.stable._NEWEST",
    "canister.state.prompt_caches._OLDEST",
}


def statements() -> Iterator[tuple[str, Prepared]]:
    """All that are prepared: those of the hot path, that is."""
    for module in pkgutil.walk_packages(canister.__path__, "canister."):
        if module.name.startswith(("canister.cli", "canister.store.migrations", "canister.herd", "canister.__main__")):
            continue
        if module.name.endswith("trial_child"):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, Prepared):
                yield f"{module.name}.{name}", value


ALL = dict(statements())


def plan(folder: Path, schema: Schema, statement: Prepared) -> list[str]:
    database = Database(folder / f"{schema}.db", schema)
    database.open()
    try:
        with database.read() as connection:
            rows = driver_of(connection).execute(f"EXPLAIN QUERY PLAN {statement.sql}", statement._fixed)
            return [row[3] for row in rows]
    finally:
        database.close()


@pytest.mark.parametrize("name", sorted(ALL.keys() - WHOLE_TABLE))
def test_no_statement_of_a_call_looks_at_a_whole_table(tmp_path: Path, name: str) -> None:
    schema: Schema = "server" if "api_keys" in ALL[name].sql else "canister"
    assert not [
        step for step in plan(tmp_path, schema, ALL[name]) if step.startswith("SCAN") and "CONSTANT" not in step
    ]


def test_those_that_do_are_known() -> None:
    assert ALL.keys() >= WHOLE_TABLE
    assert len(ALL) > 15
