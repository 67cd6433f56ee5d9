"""The databases that a herd's journal is tested on: SQLite, and a PostgreSQL of the tests' own."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Iterator

import pytest

from canister.herd import workers
from canister.herd.journal import journal
from tests.herd.postgresql import NotHere, PostgreSQL, own_server

NewDatabase = Callable[[], str]

_numbers = itertools.count(1)


@pytest.fixture(scope="session", autouse=True)
def patience() -> Iterator[None]:
    """A database that answers late, and a worker that does, are there all the same; where one is away, tests say so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "PATIENCE_SECONDS", 60.0)
        patch.setattr(workers, "LEASE_SECONDS", 120.0)
        yield


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A server for all tests; each takes schemas of its own."""
    try:
        with own_server() as server:
            yield server
    except NotHere as reason:
        pytest.skip(str(reason))


@pytest.fixture(params=["sqlite", "postgresql"])
def new_database(request: pytest.FixtureRequest) -> Iterator[NewDatabase]:
    """Gives the URL of another empty database of one kind, each time."""
    if request.param == "postgresql":
        server = request.getfixturevalue("postgresql")
        assert isinstance(server, PostgreSQL)
        yield lambda: new_schema(server)
        return
    fast = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="herd-", dir=fast) as folder:
        yield lambda: f"sqlite:///{folder}/herd{next(_numbers)}.db"


@pytest.fixture
def journal_url(new_database: NewDatabase) -> str:
    """An empty database of either kind."""
    return new_database()


@pytest.fixture
def postgresql_url(postgresql: PostgreSQL) -> str:
    """An empty schema."""
    return new_schema(postgresql)


def new_schema(server: PostgreSQL) -> str:
    name = f"herd{next(_numbers)}"
    server.query(f"CREATE SCHEMA {name}")
    return server.url(name)
