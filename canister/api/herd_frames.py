"""Frames: what a worker tells its herd while it works, piece by piece. Four bytes of length, big-endian, then a CBOR
map.

run, control      texts, then Done; without it the call was cut short
a whole answer    the calls that it takes, and its body as it comes, in one order; without `is_end` it was cut short

Pure functions, no I/O. What is no frame is a WireError.
"""

from __future__ import annotations

from dataclasses import dataclass

from canister.api.cbor_fields import LONGEST_TEXT, Fields, WireError, fields_of
from canister.api.herd_wire import Done, done_of, plain
from canister.ic import cbor
from canister.ic.cbor import CborError

MAX_FRAME_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of a run's output. echo: of the prompt."""

    text: str
    echo: bool = False


@dataclass(frozen=True, slots=True)
class Body:
    """A piece of the HTTP body of a whole answer: events that are complete, or all of it. is_over: no more calls come
    that it has the receipts of. is_end: it is the last one.
    """

    data: bytes
    is_over: bool = False
    is_end: bool = False


@dataclass(frozen=True, slots=True)
class CallEnded:
    """A call of a whole answer was committed at the worker. name: stands in the body for the id of its receipt. done:
    without reply and chats.
    """

    canister: str
    method: str
    name: str
    done: Done
    started_ns: int
    ended_ns: int


@dataclass(frozen=True, slots=True)
class Broken:
    """The worker cannot go on with a whole answer; another one can. What comes behind it is not for the client."""

    why: str


Frame = Text | Done | Body | CallEnded | Broken

_TEXT_ALONE = cbor.head(cbor.MAP, 1) + cbor.encode("text")


def encode_frame(frame: Frame) -> bytes:
    match frame:
        case Text(text, echo):
            data = cbor.encode({"text": text, "echo": True} if echo else {"text": text})
        case Body(body, is_over, is_end):
            flags = {"over": True} if is_over else {}
            data = cbor.encode({"body": body, **flags, **({"end": True} if is_end else {})})
        case CallEnded():
            data = cbor.encode({"call": plain(frame)})
        case Broken(why):
            data = cbor.encode({"broken": why})
        case Done():
            data = cbor.encode({"done": plain(frame)})
    if len(data) > MAX_FRAME_BYTES:
        raise WireError(f"a frame of {len(data)} bytes is over the limit of {MAX_FRAME_BYTES}")
    return len(data).to_bytes(4, "big") + data


class FrameReader:
    """Frames out of the pieces in which they come."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are complete with these bytes. Raises WireError."""
        if not self._held and len(data) >= 4 and int.from_bytes(data[:4], "big") == len(data) - 4 <= MAX_FRAME_BYTES:
            return [_frame(data[4:])]  # one, as a worker sends them
        self._held += data
        found: list[Frame] = []
        start = 0
        while len(self._held) - start >= 4:
            size = int.from_bytes(self._held[start : start + 4], "big")
            if size > MAX_FRAME_BYTES:
                raise WireError(f"a frame of {size} bytes is over the limit of {MAX_FRAME_BYTES}")
            end = start + 4 + size
            if len(self._held) < end:
                break
            found.append(_frame(bytes(self._held[start + 4 : end])))
            start = end
        del self._held[:start]
        return found

    @property
    def is_at_an_end(self) -> bool:
        """Is all that came whole frames?"""
        return not self._held

    def close(self) -> None:
        """No more bytes come. WireError when a frame was cut off."""
        if self._held:
            raise WireError(f"the answer ends within a frame, after {len(self._held)} bytes of it")


def _frame(data: bytes) -> Frame:
    if data.startswith(_TEXT_ALONE):  # as almost all are, while a run is streamed
        try:
            text = cbor.decode(data[len(_TEXT_ALONE) :])
        except CborError as error:
            raise WireError(f"not CBOR: {error}") from None
        if isinstance(text, str) and len(text) <= LONGEST_TEXT:
            return Text(text)
    content = fields_of(data)
    if content.has("body"):
        return Body(content.data("body"), content.flag("over", False), content.flag("end", False))
    if content.has("call"):
        return _call_ended(content.map("call"))
    if content.has("broken"):
        return Broken(content.long_text("broken"))
    return done_of(content.map("done")) if content.has("done") else _text(content)


def _text(of: Fields) -> Text:
    return Text(of.long_text("text"), of.flag("echo", False))


def _call_ended(of: Fields) -> CallEnded:
    return CallEnded(
        *(of.text("canister"), of.text("method"), of.text("name")),
        done_of(of.map("done")),
        *(of.number("started_ns"), of.number("ended_ns")),
    )
