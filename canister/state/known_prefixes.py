"""Which prompt caches of a caller begin with which tokens, for finding the one that a prompt continues.

Memory only, and bounded: it knows the caches that were read or written last, of all callers together. Nobody relies on
it; whoever is told of a cache reads it. Caches from before the start, and files changed otherwise than by a run, are
read when one is asked for.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from canister.engine.kv.prefix_tree import PrefixTree, Symbols
from canister.store.cache_paths import sessions_folder

MAX_BYTES = 64 << 20
MAX_UNREAD = 64  # caches of a folder; the last changed ones
MAX_WAITING = 64  # caches that were written and are not in a tree yet
_BYTES_EACH = 1024  # of a cache, beside its symbols


@dataclass(slots=True)
class _Folder:
    """unread: paths of caches to be read. is_listed: they include those from before the start, or those were read."""

    tree: PrefixTree[str] = field(default_factory=PrefixTree)
    unread: OrderedDict[str, None] = field(default_factory=OrderedDict)
    is_listed: bool = False


class KnownPrefixes:
    """Known caches by folder. Any thread may use it."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._n_bytes = 0
        self._folders: dict[str, _Folder] = {}
        self._sizes: OrderedDict[str, int] = OrderedDict()  # by path, least recently added first
        self._waiting: dict[str, Callable[[], Symbols]] = {}  # by path; put into the trees when one is asked
        self._lock = threading.Lock()

    def __contains__(self, path: str) -> bool:
        return path in self._sizes or path in self._waiting

    @property
    def n_bytes(self) -> int:
        """About how many bytes it takes."""
        with self._lock:
            self._add_waiting()
            return self._n_bytes

    def has_unread(self, folder: str) -> bool:
        """Would `take_unread` have something to list or to return?"""
        known = self._folders.get(folder)
        return known is None or not known.is_listed or bool(known.unread)

    def take_unread(self, folder: str, list_newest: Callable[[], Iterable[str]]) -> list[str]:
        """The caches that nobody has read yet. Whoever takes them reads them, and adds what they hold.

        list_newest: lists the most recently written caches, when a folder is asked for the first time.
        """
        known = self._folders.get(folder)
        newest = [] if known is not None and known.is_listed else [*list_newest()]
        with self._lock:
            self._add_waiting()
            known = self._folders.setdefault(folder, _Folder())
            known.is_listed = True
            unread = [path for path in dict.fromkeys([*newest, *known.unread]) if path not in self._sizes]
            known.unread.clear()
        return unread

    def longest(self, folder: str, wanted: Symbols) -> tuple[int, str | None]:
        """The largest number of leading symbols that agree with a cache of this folder, and that cache's path."""
        with self._lock:
            self._add_waiting()
            known = self._folders.get(folder)
            return (known.tree.longest(wanted) if known is not None else None) or (0, None)

    def add(self, path: str, symbols: Symbols) -> None:
        """A cache was read or written, and begins like this. Replaces what was known of it."""
        with self._lock:
            self._add_waiting()
            self._add(path, symbols)

    def add_later(self, path: str, symbols: Callable[[], Symbols]) -> None:
        """As `add`, when it is asked for, since most calls on a cache ask for no other one."""
        if sessions_folder(path) is None:
            return
        with self._lock:
            self._waiting.pop(path, None)
            self._waiting[path] = symbols
            if len(self._waiting) > MAX_WAITING:
                self._add_waiting()

    def discard(self, path: str) -> None:
        """Forget this cache, since it is of no use."""
        with self._lock:
            self._forget(path)

    def changed(self, path: str, *, is_there: bool) -> None:
        """A file changed in an unknown way, or is gone."""
        folder = sessions_folder(path)
        if folder is None:
            return
        with self._lock:
            self._forget(path)
            known = self._folders.setdefault(folder, _Folder())
            known.unread.pop(path, None)
            if is_there:
                known.unread[path] = None
                if len(known.unread) > MAX_UNREAD:
                    known.unread.popitem(last=False)

    def clear(self) -> None:
        with self._lock:
            self._folders.clear()
            self._waiting.clear()
            self._sizes.clear()
            self._n_bytes = 0

    def _add_waiting(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for path, symbols in waiting.items():
            self._add(path, symbols())

    def _add(self, path: str, symbols: Symbols) -> None:
        folder = sessions_folder(path)
        if folder is None:
            return
        n_bytes = symbols.nbytes + _BYTES_EACH
        self._forget(path)
        known = self._folders.setdefault(folder, _Folder())
        known.unread.pop(path, None)
        known.tree.add(path, symbols)
        self._sizes[path] = n_bytes
        self._n_bytes += n_bytes
        while self._n_bytes > self._max_bytes:
            folder = self._forget(next(iter(self._sizes)))
            if folder is not None and not len(self._folders[folder].tree):
                del self._folders[folder]  # to be listed again when somebody asks

    def _forget(self, path: str) -> str | None:
        """Forget a cache. Returns its folder, or None when it was not known."""
        self._waiting.pop(path, None)
        n_bytes = self._sizes.pop(path, None)
        folder = sessions_folder(path)
        if n_bytes is None or folder is None:
            return None
        self._n_bytes -= n_bytes
        self._folders[folder].tree.discard(path)
        return folder
