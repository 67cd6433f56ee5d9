"""Every row of every table is run in one place of a herd, and a changing row never in the mirror alone by mistake."""

from __future__ import annotations

from collections import Counter

from canister.api import management, methods, rest_only
from canister.herd import routing
from canister.herd.routing import class_of

TABLES = (
    (routing._OF_INTERFACE, methods.METHODS),
    (routing._BESIDE_IT, rest_only.ROWS),
    (routing._OF_MANAGEMENT, management.METHODS),
)


def test_every_row_is_in_exactly_one_class() -> None:
    for table, rows in TABLES:
        named = Counter(name for names in table.values() for name in names)
        assert named == Counter(row.name for row in rows)


def test_updates_of_the_interface_reach_the_workers() -> None:
    for row in methods.METHODS:
        if row.mode == "update":
            assert class_of(row) in ("control", "model", "chat"), row.name
        else:
            assert class_of(row) in ("mirror", "ask", "journal"), row.name


def test_names_of_all_tables_differ() -> None:
    """For the classes are found by name alone."""
    names = Counter(row.name for _, rows in TABLES for row in rows)
    assert max(names.values()) == 1
