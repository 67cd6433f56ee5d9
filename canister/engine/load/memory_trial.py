"""Tries how a model's memory treats several chats, instead of assuming it.

A script of decodes runs twice: each chat by itself in a context of one stream, and all chats beside each other in a
context of several streams. Logits must be the same except for last bits, and the states of streams that a decode leaves
alone must be the same bit for bit. It runs in a child process, because llama.cpp may abort on what is wrong here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np

from canister.engine.llama import Bytes, Context, Logits
from canister.engine.llama_types import EngineFault

N_STREAMS = 5
N_CELLS = 256
N_ROWS = 64
N_OUTPUTS = 32  # rows of a decode that may have logits
# A part of the spread of the logits. Kernels for one row and for several give 0.003 at most on tiny models of all
# architectures; what is wrong gives 0.5 and more, and goes on.
TOLERANCE = 0.2
MIN_WRONG = 2  # decodes of a chat that must differ, since in a mixture of experts one may take another expert

Stage = Literal["chunks", "states", "streams"]


@dataclass(frozen=True, slots=True)
class MemoryTraits:
    """What is wrong with a model's memory, in words; None where nothing is.

    one_stream: why chats may not share a context. no_states: why a chat's state may not be put back.
    single_rows: why prompts are decoded token by token. all_outputs: logits are right only where all rows of a decode
    ask for them.
    """

    one_stream: str | None = None
    no_states: str | None = None
    single_rows: str | None = None
    all_outputs: bool = False

    @property
    def notes(self) -> tuple[str, ...]:
        """What an operator of the model should know."""
        told = [
            f"one chat is decoded at a time, the others wait their turn: {self.one_stream}" if self.one_stream else "",
            f"a chat that lost its slot is decoded again: {self.no_states}" if self.no_states else "",
            f"prompts are decoded token by token: {self.single_rows}" if self.single_rows else "",
            "the last tokens of a prompt are decoded in small chunks: this model's code gives the logits of other rows "
            "than those that were asked for"
            if self.all_outputs
            else "",
        ]
        return tuple(note for note in told if note)

    def and_also(self, other: MemoryTraits) -> MemoryTraits:
        """What is wrong in one of two ways of running the model."""
        return MemoryTraits(
            self.one_stream or other.one_stream,
            self.no_states or other.no_states,
            self.single_rows or other.single_rows,
            self.all_outputs or other.all_outputs,
        )

    def after_end(self, stage: str, how: str) -> MemoryTraits:
        """What is known when the process ended during a stage of the trial; `how` says how, in words."""
        found = self if stage == "streams" else replace(self, no_states=f"{how} when it put one back")
        return replace(found, one_stream=f"{how} when it decoded several")


def to_json(traits: MemoryTraits) -> dict[str, object]:
    return asdict(traits)


def from_json(entry: object) -> MemoryTraits:
    """Raises ValueError for what `to_json` does not write."""
    if not isinstance(entry, dict) or entry.keys() != asdict(MemoryTraits()).keys():
        raise ValueError(f"{entry!r} are no traits of a memory")
    texts = [entry[name] for name in ("one_stream", "no_states", "single_rows")]
    if not all(text is None or isinstance(text, str) for text in texts) or not isinstance(entry["all_outputs"], bool):
        raise ValueError(f"{entry!r} are no traits of a memory")
    return MemoryTraits(**entry)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Several tokens of one chat in one decode."""

    chat: int
    n: int


@dataclass(frozen=True, slots=True)
class Rows:
    """One token of each of these chats in one decode."""

    chats: tuple[int, ...]


Decode = Chunk | Rows
SCRIPT: tuple[Decode, ...] = (
    *(Chunk(chat, n) for chat, n in enumerate((9, 5, 12, 6, 7))),
    Rows((0, 1, 2, 3, 4)),
    Rows((1, 2)),
    Rows((0, 2, 4)),
    Rows((3,)),
    Chunk(2, 5),
    Rows((1, 4)),
    Rows((0, 1, 3)),
    Rows((2, 3, 4)),
    Chunk(0, 4),
    Rows((3, 4)),
    Rows((0, 1, 2)),
    Rows((0, 1, 2, 3, 4)),
)
"""Chats apart, side by side, with gaps, of other lengths, and chunks beside them."""

