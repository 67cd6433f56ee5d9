"""Frames of the private door: whole however they are cut on their way, and refused when they are none."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canister.api import herd_frames as frames
from canister.api.herd_wire import WireError
from tests.api.herd_messages import FRAMES


@given(st.lists(FRAMES, max_size=4), st.data())
def test_frames_in_any_pieces(told: list[frames.Frame], data: st.DataObject) -> None:
    stream = b"".join(map(frames.encode_frame, told))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    reader = frames.FrameReader()
    found: list[frames.Frame] = []
    for first, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += reader.feed(stream[first:end])
    reader.close()
    assert found == told


@given(FRAMES, st.data())
def test_a_frame_that_is_cut_off(frame: frames.Frame, data: st.DataObject) -> None:
    stream = frames.encode_frame(frame)
    reader = frames.FrameReader()
    assert reader.feed(stream[: data.draw(st.integers(1, len(stream) - 1))]) == []
    with pytest.raises(WireError, match="within a frame"):
        reader.close()


@given(st.binary(max_size=100))
def test_bytes_that_are_no_frames(data: bytes) -> None:
    reader = frames.FrameReader()
    with contextlib.suppress(WireError):
        reader.feed(data)
        reader.close()


def test_a_frame_too_large_is_refused_before_it_comes() -> None:
    with pytest.raises(WireError, match="over the limit"):
        frames.FrameReader().feed((frames.MAX_FRAME_BYTES + 1).to_bytes(4, "big"))
