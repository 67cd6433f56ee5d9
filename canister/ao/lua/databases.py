"""SQL databases of a program: in its cage's memory alone, bounded in size and in steps, with no way to a file.

Not the project's own SQL: the statements are the program's, and what they make dies with the cage.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from canister.ao.lua.sandbox import HostError, NotKept
from canister.ao.lua.values import Value

Bound = str | bytes | int | float | None

MAX_DATABASES = 8
MAX_PAGES = 2048  # of 4 KiB
MAX_STEPS = 2_000_000  # of SQLite's machine, a call
MAX_ROWS = 20_000
_STEP = 1000
_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 4 << 20,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 256 << 10,
    sqlite3.SQLITE_LIMIT_COLUMN: 200,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 100,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 20,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 100_000,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 50,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 200,
    sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER: 500,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 10,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
_DENIED = {sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH, sqlite3.SQLITE_PRAGMA}
# What would differ from run to run, or leads out.
_CLOCK = ("date", "time", "datetime", "julianday", "unixepoch", "strftime")
_NO_FUNCTIONS = ("load_extension", "random", "randomblob", "sqlite_source_id", "readfile", "writefile", "edit")


class Databases:
    """Of one program. now_ms: the time that it sees, so that it sees the same one when it is run again."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._open: dict[int, _Kept] = {}
        self._steps = 0

    def ask(self, word: Value, handle: Value, *given: Value) -> Value:
        """A table: `code`, 0 for success, with `message`, or with what was found."""
        try:
            match word:
                case b"open":
                    return {b"code": 0, b"handle": self._opened()}
                case b"close":
                    if isinstance(handle, int) and (kept := self._open.pop(handle, None)):
                        kept.connection.close()
                    return {b"code": 0}
                case b"check":
                    return self._checked(self._of(handle), _text(given[0]))
                case b"exec":
                    return self._run(self._of(handle), _statements(_text(given[0])), (), bool(given[1]))
                case b"run":
                    return self._run(self._of(handle), iter([_text(given[0])]), _values(given[1]), True)
        except (sqlite3.Error, sqlite3.Warning, OverflowError, ValueError) as error:
            code = getattr(error, "sqlite_errorcode", 1) & 0xFF
            return {b"code": code, b"message": str(error).encode(errors="replace")[:500]}
        raise HostError("no such operation")

    @staticmethod
    def is_complete(text: Value) -> Value:
        return sqlite3.complete_statement(_text(text))

    @staticmethod
    def version() -> Value:
        return sqlite3.sqlite_version.encode()

    # -- snapshots

    def save(self) -> Value:
        """All databases. Raises NotKept for one in a transaction, or with temporary tables."""
        return [_saved(handle, kept) for handle, kept in sorted(self._open.items())]

    def restore(self, value: Value) -> None:
        """Raises NotKept."""
        for each in value if isinstance(value, list) else []:
            match each:
                case [int(handle), bytes(data), int(n_changes), int(rowid)]:
                    try:
                        self._open[handle] = self._connected(data, n_changes, rowid)
                    except sqlite3.Error as error:
                        raise NotKept(f"a database does not come back: {error}") from None
                case _:
                    raise NotKept("a database is damaged")

    def _opened(self) -> int:
        if len(self._open) >= MAX_DATABASES:
            raise sqlite3.OperationalError(f"a program has at most {MAX_DATABASES} databases")
        handle = next(number for number in range(1, MAX_DATABASES + 1) if number not in self._open)
        self._open[handle] = self._connected()
        return handle

    def _connected(self, data: bytes = b"", n_changes: int = 0, rowid: int = 0) -> _Kept:
        """data: of a database that was saved. n_changes, rowid: what had changed in it before, and the last new row."""
        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False, cached_statements=0)
        if data:
            connection.deserialize(data)
        connection.execute(f"PRAGMA max_page_count = {MAX_PAGES}")
        connection.execute("PRAGMA temp_store = MEMORY")
        if rowid:
            connection.execute("CREATE TEMP TABLE last_row (id INTEGER PRIMARY KEY)")
            connection.execute("INSERT INTO last_row VALUES (?)", (rowid,))
            connection.execute("DROP TABLE last_row")
        for limit, most in _LIMITS.items():
            connection.setlimit(limit, most)
        clock = _Clock(self._now_ms)
        for name in _CLOCK:
            connection.create_function(name, -1, partial(clock.told, name))
        for name, told in (("current_date", "date"), ("current_time", "time"), ("current_timestamp", "datetime")):
            connection.create_function(name, 0, partial(clock.told, told))
        kept = _Kept(connection, n_changes - connection.total_changes)
        connection.create_function("total_changes", 0, lambda: kept.n_changes)
        connection.set_authorizer(_authorized)
        connection.set_progress_handler(self._stepped, _STEP)
        connection.text_factory = bytes
        return kept

    def _stepped(self) -> int:
        self._steps += _STEP
        return self._steps > MAX_STEPS

    def _of(self, handle: Value) -> _Kept:
        kept = self._open.get(handle) if isinstance(handle, int) else None
        if kept is None:
            raise sqlite3.ProgrammingError("the database is closed")
        return kept

    def _checked(self, kept: _Kept, text: str) -> Value:
        """The statement's columns and parameters; it is not run."""
        self._steps = 0
        connection = kept.connection
        labels = _labels(text)
        cursor = connection.execute(f"EXPLAIN {text}", [None] * len(labels))
        cursor.close()
        names = _columns(connection, text, len(labels))
        shown: list[Value] = list(labels)
        return {b"code": 0, b"names": names, b"n": len(names), b"parameters": len(labels), b"labels": shown}

    def _run(
        self,
        kept: _Kept,
        statements: Iterator[str],
        values: Sequence[Bound],
        wants_rows: bool,
    ) -> Value:
        self._steps = 0
        sets: list[Value] = []
        before = kept.n_changes
        cursor = kept.connection.cursor()
        for text in statements:
            n = len(_labels(text))
            bound = [values[i] if i < len(values) else None for i in range(n)]
            cursor.execute(text, bound)
            if cursor.description is None:
                continue
            rows = cursor.fetchmany(MAX_ROWS + 1)
            if len(rows) > MAX_ROWS:
                cursor.close()
                raise sqlite3.OperationalError(f"the statement gives more than {MAX_ROWS} rows")
            if wants_rows:
                names: list[Value] = [column[0].encode() for column in cursor.description]
                shown: list[Value] = [dict(enumerate(row, 1)) for row in rows]
                sets.append({b"names": names, b"n": len(names), b"rows": shown, b"n_rows": len(shown)})
        total = kept.n_changes
        last = cursor.lastrowid or 0
        return {b"code": 0, b"sets": sets, b"changes": total - before, b"total": total, b"rowid": last}


