"""Messages of the private door, drawn by Hypothesis."""

from __future__ import annotations

from typing import TypeVar

from hypothesis import strategies as st

from canister.api import herd_frames as frames
from canister.api import herd_wire as wire

T = TypeVar("T")

U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
TEXTS = st.text(max_size=40)
HEADS = st.just(b"") | st.binary(min_size=16, max_size=16)
DATA = st.binary(max_size=60)


def maybe(strategy: st.SearchStrategy[T]) -> st.SearchStrategy[T | None]:
    return st.none() | strategy


def tuples(strategy: st.SearchStrategy[T]) -> st.SearchStrategy[tuple[T, ...]]:
    return st.lists(strategy, max_size=3).map(tuple)


CHATS = st.builds(wire.ChatAt, TEXTS, HEADS)
RUNS = st.builds(
    wire.Run,
    st.binary(min_size=32, max_size=32),
    *(U64, U64, U64),
    *(TEXTS, TEXTS, TEXTS),
    DATA,
    *(st.integers(0, 2**32 - 2), U64),
    st.booleans(),
    maybe(U64),
    tuples(CHATS),
    st.booleans(),
)
CONTROLS = st.builds(wire.Control, U64, U64, TEXTS, TEXTS, TEXTS, DATA, U64)
COSTS = st.builds(wire.Cost, U64, U64, maybe(U64), st.dictionaries(TEXTS, U64, max_size=3))
CHANGES = st.builds(wire.ChatChange, TEXTS, HEADS, HEADS, U32, DATA)
DONES = st.builds(
    wire.Done,
    maybe(DATA),
    maybe(U64),
    maybe(TEXTS),
    maybe(TEXTS),
    st.integers(100, 599),
    maybe(COSTS),
    st.booleans(),
    tuples(CHANGES),
    maybe(st.builds(wire.Saved, st.booleans(), maybe(TEXTS))),
    st.booleans(),
    maybe(st.builds(wire.Receipted, DATA, DATA, DATA, DATA, DATA)),
    TEXTS,
)
TEXT_FRAMES = st.builds(frames.Text, TEXTS, st.booleans())
BODIES = st.builds(frames.Body, DATA, st.booleans(), st.booleans())
ENDED = st.builds(frames.CallEnded, TEXTS, TEXTS, TEXTS, DONES, U64, U64)
CONFLICTS = st.builds(
    wire.Conflict, st.sampled_from(("head", "epoch", "rev", "draining", "busy")), maybe(TEXTS), maybe(HEADS), U64, U64
)
MODELS = st.builds(wire.ModelState, st.binary(min_size=32, max_size=32), DATA, st.booleans(), U64, U64)
CANISTERS = st.builds(
    wire.CanisterState,
    *(TEXTS, TEXTS, U64),
    maybe(MODELS),
    st.booleans(),
    *(U64, U64, U64),
    *(maybe(U64), maybe(U64)),
)
STATES = st.builds(wire.State, TEXTS, U64, TEXTS, U64, U64, st.booleans(), st.booleans(), tuples(CANISTERS))

MESSAGES: st.SearchStrategy[wire.Message] = st.one_of(RUNS, CONTROLS, DONES, CONFLICTS, STATES)
FRAMES: st.SearchStrategy[frames.Frame] = st.one_of(TEXT_FRAMES, DONES, BODIES, ENDED, st.builds(frames.Broken, TEXTS))
