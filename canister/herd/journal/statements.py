"""Statements of the hot path: SQLAlchemy compiles them once for each database, then its driver gets them as they are.

SQLAlchemy's way to a driver costs more than most statements of a call. Tables and types are still SQLAlchemy's. Errors
are the driver's own. Results come as the driver gives them: numbers, texts, bytes, and Decimal or text for amounts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from sqlalchemy import (
    JSON,
    ClauseElement,
    ColumnElement,
    Connection,
    Dialect,
    LargeBinary,
    Select,
    Table,
    bindparam,
    insert,
    update,
)
from sqlalchemy.types import TypeEngine

MAX_LOOKUP = 256  # values in one query

Row = tuple[Any, ...]


class _Compiled:
    """A statement in the words of one database."""

    def __init__(self, statement: ClauseElement, columns: Sequence[str], dialect: Dialect) -> None:
        compiled: Any = statement.compile(dialect=dialect, column_keys=list(columns) or None)
        self.sql = str(compiled)
        self._order: list[str] | None = list(compiled.positiontup) if compiled.positional else None
        self._fixed: dict[str, object] = dict(compiled.params)
        self._processors: list[tuple[str, Callable[[object], object]]] = []
        for parameter, name in compiled.bind_names.items():
            process = parameter.type.dialect_impl(dialect).bind_processor(dialect)
            if process is not None:
                self._processors.append((name, process))

    def parameters(self, values: Mapping[str, object]) -> dict[str, object] | list[object]:
        row = {**self._fixed, **values}
        for name, process in self._processors:
            row[name] = process(row[name])
        return row if self._order is None else [row[name] for name in self._order]


class Statement:
    """A statement with named parameters. Those of an insert are its columns, which are named here."""

    def __init__(self, statement: ClauseElement, columns: Sequence[str] = ()) -> None:
        self._statement = statement
        self._columns = columns
        self._compiled: dict[str, _Compiled] = {}

    def fetch(self, connection: Connection, values: Mapping[str, object] | None = None) -> list[Row]:
        """Run it in the transaction of this connection; all rows."""
        cursor = self.begin(connection, values or {})
        found: list[Row] = cursor.fetchall()
        cursor.close()
        return found

    def begin(self, connection: Connection, values: Mapping[str, object]) -> Any:
        """Run it; the driver's cursor, whose rows are to be fetched."""
        compiled = self._for(connection)
        cursor: Any = connection.connection.cursor()
        cursor.execute(compiled.sql, compiled.parameters(values))
        return cursor

    def asked(self, **values: object) -> list[Asked]:
        """For `fetch_together`."""
        return [(self, values)]

    def run(self, connection: Connection, rows: Sequence[Mapping[str, object]]) -> None:
        """Run it with each of these parameters."""
        if rows:
            compiled = self._for(connection)
            cursor: Any = connection.connection.cursor()
            if len(rows) == 1:
                cursor.execute(compiled.sql, compiled.parameters(rows[0]))
            else:
                cursor.executemany(compiled.sql, [compiled.parameters(row) for row in rows])
            cursor.close()

    def _for(self, connection: Connection) -> _Compiled:
        dialect = connection.dialect
        compiled = self._compiled.get(dialect.name)
        if compiled is None:
            compiled = self._compiled[dialect.name] = _Compiled(self._statement, self._columns, dialect)
        return compiled


Asked = tuple[Statement, Mapping[str, object]]
"""A query and its parameters."""


class Rows:
    """Many rows of a table, inserted or changed. PostgreSQL gets them as one statement with an array a column."""

    def __init__(self, table: Table, columns: Sequence[str], *, key: str | None = None, **fixed: object) -> None:
        """columns: of each row. key: the column by which a row is found and changed, `of_…` of its parameters; None:
        inserts. fixed: columns that get the same value in each changed row.
        """
        self._key = key
        names: dict[str, object] = {name: bindparam(name) for name in columns}
        if key is None:
            self._one = Statement(insert(table), columns)
        else:
            found = table.c[key] == bindparam(f"of_{key}")
            self._one = Statement(update(table).where(found).values(names | fixed))
        self._table, self._columns, self._fixed = table, columns, fixed
        self._many: _Arrays | None = None

    def run(self, connection: Connection, rows: Sequence[Mapping[str, object]]) -> None:
        if len(rows) < 2 or connection.dialect.name != "postgresql":
            self._one.run(connection, rows)
            return
        if self._many is None:
            self._many = _Arrays(self._table, self._columns, self._key, self._fixed, connection.dialect)
        cursor: Any = connection.connection.cursor()
        cursor.execute(self._many.sql, self._many.parameters(rows))
        cursor.close()


