"""How a chat gets to the worker that will run its next call, and when its KV rows go to the object store. Pure.

Everything is one unit, seconds until the call can begin: rows travel by measured links, tokens without rows are decoded
at the worker's measured speed. Rows fit only models of one pool: same file, same layout of rows, same exactness.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Way = Literal["own", "peer", "store", "decode"]
Pool = Hashable

DEFAULT_PREFILL_TPS = 100.0  # of a worker that has not decoded a prompt yet: a small model on two cores
_HALF_LIFE = 32.0  # transfers; what was measured longer ago counts less


class Link:
    """The seconds that bytes take on one way, by what transfers took: a start and a rate, fitted to recent ones."""

    def __init__(self, start_seconds: float, bytes_per_second: float) -> None:
        """What to expect before anything was measured; it counts as a few transfers do."""
        self._forget = 0.5 ** (1 / _HALF_LIFE)
        self._n = self._x = self._y = self._xx = self._xy = 0.0
        for n_bytes in (1e5, 1e7, 1e8):
            self.observe(n_bytes, start_seconds + n_bytes / bytes_per_second)

    def observe(self, n_bytes: float, seconds: float) -> None:
        """A transfer that was done."""
        keep = self._forget
        megabytes = n_bytes / 1e6  # else the squares lose the small transfers
        self._n = self._n * keep + 1
        self._x = self._x * keep + megabytes
        self._y = self._y * keep + seconds
        self._xx = self._xx * keep + megabytes * megabytes
        self._xy = self._xy * keep + megabytes * seconds

    def seconds(self, n_bytes: float) -> float:
        """What this many bytes will take; never less than nothing, whatever was measured."""
        spread = self._n * self._xx - self._x * self._x
        rate = (self._n * self._xy - self._x * self._y) / spread if spread > 1e-9 * self._n * self._xx else 0.0
        rate = max(rate, 0.0)
        start = max((self._y - rate * self._x) / self._n, 0.0)
        if rate == 0.0 and self._x > 0:  # all transfers were alike: in proportion
            return start * max(n_bytes / 1e6 * self._n / self._x, 1.0)
        return start + rate * n_bytes / 1e6


@dataclass(slots=True)
class Speeds:
    """The links of a herd. disk: from a worker's own disk or memory into its engine. peer: from worker to worker,
    through the leader. store: from the object store to a worker.
    """

    disk: Link = field(default_factory=lambda: Link(0.005, 1e9))
    peer: Link = field(default_factory=lambda: Link(0.01, 2e8))
    store: Link = field(default_factory=lambda: Link(0.02, 1.2e8))


@dataclass(frozen=True, slots=True)
class Chat:
    """A chat as the journal has it, and where its rows are.

    row_bytes: KV rows of one token. held: of each worker that has a copy, how many of the chat's first tokens it has
    with their rows. stored: the same of the object store. pool: of the model that computed the rows; None: there are
    none.
    """

    n_tokens: int
    row_bytes: int
    held: Mapping[str, int] = field(default_factory=dict)
    stored: int = 0
    pool: Pool | None = None


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker that could run the chat, or give its rows away. prefill_tps: None as long as nobody knows."""

    id: str
    pool: Pool
    prefill_tps: float | None = None


@dataclass(frozen=True, slots=True)
class Move:
    """The cheapest way. rows_from: the peer that gives its rows. n_rows: tokens whose rows are used; the rest is
    decoded.
    """

    way: Way
    seconds: float
    n_rows: int = 0
    rows_from: str | None = None


def plan(chat: Chat, to: Worker, peers: Iterable[Worker], speeds: Speeds) -> Move:
    """The cheapest way by which `to` can go on with the chat. peers: the workers that answer, perhaps `to` too."""
    found = [Move("decode", _decode(chat.n_tokens, to))]
    if chat.pool == to.pool:
        if own := _held(chat, to.id):
            found.append(_by_rows(chat, to, "own", own, speeds.disk))
        givers = [peer for peer in peers if peer.id != to.id and peer.pool == to.pool]
        best = max(givers, key=lambda peer: (_held(chat, peer.id), peer.id), default=None)
        if best is not None and (n_rows := _held(chat, best.id)):
            found.append(_by_rows(chat, to, "peer", n_rows, speeds.peer, best.id))
        if n_rows := min(chat.stored, chat.n_tokens):
            found.append(_by_rows(chat, to, "store", n_rows, speeds.store))
    return min(found, key=lambda move: (move.seconds, move.way != "own"))


def _held(chat: Chat, worker: str) -> int:
    return min(chat.held.get(worker, 0), chat.n_tokens)


def _by_rows(chat: Chat, to: Worker, way: Way, n_rows: int, link: Link, rows_from: str | None = None) -> Move:
    seconds = link.seconds(n_rows * chat.row_bytes) + _decode(chat.n_tokens - n_rows, to)
    return Move(way, seconds, n_rows, rows_from)


def _decode(n_tokens: int, worker: Worker) -> float:
    return n_tokens / (worker.prefill_tps or DEFAULT_PREFILL_TPS)
