"""Lists of files in the order of an index, so that a page takes as long in a large folder as in a small one.

They ask SQLite, so they belong in a worker thread. A folder is given by its clean path, '' for the root.
"""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, func, literal_column, select, text, tuple_

from canister.store.cache_paths import CACHE_FOLDER
from canister.store.index import FileInfo
from canister.store.statements import Prepared
from canister.store.tables import AREA, IN_AREA, IS_CACHE, IS_MODEL, PARENT, files

ALL = -1
"""As a number of rows: no limit."""

_c = files.c
_INSIDE = Prepared(
    select(files)
    .where(literal_column(PARENT) == bindparam("parent"), _c.id > bindparam("after"))
    .order_by(_c.id)
    .limit(bindparam("n_most"))
)
_of_area = (text(IN_AREA), literal_column(AREA) == bindparam("area"))
_NEWEST = Prepared(
    select(files)
    .where(*_of_area, tuple_(_c.modified_ns, _c.id) < tuple_(bindparam("before_ns"), bindparam("before_id")))
    .order_by(_c.modified_ns.desc(), _c.id.desc())
    .limit(bindparam("n_most"))
)
_NEWEST_BELOW = Prepared(
    select(_c.path)
    .where(_c.path.between(bindparam("first"), bindparam("end")), text(IN_AREA))
    .order_by(_c.modified_ns.desc())
    .limit(bindparam("n_most"))
)
_TOTAL = Prepared(select(func.count(), func.coalesce(func.sum(_c.size), 0)).where(*_of_area))
_OLDEST_CACHES = Prepared(
    select(_c.modified_ns, _c.path)
    .where(text(IS_CACHE), literal_column(AREA) != bindparam("but_of"))
    .order_by(_c.modified_ns)
    .limit(bindparam("n_most"))
)
_CACHES_BEHIND = Prepared(
    select(_c.path, _c.modified_ns)
    .where(_c.path > bindparam("path"), _c.path < f"{CACHE_FOLDER}0")
    .order_by(_c.path)
    .limit(bindparam("n_most"))
)
_MODELS = Prepared(select(files).where(text(IS_MODEL)).order_by(_c.id))

LATEST = (1 << 63) - 1, (1 << 63) - 1
"""As a place in a list of the newest: before its first one."""


def inside(connection: Connection, folder: str, after: int = 0, n_most: int = ALL) -> list[FileInfo]:
    """What lies directly in a folder, in the order of creation. after: behind the one of this id."""
    rows = _INSIDE.run(connection, {"parent": folder and f"{folder}/", "after": after, "n_most": n_most})
    return [FileInfo(*row) for row in rows]


def newest(
    connection: Connection, caller: str, area: str, before: tuple[int, int] = LATEST, n_most: int = ALL
) -> list[FileInfo]:
    """The files of a caller in this area, sidecars apart, the one written last first. before: written before that
    place, a time of writing and an id.
    """
    values = {"area": f"{caller}/{area}/", "before_ns": before[0], "before_id": before[1], "n_most": n_most}
    return [FileInfo(*row) for row in _NEWEST.run(connection, values)]


def newest_below(connection: Connection, folder: str, n_most: int) -> list[str]:
    """Paths of the files below a folder, sidecars apart, the one written last first; looks at all of them."""
    values = {"first": f"{folder}/", "end": f"{folder}0", "n_most": n_most}
    return [path for (path,) in _NEWEST_BELOW.run(connection, values)]


def total(connection: Connection, caller: str, area: str) -> tuple[int, int]:
    """How many files of a caller are in this area, sidecars apart, and their bytes."""
    n_files, n_bytes = _TOTAL.run(connection, {"area": f"{caller}/{area}/"}).fetchone()
    return n_files, n_bytes


def oldest_caches(connection: Connection, n_most: int, but_of: str = "") -> list[tuple[int, str]]:
    """The prompt caches of all callers, but those of one: times of writing and paths, the one written first first."""
    return _OLDEST_CACHES.run(connection, {"n_most": n_most, "but_of": but_of}).fetchall()


def behind(connection: Connection, path: str, n_most: int) -> list[tuple[str, int]]:
    """The next files of callers in the order of paths: paths, and times of writing."""
    return _CACHES_BEHIND.run(connection, {"path": path, "n_most": n_most}).fetchall()


def models(connection: Connection) -> list[FileInfo]:
    """Files that are named as models, in the order of creation."""
    return [FileInfo(*row) for row in _MODELS.run(connection)]
