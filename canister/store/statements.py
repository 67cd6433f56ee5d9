"""SQL statements of the hot path: SQLAlchemy compiles them once, then sqlite3 gets them as they are.

SQLAlchemy's way to the driver costs ten times what SQLite needs for a statement of a call. Tables and types are still
SQLAlchemy's, so a statement cannot differ from the schema.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import ClauseElement, Connection
from sqlalchemy.dialects.sqlite import pysqlite

_NAMED = pysqlite.dialect(paramstyle="named")


class Prepared:
    """A statement with named parameters. Those of an insert are its columns, which are named here."""

    def __init__(self, statement: ClauseElement, *columns: str) -> None:
        compiled: Any = statement.compile(dialect=_NAMED, column_keys=list(columns) if columns else None)
        self.sql = str(compiled)
        self._fixed: dict[str, object] = dict(compiled.params)
        self._processors: list[tuple[str, Callable[[object], object]]] = []
        for name, parameter in compiled.binds.items():
            process = parameter.type.dialect_impl(_NAMED).bind_processor(_NAMED)
            if process is not None:
                self._processors.append((name, process))

    def run(self, connection: Connection, values: Mapping[str, object] | None = None) -> sqlite3.Cursor:
        """Run it in the transaction of this connection. Raises sqlite3's own errors."""
        row = {**self._fixed, **values} if values else dict(self._fixed)
        for name, process in self._processors:
            row[name] = process(row[name])
        return driver_of(connection).execute(self.sql, row)


_kept: dict[int, sqlite3.Connection] = {}


def keep_driver(connection: Connection) -> None:
    """Remember the driver of a connection that is kept, until `forget_driver`: SQLAlchemy takes as long to find it as
    SQLite for a statement.
    """
    _kept[id(connection)] = driver_of(connection)


def forget_driver(connection: Connection) -> None:
    """To be called before the connection is closed."""
    _kept.pop(id(connection), None)


def driver_of(connection: Connection) -> sqlite3.Connection:
    """sqlite3's connection under SQLAlchemy's."""
    found = _kept.get(id(connection))
    if found is not None:
        return found
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver
