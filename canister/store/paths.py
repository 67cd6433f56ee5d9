"""Logical paths: how a file in stable memory is named. Pure; touches no disk.

A path is relative, its parts parted by `/`, case-sensitive, and the same bytes on the disk. (On a file system that
ignores case, two names that differ only in case would be one file there: keep the data folder on one that does not.)
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from canister.errors import BadRequest

MAX_PART_BYTES = 255
MAX_PATH_BYTES = 1024


def clean_path(path: str) -> str:
    """The one spelling of `path`: `./a//b/` becomes `a/b`. Raises BadRequest, which names the path and the way out."""
    if len(path) > MAX_PATH_BYTES:
        raise BadRequest(f"path {path[:80]!r}… has more than {MAX_PATH_BYTES} bytes; shorten it")
    return _clean(path)


@lru_cache(maxsize=4096)
def _clean(path: str) -> str:
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/"):
        raise BadRequest(f"path {path!r} is absolute; give it relative to the canister's root, without the first '/'")
    if not parts:
        raise BadRequest(f"path {path!r} names no file; give a name such as 'models/model.gguf'")
    if ".." in parts:
        raise BadRequest(f"path {path!r} contains '..'; write out the path from the canister's root")
    if "\\" in path:
        raise BadRequest(f"path {path!r} contains a backslash; put '/' between folders")
    is_plain = path.isascii() and path.isprintable()  # as nearly all are: it saves looking at each character
    if not is_plain and any(unicodedata.category(character) in ("Cc", "Cs") for character in path):
        raise BadRequest(f"path {path!r} contains a control character or half a surrogate pair; leave it out")
    if any(len(part.encode()) > MAX_PART_BYTES for part in parts):
        raise BadRequest(f"path {path!r} has a name of more than {MAX_PART_BYTES} bytes; shorten it")
    clean = "/".join(parts)
    if len(clean.encode()) > MAX_PATH_BYTES:
        raise BadRequest(f"path {path[:80]!r}… has more than {MAX_PATH_BYTES} bytes; shorten it")
    return clean


def clean_file_path(path: str) -> str:
    """As clean_path, for a file that is to be written: `a/` and `a/.` name a folder and are refused."""
    clean = clean_path(path)
    if names_folder(path):
        raise BadRequest(f"path {path!r} names a folder, but a file is to be written; use {clean!r}")
    return clean


def clean_folder(path: str) -> str:
    """As clean_path, and the root may be named too: `''`, `.` and `./` become `''`."""
    if not path.startswith("/") and all(part in ("", ".") for part in path.split("/")):
        return ""
    return clean_path(path)


def names_folder(path: str) -> bool:
    """Can `path` only mean a folder?"""
    return path.endswith(("/", "/.")) or path == "."


def parent_of(path: str) -> str:
    """The folder that a clean path lies in; `''` is the root."""
    return path.rpartition("/")[0]


def name_of(path: str) -> str:
    """The last part of a clean path."""
    return path.rpartition("/")[2]


def ancestors_of(path: str) -> list[str]:
    """The folders above a clean path, outermost first, without the root: `a/b/c` gives `['a', 'a/b']`."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[: depth + 1]) for depth in range(len(parts))]
