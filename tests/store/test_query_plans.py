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

# They look at all rows, in a worker thread: of files once a start, of an index of models where these are listed.
WHOLE_TABLE = {"canister.store.recovery._FILES", "canister.store.listings._MODELS"}


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


def looks_at_a_whole_table(steps: list[str], sql: str) -> bool:
    """Going along an index as far as a LIMIT does not, where nothing is sorted."""
    ends_early = "LIMIT" in sql and not any("TEMP B-TREE" in step for step in steps)
    scans = [step for step in steps if step.startswith("SCAN") and "CONSTANT" not in step]
    return bool(scans) and not (ends_early and all("USING INDEX" in step for step in scans))


@pytest.mark.parametrize("name", sorted(ALL.keys() - WHOLE_TABLE))
def test_no_statement_of_a_call_looks_at_a_whole_table(tmp_path: Path, name: str) -> None:
    schema: Schema = "server" if "api_keys" in ALL[name].sql else "canister"
    assert not looks_at_a_whole_table(plan(tmp_path, schema, ALL[name]), ALL[name].sql)


@pytest.mark.parametrize("name", sorted(name for name in ALL if ".listings." in name and "BELOW" not in name))
def test_lists_go_along_an_index_and_sort_nothing(tmp_path: Path, name: str) -> None:
    [step] = plan(tmp_path, "canister", ALL[name])
    assert "INDEX" in step


def test_those_that_do_are_known() -> None:
    assert ALL.keys() >= WHOLE_TABLE
    assert len(ALL) > 15