class _Arrays:
    """Rows as a statement of PostgreSQL with an array for each column."""

    def __init__(
        self, table: Table, columns: Sequence[str], key: str | None, fixed: Mapping[str, object], dialect: Dialect
    ) -> None:
        quote = dialect.identifier_preparer.quote
        taken = [(name, name) for name in columns] if key is None else [(f"of_{key}", key), *((c, c) for c in columns)]
        kinds = [(name, table.c[column].type.dialect_impl(dialect)) for name, column in taken]
        self._processors = [(name, _processor(kind, dialect)) for name, kind in kinds]
        arrays = ", ".join(_array(kind, dialect) for _, kind in kinds)
        names = ", ".join(quote(name) for name, _ in taken)
        into, given = quote(table.name), f"unnest({arrays}) AS given({names})"
        if key is None:
            self.sql = f"INSERT INTO {into} ({names}) SELECT * FROM {given}"
            return
        changes = [f"{quote(name)} = given.{quote(name)}" for name in columns]
        changes += [f"{quote(name)} = {_literal(value)}" for name, value in fixed.items()]
        self.sql = f"UPDATE {into} SET {', '.join(changes)} FROM {given} WHERE {into}.{quote(key)} = given.of_{key}"

    def parameters(self, rows: Sequence[Mapping[str, object]]) -> list[list[object]]:
        return [
            [row[name] if process is None else process(row[name]) for row in rows] for name, process in self._processors
        ]


def _array(kind: TypeEngine[Any], dialect: Dialect) -> str:
    """A parameter that is an array of this type, sent in binary."""
    return "%b::text[]::json[]" if isinstance(kind, JSON) else f"%b::{kind.compile(dialect)}[]"


def _processor(kind: TypeEngine[Any], dialect: Dialect) -> Callable[[Any], object] | None:
    """What makes an element of such an array; None: nothing need be done."""
    if isinstance(kind, JSON):
        return json.dumps
    return None if isinstance(kind, LargeBinary) else kind.bind_processor(dialect)


def _literal(value: object) -> str:
    """One of this package's own constants."""
    return "NULL" if value is None else f"'{value}'"


class Lookup:
    """A query for the rows in which a column has one of many values. Few numbers of values are compiled."""

    def __init__(self, query: Select[Any], column: ColumnElement[Any]) -> None:
        self._query = query
        self._column = column
        self._statements: dict[int, Statement] = {}

    def fetch(self, connection: Connection, values: Sequence[object]) -> list[Row]:
        return [row for statement, named in self.asked(values) for row in statement.fetch(connection, named)]

    def asked(self, values: Sequence[object]) -> list[Asked]:
        """For `fetch_together`."""
        asked: list[Asked] = []
        for start in range(0, len(values), MAX_LOOKUP):
            part = values[start : start + MAX_LOOKUP]
            size = 1 << (len(part) - 1).bit_length()
            asked.append((self._of_size(size), {f"value{n}": part[min(n, len(part) - 1)] for n in range(size)}))
        return asked

    def _of_size(self, size: int) -> Statement:
        statement = self._statements.get(size)
        if statement is None:
            values = [bindparam(f"value{n}", type_=self._column.type) for n in range(size)]
            statement = self._statements[size] = Statement(self._query.where(self._column.in_(values)))
        return statement


def fetch_together(connection: Connection, *groups: Sequence[Asked]) -> list[list[Row]]:
    """The rows of each group of queries, which PostgreSQL is sent without waiting for each other's."""
    with pipelined(connection):
        cursors = [[statement.begin(connection, values) for statement, values in group] for group in groups]
        return [[row for cursor in group for row in cursor.fetchall()] for group in cursors]


def pipelined(connection: Connection) -> AbstractContextManager[object]:
    """Statements inside are sent to PostgreSQL without waiting for each other's results. Only for this file's own."""
    if connection.dialect.name != "postgresql":
        return nullcontext()
    driver: Any = connection.connection.driver_connection
    pipeline: AbstractContextManager[object] = driver.pipeline()
    return pipeline
