"""The databases that a herd's journal is tested on: SQLite, and a PostgreSQL of the tests' own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.herd.postgresql import NotHere, PostgreSQL, own_server

_schemas = itertools.count(1)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A server for all tests; each takes a schema of its own."""
    try:
        with own_server() as server:
            yield server
    except NotHere as reason:
        pytest.skip(str(reason))


@pytest.fixture
def postgresql_url(postgresql: PostgreSQL) -> str:
    """An empty schema."""
    schema = f"herd{next(_schemas)}"
    postgresql.query(f"CREATE SCHEMA {schema}")
    return postgresql.url(schema)


@pytest.fixture(params=["sqlite", "postgresql"])
def journal_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'herd.db'}"
    url = request.getfixturevalue("postgresql_url")
    assert isinstance(url, str)
    return url
