"""The prompt caches of a canister as open containers: read once, kept in memory, changed by committed calls only.

A container's index is remembered with the file that it was read from, so a call on a long chat reads nothing. A file
that changed otherwise is read again. `known_prefixes.py` finds the container that begins most like a prompt.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from canister.engine.kv.prefix_tree import symbols
from canister.engine.request import KvSegment, are_tokens, n_common
from canister.errors import CanisterError, StoreDamaged
from canister.state.known_prefixes import KnownPrefixes
from canister.state.unit_of_work import UnitOfWork
from canister.store import listings
from canister.store.cache_paths import CACHE_FOLDER, SESSIONS, SIDECAR, sessions_folder
from canister.store.container import BlockReader, CacheFile, CacheHeader
from canister.store.heads import n_same, tokens_alone
from canister.store.stable import FileInfo, StableMemory

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from canister.engine.engine import EngineInfo
    from canister.engine.kv.rows import Take
    from canister.engine.request import Flags, Tokens

MAX_OPEN = 1024  # containers whose index is kept in memory; a few KB each
MAX_READ = 64  # containers from before the start that are read when a prompt is looked up in their folder
MAX_TRIED = 8  # useless containers after which a look-up gives up
MAX_LOOKED_AT = 1024  # paths at which one clean-up looks for sidecars without their caches
MIN_WASTE_BYTES = 1 << 20  # with less waste a container is not written anew


@dataclass(frozen=True, slots=True)
class OpenCache:
    """A container and the committed file that it was read from."""

    info: FileInfo
    container: CacheFile

    def segments(self, n_tokens: int, read: BlockReader | None = None) -> list[KvSegment]:
        """Sound KV rows of the first n_tokens tokens, up to the first gap. read: reads instead of the container's
        reader.
        """
        found = self.container.segments(n_tokens, read)
        return [KvSegment(segment.first, segment.n_live, segment.kv) for segment in found]

    def fits(self, model: EngineInfo) -> bool:
        """Do the KV rows fit the model's context?"""
        return bool(model.kv_layout) and self.container.header.kv_layout == model.kv_layout

    @property
    def can_grow(self) -> bool:
        """May a record be appended, or should the container be written anew?"""
        container = self.container
        return container.is_whole and not (container.wants_compaction and container.waste_bytes > MIN_WASTE_BYTES)


@dataclass(frozen=True, slots=True)
class Contents:
    """The future contents of a container: all tokens, or those that are added, with their marks.

    generated: which were generated. starts: with which prompt tokens a decode began. redrawn: which of the generated
    ones were drawn twice. rows: the KV rows of the tokens from rows_first on.
    """

    tokens: Tokens
    generated: Flags
    starts: Flags
    redrawn: Flags
    rows: bytes
    rows_first: int

    def added_to(self, container: CacheFile, keep: int, end: int | None, rows: bytes) -> tuple[CacheFile, bytes]:
        """The container rolled back to `keep` tokens, with those up to `end` behind them; the bytes to append."""
        at = slice(keep, end)
        return container.extended(keep, self.tokens[at], self.generated[at], rows, self.starts[at], self.redrawn[at])