MakeContext = Callable[[int], Context]
"""A context of so many streams, N_CELLS each, of N_ROWS rows and N_OUTPUTS outputs."""
Tell = Callable[[Stage, MemoryTraits], None]
"""Is told before each stage what is known by then."""


def try_memory(make: MakeContext, n_vocab: int, tell: Tell) -> MemoryTraits:
    """Find out how a model's memory works. EngineFault when llama.cpp refuses what it should accept even for
    one chat.
    """
    tell("chunks", MemoryTraits())
    one = make(1)
    try:
        found, noise = _chunks(one, n_vocab)
        alone = [_alone(one, n_vocab, chat, found) for chat in range(N_STREAMS)]
        tell("states", found)
        found = replace(found, no_states=_states(one, n_vocab, found, alone[0], noise))
    finally:
        one.close()
    tell("streams", found)
    several = make(N_STREAMS)
    try:
        return replace(found, one_stream=_together(several, n_vocab, found, alone, noise))
    except EngineFault as fault:
        return replace(found, one_stream=f"llama.cpp refuses several ({fault})")
    finally:
        several.close()


def _token(n_vocab: int, chat: int, position: int) -> int:
    return (7919 * (chat + 1) + 104_729 * position + 31 * chat * position) % n_vocab


class _Chats:
    """Chats in the streams of a context, each in the stream of its own number unless it is given another."""

    def __init__(self, context: Context, n_vocab: int, how: MemoryTraits) -> None:
        self.context = context
        self.lengths = [0] * N_STREAMS
        self._n_vocab = n_vocab
        self._how = how

    def chunk(self, chat: int, n: int, stream: int) -> Logits:
        """Logits behind the next n tokens of a chat."""
        if self._how.single_rows is not None:
            return [self.rows((chat,), (stream,))[0] for _ in range(n)][-1]
        start = self.lengths[chat]
        tokens = [_token(self._n_vocab, chat, start + i) for i in range(n)]
        wanted = range(n) if self._how.all_outputs else [n - 1]
        self.context.decode([stream] * n, range(start, start + n), tokens, wanted)
        self.lengths[chat] += n
        return self.context.logits(n - 1).copy()

    def rows(self, chats: Sequence[int], streams: Sequence[int]) -> list[Logits]:
        """Logits behind the next token of each chat."""
        tokens = [_token(self._n_vocab, chat, self.lengths[chat]) for chat in chats]
        self.context.decode(streams, [self.lengths[chat] for chat in chats], tokens, range(len(chats)))
        for chat in chats:
            self.lengths[chat] += 1
        return [self.context.logits(row).copy() for row in range(len(chats))]


def _distance(a: Logits, b: Logits) -> float:
    """The largest difference, in parts of the spread of a; 0 where both are the same."""
    if np.array_equal(a, b, equal_nan=True):
        return 0.0
    finite = np.isfinite(a)
    if not finite.any() or not np.array_equal(finite, np.isfinite(b)):
        return float("inf")
    spread = float(np.std(a[finite])) or 1.0
    return float(np.sqrt(np.mean((a[finite].astype(np.float64) - b[finite]) ** 2))) / spread


def _chunks(context: Context, n_vocab: int) -> tuple[MemoryTraits, float]:
    """Do chunks give what single rows give, with which remedy, and how far apart are they then?"""
    sizes = (6, 3, 9)

    def behind_chunks(how: MemoryTraits) -> list[Logits]:
        chats = _Chats(context, n_vocab, how)
        logits = [chats.chunk(0, n, 0) for n in sizes]
        context.clear(0)
        return logits

    single = behind_chunks(MemoryTraits(single_rows="to compare with"))
    for found in (MemoryTraits(), MemoryTraits(all_outputs=True)):
        noise = float(np.median([_distance(a, b) for a, b in zip(single, behind_chunks(found), strict=True)]))
        if noise < TOLERANCE:
            return found, noise
    return MemoryTraits(single_rows="in chunks they give other logits than one by one"), 0.0


