"""How much of stable memory there is for all, and for the prompt caches of one caller. Checked before each commit.

Calls that commit at the same moment are checked against the same state, so they may pass a limit by what they add.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from canister.config import CanisterSettings
from canister.errors import StorageFull
from canister.store.cache_paths import CACHE_FOLDER
from canister.store.index import FolderUsage

if TYPE_CHECKING:
    from canister.store.stable import StableMemory


def check(
    stable: StableMemory, growth: Mapping[str, FolderUsage], settings: CanisterSettings, n_answer_bytes: int = 0
) -> None:
    """Raises StorageFull when a transaction would pass a limit. growth: what it adds, by path; may be negative.

    n_answer_bytes: of kept answers, which lie beside the files.
    """
    if not growth:
        return
    used = stable.usage("")
    whole = _sum(growth.values())
    _check_one("stable memory has", used.n_bytes + n_answer_bytes, whole.n_bytes, "bytes", "max_stable_bytes", settings)
    _check_one("stable memory has", used.n_entries, whole.n_entries, "files", "max_files", settings)
    owners: dict[str, list[FolderUsage]] = {}
    for path, one in growth.items():
        parts = path.split("/", 2)
        if parts[0] == CACHE_FOLDER and len(parts) == 3:
            owners.setdefault(f"{CACHE_FOLDER}/{parts[1]}", []).append(one)
    for folder, parts_of_owner in owners.items():
        used, more = stable.usage(folder), _sum(parts_of_owner)
        what = "the prompt caches of this caller have"
        _check_one(what, used.n_bytes, more.n_bytes, "bytes", "max_cache_bytes_per_caller", settings)
        _check_one(what, used.n_entries, more.n_entries, "files", "max_cache_files_per_caller", settings)


def _sum(parts: Iterable[FolderUsage]) -> FolderUsage:
    n_entries = n_bytes = 0
    for part in parts:
        n_entries += part.n_entries
        n_bytes += part.n_bytes
    return FolderUsage(n_entries, n_bytes)


def _check_one(what: str, n_used: int, n_more: int, unit: str, setting: str, settings: CanisterSettings) -> None:
    limit: int = getattr(settings, setting)
    if n_more > 0 and n_used + n_more > limit:
        raise StorageFull(
            f"{what} {n_used} {unit} and the call would add {n_more}, over the limit ({setting} = {limit}); "
            "remove some files or caches, then try again"
        )


def check_answer(stable: StableMemory, n_answer_bytes: int, n_more: int, settings: CanisterSettings) -> None:
    """Raises StorageFull when one more answer of so many bytes would not be kept for lack of room."""
    n_used = stable.usage("").n_bytes + n_answer_bytes
    _check_one("stable memory has", n_used, n_more, "bytes", "max_stable_bytes", settings)