class Caches:
    """Containers by path."""

    def __init__(self, stable: StableMemory) -> None:
        self._stable = stable
        self._open: OrderedDict[str, OpenCache] = OrderedDict()
        self._prefixes = KnownPrefixes()
        self._lock = threading.Lock()  # containers are read in worker threads too
        self._looked_at = f"{CACHE_FOLDER}/"  # how far lone sidecars were looked for

        self.sidecars: dict[str, tuple[FileInfo, bytes]] = {}
        """Contents of sidecar files as last read; for the event loop's thread."""

    def is_open(self, info: FileInfo) -> bool:
        """Is the container in this file at hand, so that `open` reads nothing?"""
        known = self._open.get(info.path)
        return known is not None and known.info == info

    def open(self, info: FileInfo, model: EngineInfo) -> OpenCache | None:
        """The container in this file. None when it is unsound, or was not written with this very model."""
        known = self.opened(info)
        if known is None:
            return None
        tokens = known.container.tokens
        if known.container.header.model_sha256 != model.model_id:
            return None
        if not are_tokens(tokens, model.n_vocab):
            return None  # an uploaded container may claim anything
        if known.info.path not in self._prefixes:
            self._prefixes.add(known.info.path, symbols(tokens, known.container.generated))
        return known

    def opened(self, info: FileInfo) -> OpenCache | None:
        """The container in this file, whichever model it is of. None when it is unsound."""
        known = self._open.get(info.path)
        if known is None or known.info != info:
            try:
                container = CacheFile.parse(self._reader(info.path), info.size)
            except StoreDamaged:
                return None
            known = OpenCache(info, container)
        self._keep(known)
        return known

    def oldest(self, n_most: int, *, but_of: str = "") -> list[str]:
        """The paths of all callers' caches that were written longest ago; a sidecar only without its cache.

        but_of: a caller whose caches are left out. In a worker thread. Sidecars are looked for among so many paths each
        time, the next ones the next time, so that all of it takes as long with many caches as with few.
        """
        with self._stable.database.read() as connection:
            found = listings.oldest_caches(connection, n_most, but_of and f"{but_of}/{SESSIONS}/")
            found += self._lone_sidecars(connection)
        return [path for _, path in sorted(found)[:n_most]]

    def _lone_sidecars(self, connection: Connection) -> list[tuple[int, str]]:
        """When they were written, and their paths."""
        start, after = f"{CACHE_FOLDER}/", self._looked_at
        paths = listings.behind(connection, after, MAX_LOOKED_AT)
        if len(paths) < MAX_LOOKED_AT:
            again = listings.behind(connection, start, MAX_LOOKED_AT - len(paths))
            self._looked_at = again[-1][0] if again else start
            paths += [row for row in again if row[0] <= after]
        else:
            self._looked_at = paths[-1][0]
        return [
            (modified_ns, path)
            for path, modified_ns in paths
            if path.endswith(SIDECAR)
            and sessions_folder(path.removesuffix(SIDECAR)) is not None
            and self._stable.stat(path.removesuffix(SIDECAR)) is None
        ]

    def _newest(self, folder: str) -> list[str]:
        """The caches in a caller's folder that were written last, the newest first. In a worker thread."""
        _, caller, area = folder.split("/")
        return [file.path for file in self._stable.newest_of(caller, area, n_most=MAX_READ)]

    def may_have(self, folder: str, tokens: Tokens, generated: Flags, n_least: int) -> bool:
        """Could `closest` find a container? Answers at once, on any thread, without reading anything."""
        if self._prefixes.longest(folder, symbols(tokens, generated))[0] >= n_least:
            return True
        return self._prefixes.has_unread(folder) and self._stable.stat(folder) is not None

    def closest(
        self, folder: str, model: EngineInfo, tokens: Tokens, generated: Flags, *, n_least: int
    ) -> tuple[OpenCache, int] | None:
        """The container below `folder` whose rows begin most like these tokens, and how many agree, if at least n_least
        do.

        Looks at containers that were read or written since the start, and those written last before it. In a worker
        thread, since it may read them.
        """
        self._read_unread(folder, model)
        wanted = symbols(tokens, generated)
        for _ in range(MAX_TRIED):
            n, path = self._prefixes.longest(folder, wanted)
            if path is None or n < n_least:
                return None
            info = self._stable.stat(path)
            cache = self._open_sound(info, model) if info is not None else None
            if cache is not None and cache.fits(model):
                n = n_common(tokens, generated, cache.container.tokens, cache.container.generated)
                if (n := cache.container.n_with_rows(n)) >= n_least:
                    return cache, n
            self._prefixes.discard(path)
        return None

    def _read_unread(self, folder: str, model: EngineInfo) -> None:
        for path in self._prefixes.take_unread(folder, lambda: self._newest(folder)):
            info = self._stable.stat(path)
            if info is not None and info.kind == "file":
                self._open_sound(info, model)

    def _open_sound(self, info: FileInfo, model: EngineInfo) -> OpenCache | None:
        try:
            return self.open(info, model)
        except (CanisterError, OSError):
            return None

    def append(self, work: UnitOfWork, cache: OpenCache, keep: int, added: Contents) -> None:
        """Roll the container back to `keep` tokens and add these."""
        container, data = cache.container, b""  # written even so: the file's time of writing is the chat's
        if len(added.tokens) or keep < len(container.tokens):
            marks = added.starts, added.redrawn
            container, data = container.extended(keep, added.tokens, added.generated, added.rows, *marks)
        work.tx.append_file(cache.info.path, data)
        self._keep_when_committed(work, cache.info.path, container)

    def write(
        self, work: UnitOfWork, path: str, header: CacheHeader, before: OpenCache | None, contents: Contents
    ) -> None:
        """Write a container anew. KV rows of tokens before `rows_first` come from `before`, where they are sound.

        Slow for a long chat, so in a worker thread.
        """
        container, data = self._sound_part(path, header, before)
        parts, first = [data], contents.rows_first
        is_cut_so = np.array_equal(container.starts[:first], contents.starts[:first])
        if len(container.tokens) < first or not is_cut_so:
            container, data = contents.added_to(container, 0, first, b"")
            parts.append(data)
        container, data = contents.added_to(container, first, None, contents.rows)
        parts.append(data)
        work.tx.write_file(path, b"".join(parts))
        self._keep_when_committed(work, path, container)

    def put(
        self, work: UnitOfWork, path: str, wanted: CacheFile, before: OpenCache | None, kv_layout: bytes | None
    ) -> None:
        """Let the container at `path` hold exactly the conversation that `wanted` does.

        KV rows that are there already stay, as far as the conversations agree; where `wanted` has more of them, they
        are its own. kv_layout: of the loaded model, if that is the container's. Slow for a long chat, so in a worker
        thread. Raises CacheDamaged.
        """
        header = wanted.header if kv_layout is None else replace(wanted.header, kv_layout=kv_layout)
        own = None if before is None else before.container
        if own is not None and replace(own.header, seed=header.seed) != header:
            own = None
        keep = 0 if own is None else n_same(own, wanted)
        n_own = 0 if own is None else own.n_with_rows(keep)
        has_rows = wanted.header == header
        rest = slice(keep, None)
        more = (wanted.tokens[rest], wanted.generated[rest], b"", wanted.starts[rest], wanted.redrawn[rest])
        if own is None or (has_rows and wanted.n_with_rows(len(wanted.tokens)) > n_own):
            whole = wanted if has_rows else CacheFile.parse(tokens_alone(wanted, header=header))
            container, data = whole.compacted()
            work.tx.write_file(path, data)
        elif before is not None and before.can_grow and own.header == header:
            if keep == len(own.tokens) == len(wanted.tokens):
                return
            container, data = own.extended(keep, *more)
            work.tx.append_file(path, data)
        else:
            kept, data = own.rolled_back(keep).compacted(header)
            container, added = kept.extended(keep, *more)
            work.tx.write_file(path, data + added)
        self._keep_when_committed(work, path, container.read_by(self._reader(path)))

    def _sound_part(self, path: str, header: CacheHeader, before: OpenCache | None) -> tuple[CacheFile, bytes]:
        if before is not None and before.container.header == header:
            try:
                return before.container.compacted()
            except StoreDamaged:
                pass  # the tokens are at hand
        return CacheFile.create(header, self._reader(path))

    def segments_into(self, cache: OpenCache, take: Take) -> Callable[[int], list[KvSegment]]:
        """The same as `cache.segments`, with the rows read into memory from `take`."""

        def read(offset: int, size: int) -> memoryview:
            size = max(0, min(size, cache.info.size - offset))
            memory = take(size).data
            return memory[: self._stable.read_into(cache.info.path, offset, memory)]

        return partial(cache.segments, read=read)

    def drop(self, path: str) -> None:
        """The file at this path has changed otherwise than by `append` and `write`, or is gone."""
        with self._lock:
            self._open.pop(path, None)
        self._prefixes.changed(path, is_there=self._stable.stat(path) is not None)

    def clear(self) -> None:
        with self._lock:
            self._open.clear()
        self._prefixes.clear()

    def _keep_when_committed(self, work: UnitOfWork, path: str, container: CacheFile) -> None:
        work.containers[path] = container
        folder = sessions_folder(path)
        is_first = folder is not None and self._stable.stat(folder) is None

        def keep() -> None:
            if folder is not None and is_first:
                self._prefixes.take_unread(folder, tuple)  # there is nothing that was not written since the start
            info = self._stable.stat(path)
            if info is not None and info.size == container.size:
                self._keep(OpenCache(info, container))
                self._prefixes.add_later(path, lambda: symbols(container.tokens, container.generated))

        work.on_commit(keep)

    def _keep(self, cache: OpenCache) -> None:
        with self._lock:
            self._open[cache.info.path] = cache
            self._open.move_to_end(cache.info.path)
            while len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)

    def _reader(self, path: str) -> Callable[[int, int], bytes]:
        return lambda offset, size: self._stable.read(path, offset, size)
