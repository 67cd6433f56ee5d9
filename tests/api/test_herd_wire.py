"""The messages of the private door: what was encoded is decoded, whatever else comes is refused with one error."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canister.api import herd_frames as frames
from canister.api import herd_wire as wire
from canister.api.herd_wire import WireError
from canister.ic import cbor
from tests.api.herd_messages import MESSAGES

KINDS: tuple[type[wire.Message], ...] = (wire.Run, wire.Control, wire.Done, wire.Conflict, wire.State)
RUN = wire.Run(b"j" * 32, 3, 3 << 32 | 7, 12, "llama_cpp", "2vxsx-fae", "run_update", b"DIDL\0\0", 5, 10**18)


@given(MESSAGES)
def test_there_and_back(message: wire.Message) -> None:
    assert wire.decode(type(message), wire.encode(message)) == message


@given(MESSAGES, st.dictionaries(st.text(min_size=20, max_size=30), st.integers(0, 9), max_size=3))
def test_fields_of_a_later_version_are_ignored(message: wire.Message, more: dict[str, Any]) -> None:
    content = cbor.decode(wire.encode(message))
    assert isinstance(content, dict)
    assert wire.decode(type(message), cbor.encode({**content, **more})) == message  # type: ignore[dict-item]


def test_fields_with_a_default_may_be_missing() -> None:
    content = cbor.decode(wire.encode(RUN))
    assert isinstance(content, dict)
    assert "due_ms" not in content  # it is null
    for name in ("stream", "detached"):
        del content[name]
    assert wire.decode(wire.Run, cbor.encode(content)) == RUN  # type: ignore[arg-type]


@given(st.binary(max_size=200), st.sampled_from(KINDS))
def test_bytes_that_are_no_message(data: bytes, kind: type[wire.Message]) -> None:
    with contextlib.suppress(WireError):
        wire.decode(kind, data)


@given(MESSAGES, st.data())
def test_damaged_messages(message: wire.Message, data: st.DataObject) -> None:
    """Whatever becomes of one byte: a message of this kind, or a WireError."""
    encoded = bytearray(wire.encode(message))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(WireError):
        assert isinstance(wire.decode(type(message), bytes(encoded)), type(message))


WRONG: dict[str, object] = {
    "job": b"short",
    "epoch": -1,
    "fence": 1 << 64,
    "rev": True,
    "canister": b"bytes",
    "caller": "x" * 5000,
    "method": None,
    "arg": "text",
    "seed": 2**32 - 1,  # llama.cpp would draw a seed itself
    "stream": 1,
    "chats": [{"path": "a", "head": b"of a wrong size"}],
}


@pytest.mark.parametrize("name", WRONG)
def test_the_error_names_the_field(name: str) -> None:
    content: Any = cbor.decode(wire.encode(RUN))
    value = WRONG[name]
    if name == "fence":  # CBOR has no form for it, so another wrong one
        value = [1]
    content[name] = value
    with pytest.raises(WireError, match="head" if name == "chats" else name):
        wire.decode(wire.Run, cbor.encode(content))


@pytest.mark.parametrize("encode", [wire.encode, frames.encode_frame])
def test_a_reject_keeps_all_that_a_client_is_told(encode: Callable[[wire.Done], bytes]) -> None:
    cost = wire.Cost(1_000, 5, None, {"prompt": 900, "base": 100}, 7, 0)
    done = wire.Done(None, 5, "Canister exceeded the limit", "IC0522", 429, cost)
    if encode is wire.encode:
        assert wire.decode(wire.Done, encode(done)) == done
    else:
        assert frames.FrameReader().feed(encode(done)) == [done]