@dataclass(frozen=True, slots=True)
class _Kept:
    """n_before: what had changed before the connection was made, so that a snapshot changes no count."""

    connection: sqlite3.Connection
    n_before: int

    @property
    def n_changes(self) -> int:
        return self.n_before + self.connection.total_changes


def _saved(handle: int, kept: _Kept) -> Value:
    connection = kept.connection
    if not hasattr(connection, "serialize"):
        raise NotKept("the SQLite of this Python cannot write databases down")
    if connection.in_transaction:
        raise NotKept("a database is in a transaction")
    n_changes = kept.n_changes
    connection.set_authorizer(None)
    try:
        if connection.execute("SELECT 1 FROM sqlite_temp_master").fetchone():
            raise NotKept("a database has temporary tables")
        (rowid,) = connection.execute("SELECT last_insert_rowid()").fetchone()
        return [handle, connection.serialize(), n_changes, rowid]
    except sqlite3.Error as error:
        raise NotKept(f"a database cannot be kept: {error}") from None
    finally:
        connection.set_authorizer(_authorized)


class _Clock:
    """SQLite's functions of time, with the program's time for now."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._real = sqlite3.connect(":memory:", check_same_thread=False)

    def told(self, name: str, *given: Bound) -> Bound:
        first = list(given[:1]) if name == "strftime" else []
        rest = list(given[len(first) :])
        if not rest or (isinstance(rest[0], str | bytes) and rest[0] in ("now", b"now")):
            rest = [self._now_ms() / 1000, "unixepoch", *rest[1:]]
        marks = ", ".join("?" * (len(first) + len(rest)))
        found: Bound = self._real.execute(f"SELECT {name}({marks})", [*first, *rest]).fetchone()[0]
        return found


def _authorized(action: int, first: str | None, second: str | None, _where: str | None, _by: str | None) -> int:
    if action in _DENIED:
        return sqlite3.SQLITE_DENY
    if action == sqlite3.SQLITE_FUNCTION and second is not None and second.lower() in _NO_FUNCTIONS:
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK


def _columns(connection: sqlite3.Connection, text: str, n_parameters: int) -> list[Value]:
    """Without running it: a view of no rows tells them, which only a query can be."""
    if not text.lstrip().lower().startswith(("select", "with", "values")):
        return []
    inner = text.strip().rstrip(";")
    try:
        cursor = connection.execute(f"SELECT * FROM ({inner}) LIMIT 0", [None] * n_parameters)
    except sqlite3.Error:
        return []
    return [column[0].encode() for column in cursor.description or ()]


def _labels(text: str) -> list[bytes]:
    """Of each parameter its name, or its place, in the order in which values are bound."""
    found: list[bytes] = []
    at, n = 0, len(text)
    while at < n:
        c = text[at]
        if c in "'\"`" or c == "[":
            end = text.find("]" if c == "[" else c, at + 1)
            at = n if end < 0 else end + 1
        elif text.startswith("--", at):
            end = text.find("\n", at)
            at = n if end < 0 else end
        elif text.startswith("/*", at):
            end = text.find("*/", at + 2)
            at = n if end < 0 else end + 2
        elif c in "?:@$":
            end = at + 1
            while end < n and (text[end].isalnum() or text[end] == "_"):
                end += 1
            name = text[at + 1 : end].encode()
            if c == "?":
                place = int(name) if name.isdigit() else len(found) + 1
                if place > _LIMITS[sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER]:
                    raise sqlite3.OperationalError("too many parameters")
                while len(found) < place:
                    found.append(b"%d" % (len(found) + 1))
            elif name and name not in found:
                found.append(name)
            at = end
        else:
            at += 1
    return found


def _statements(text: str) -> Iterator[str]:
    """Each statement of a text."""
    begin, at = 0, 0
    while True:
        at = text.find(";", at)
        if at < 0:
            break
        at += 1
        if sqlite3.complete_statement(text[begin:at]):
            yield text[begin:at]
            begin = at
    if text[begin:].strip():
        yield text[begin:]


def _values(given: Value) -> list[Bound]:
    """Of parameters; those that are nil have no key."""
    if isinstance(given, bytes) or not isinstance(given, Sequence | Mapping):
        return []
    if isinstance(given, Mapping):
        places = [key for key in given if isinstance(key, int)]
        most = max(places, default=0)
        if not 0 <= most <= _LIMITS[sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER]:
            raise sqlite3.OperationalError("too many parameters")
        return [_bound(given.get(i)) for i in range(1, most + 1)]
    return [_bound(value) for value in given]


def _bound(value: Value) -> Bound:
    """Texts are texts where they are UTF-8, as programs mean them."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    return value if value is None or isinstance(value, int | float) else None


def _text(value: Value) -> str:
    if not isinstance(value, bytes):
        raise HostError("SQL is a text")
    return value.decode("utf-8", "replace")
