"""Does a context fit into memory? Decided by arithmetic, before llama.cpp takes the first byte of it."""

from __future__ import annotations

from dataclasses import dataclass

from canister.engine.llama_types import ModelError

CELL_BYTES = 56  # that llama.cpp keeps beside the rows of a cell, for position, sequences and its free lists
CELLS_STEP = 256  # llama.cpp pads the cells of a stream to a multiple
MAX_CELLS = 2**31 - 1  # llama.cpp counts positions in 32 bits
USABLE = 19, 20  # of the free memory, so that the rest of the server has room


@dataclass(frozen=True, slots=True)
class Need:
    """n_ctx: tokens of a conversation. n_cells: cells that they take. bytes_per_token: of KV rows; 0: none grow.

    bytes_per_chat: KV rows of a full conversation, where that is less than cells × bytes, as with sliding windows.
    """

    n_ctx: int
    n_cells: int
    n_chats: int
    bytes_per_token: int
    bytes_per_chat: int

    @property
    def n_bytes(self) -> int:
        return self.n_chats * (self.bytes_per_chat + self.n_cells * self._cell_bytes)

    @property
    def _cell_bytes(self) -> int:
        return CELL_BYTES if self.bytes_per_token else 0

    def largest(self, free_bytes: int) -> int:
        """Tokens of the longest conversation for which there is room; 0: there is none."""
        per_token = self.bytes_per_chat / max(1, self.n_cells) + self._cell_bytes
        by_memory = int(free_bytes / self.n_chats / per_token) if per_token else MAX_CELLS
        cells = min(by_memory, MAX_CELLS // self.n_chats) // CELLS_STEP * CELLS_STEP
        return max(0, cells - (self.n_cells - self.n_ctx))


def check(name: str, need: Need, free_bytes: int) -> None:
    """ModelError when there is no room for the context, or llama.cpp cannot count it. The error names what
    would fit.
    """
    free_bytes = max(0, free_bytes) * USABLE[0] // USABLE[1]
    if need.n_chats * need.n_cells <= MAX_CELLS and need.n_bytes <= free_bytes:
        return
    chats = f", for each of {need.n_chats} chats (--slots)" if need.n_chats > 1 else ""
    if need.n_chats * need.n_cells > MAX_CELLS:
        why = f"{need.n_chats * need.n_cells} cells are more than llama.cpp can count"
    else:
        why = f"that takes {_size(need.n_bytes)}, and {_size(free_bytes)} are free"
    largest = need.largest(free_bytes)
    way_out = f"give a smaller --ctx-size, at most {largest}" if largest > 0 else "free some memory"
    raise ModelError(f"Cannot make a context of {need.n_ctx} tokens for the model {name}{chats}: {why}; {way_out}")


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.1f} MB"