def _alone(context: Context, n_vocab: int, chat: int, how: MemoryTraits) -> list[Logits]:
    """Logits behind each step of a chat that has a context to itself."""
    chats = _Chats(context, n_vocab, how)
    logits: list[Logits] = []
    for step in SCRIPT:
        if isinstance(step, Chunk):
            logits += [chats.chunk(chat, step.n, 0)] if step.chat == chat else []
        elif chat in step.chats:
            logits += chats.rows((chat,), (0,))
    context.clear(0)
    return logits


def _states(context: Context, n_vocab: int, how: MemoryTraits, alone: Sequence[Logits], noise: float) -> str | None:
    """What is wrong when a chat's state is taken out after each step and put back after another chat was there; None:
    nothing.
    """
    chats = _Chats(context, n_vocab, how)
    n_wrong = at = 0
    for step in SCRIPT:
        if isinstance(step, Chunk) and step.chat == 0:
            logits = chats.chunk(0, step.n, 0)
        elif isinstance(step, Rows) and 0 in step.chats:
            (logits,) = chats.rows((0,), (0,))
        else:
            continue
        n_wrong += _is_wrong(alone[at], logits, noise)
        at += 1
        state = context.state(0)
        context.clear(0)
        _Chats(context, n_vocab, how).chunk(1, 4, 0)
        context.clear(0)
        if not context.set_state(0, state):
            return None  # llama.cpp says that it took none, and the caller decodes again
    context.clear(0)
    return "a chat does not go on as before when its state was put back" if n_wrong >= MIN_WRONG else None


def _is_wrong(alone: Logits, logits: Logits, noise: float) -> bool:
    return _distance(alone, logits) > max(TOLERANCE, 4 * noise)


def _together(
    context: Context, n_vocab: int, how: MemoryTraits, alone: Sequence[Sequence[Logits]], noise: float
) -> str | None:
    """What is wrong when the chats share a context; None: nothing."""
    chats = _Chats(context, n_vocab, how)
    states: dict[int, Bytes] = {}
    compared = [0] * N_STREAMS
    n_wrong = [0] * N_STREAMS
    for step in SCRIPT:
        if isinstance(step, Chunk):
            busy: tuple[int, ...] = (step.chat,)
            said = f"a prompt of chat {step.chat}"
            logits = [chats.chunk(step.chat, step.n, step.chat)]
        else:
            busy, said = step.chats, f"chats {', '.join(map(str, step.chats))} together"
            logits = chats.rows(step.chats, step.chats)
        touched = [chat for chat, state in states.items() if chat not in busy and _changed(context, chat, state)]
        if touched:
            return f"llama.cpp decodes {said}, and the state of chat {touched[0]}, which is idle, is another afterwards"
        for chat, row in zip(busy, logits, strict=True):
            n_wrong[chat] += _is_wrong(alone[chat][compared[chat]], row, noise)
            compared[chat] += 1
            if n_wrong[chat] >= MIN_WRONG:
                return f"llama.cpp decodes {said}, and chat {chat} gets other logits than alone"
        states |= {chat: context.state(chat) for chat in busy}
    return None if how.no_states is not None else _moved(context, chats, states, noise)


def _changed(context: Context, chat: int, state: Bytes) -> bool:
    return not np.array_equal(context.state(chat), state)


def _moved(context: Context, chats: _Chats, states: dict[int, Bytes], noise: float) -> str | None:
    """What is wrong when a stream is emptied and gets the state of another, as for a shared prompt; None: nothing."""
    source, target = 3, 1
    context.clear(target)
    if not context.set_state(target, states[source]):
        return None
    for chat, state in states.items():
        if chat != target and _changed(context, chat, state):
            return f"the state of chat {chat} changes when the one of chat {source} is copied to chat {target}"
    n_wrong = 0
    for _ in range(MIN_WRONG):
        (copied,) = chats.rows((source,), (target,))
        chats.lengths[source] -= 1
        (own,) = chats.rows((source,), (source,))
        n_wrong += _is_wrong(own, copied, noise)
    return f"a copy of chat {source} goes on otherwise than itself" if n_wrong >= MIN_WRONG else None
