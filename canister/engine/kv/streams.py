"""The streams of a context: how many positions each holds, and cutting, replacing and reading them."""

from __future__ import annotations

from canister.engine.kv.in_place import open_kv_memory
from canister.engine.kv.rows import KvRowsError, Layout, encode, parse
from canister.engine.llama import Bytes, Context


class Streams:
    """layout: of KV rows; None for memories whose states are not cut into rows. lengths: positions of each stream.

    reads_in_place: rows are read where they lie, as far as that can be.
    """

    def __init__(self, context: Context, layout: Layout | None, *, reads_in_place: bool = True) -> None:
        self.layout = layout
        self.lengths = [0] * context.params.n_streams
        self._floors = [0] * context.params.n_streams  # below it a stream cannot be cut: rows may be missing there
        self._context = context
        self._memory = open_kv_memory(context, layout) if reads_in_place else None

    @property
    def reads_rows(self) -> bool:
        """Does it read KV rows where they lie, rather than cut them out of copies of whole states?"""
        return self._memory is not None and not self._context.has_gaps

    def give_back_cells(self) -> None:
        """Give back the memory of all cells while no stream has any; on any thread."""
        if self._memory is not None:
            self._memory.forget()

    def truncate(self, stream: int, n: int) -> int:
        """Keep the first n positions, or none if this kind of memory keeps all or nothing."""
        if n < self.lengths[stream]:
            if n < max(self._floors[stream], 1) or not self._context.remove(stream, n):
                self.clear(stream)
            else:
                self.lengths[stream] = n
        return self.lengths[stream]

    def clear(self, stream: int) -> None:
        """Keep nothing."""
        self._context.clear(stream)
        self.lengths[stream] = self._floors[stream] = 0

    def rows(self, stream: int, first: int, stop: int) -> bytes:
        """The rows of positions first…stop as they are stored; b"" when there are none. Not after a context shift."""
        layout = self.layout
        if layout is None or first >= stop:
            return b""
        if self.reads_rows and self._memory is not None:
            return encode(layout, self._memory.rows(stream, first, stop))
        try:
            found, rows = parse(self._context.state(stream))
            return encode(layout, rows.cut(layout, first, stop)) if found == layout else b""
        except KvRowsError:
            return b""

    def replace(self, stream: int, state: Bytes, n: int) -> bool:
        """Set a state of n positions. False, and the stream is empty, when llama.cpp rejects it."""
        is_set = self._context.set_state(stream, state)
        self.lengths[stream] = n if is_set else 0
        self._floors[stream] = 0 if self.is_whole(state, n) else self.lengths[stream]
        return is_set

    def is_whole(self, state: Bytes, n: int) -> bool:
        """Does it have the rows of n tokens? llama.cpp leaves out what a sliding window does not reach from the end."""
        return self.layout is not None and len(state) >= n * self.layout.bytes_per_token
