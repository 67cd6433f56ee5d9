"""The bytes of a message, read from front to back, and the count of what that costs.

A message's length bounds its work: each of its bytes pays for four steps, and a few steps are free. Bytes inside texts
and blobs pay for none, since they are copied in one go. Numbers and nesting have limits of their own.
"""

from __future__ import annotations

from canister.ic import principal
from canister.ic.candid.types import CandidError

FREE_STEPS = 256
STEPS_PER_BYTE = 4
MAX_STEPS = 1_000_000  # for a message of any length
MAX_DEPTH = 64
MAX_NUMBER_BYTES = 128  # of a nat or an int
MAX_LENGTH_BYTES = 10  # of a length, an index or a field's number


class Reader:
    """steps: what reading has cost so far."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._data = memoryview(data)
        self._end = len(self._data)
        self._at = 0
        self._unpaid = 0  # bytes that pay for no steps, minus those that were read twice
        self.steps = 0

    @property
    def at(self) -> int:
        return self._at

    @property
    def room(self) -> int:
        """Bytes that are left."""
        return self._end - self._at

    def back_to(self, at: int) -> None:
        """Continue reading from an earlier position. Bytes that are read twice pay twice."""
        self._unpaid -= self._at - at
        self._at = at

    def starts_with(self, data: bytes) -> bool:
        """Does the message begin with these bytes?"""
        return self._data[: len(data)] == data

    def pass_over(self, n_bytes: int, n_steps: int) -> None:
        """Bytes at the beginning that are known, and the steps that reading them would have cost."""
        self._at += n_bytes
        self.steps += n_steps

    def step(self, depth: int) -> None:
        self.steps += 1
        if self.steps > FREE_STEPS + STEPS_PER_BYTE * (self._at - self._unpaid) or self.steps > MAX_STEPS:
            raise CandidError("the message is too complex, or too complex for its length")
        if depth > MAX_DEPTH:
            raise CandidError(f"the message is nested deeper than {MAX_DEPTH}")

    def length(self, what: str, limit: int | None = None) -> int:
        """How many items follow, each of at least one byte."""
        length = self.unsigned(MAX_LENGTH_BYTES)
        room = self.room
        if length > room or (limit is not None and length > limit):
            limit = room if limit is None else min(room, limit)
            raise CandidError(f"the message is said to have {length} {what}, at most {limit} are possible")
        return length

    def take(self, length: int) -> memoryview:
        """Bytes that pay for no steps."""
        self._unpaid += length
        return self.paid(length)

    def paid(self, length: int) -> memoryview:
        start, self._at = self._at, self._at + length
        if self._at > self._end:
            raise CandidError(f"the message ends {self._at - self._end} bytes too early")
        return self._data[start : self._at]

    def byte(self) -> int:
        if self._at >= self._end:
            raise CandidError("the message ends too early")
        self._at += 1
        return self._data[self._at - 1]

    def unsigned(self, max_bytes: int) -> int:
        """LEB128."""
        at = self._at
        if at < self._end and self._data[at] < 0x80:  # one byte, as most are
            self._at = at + 1
            return self._data[at]
        byte = self.byte()
        number = byte & 0x7F
        shift = 7
        while byte > 0x7F:
            if shift == 7 * max_bytes:
                raise CandidError(f"a number has more than {max_bytes} bytes")
            byte = self.byte()
            number |= (byte & 0x7F) << shift
            shift += 7
        return number

    def signed(self, max_bytes: int) -> int:
        """SLEB128."""
        start = self._at
        number = self.unsigned(max_bytes)
        n_bits = 7 * (self._at - start)
        return number - (1 << n_bits) if number >> (n_bits - 1) else number

    # -- values of more than one byte

    def principal(self) -> bytes:
        if not self.flag():
            raise CandidError("an opaque principal has no meaning here")
        length = self.unsigned(MAX_LENGTH_BYTES)
        if length > principal.MAX_BYTES:
            raise CandidError(f"a principal has {length} bytes, at most {principal.MAX_BYTES} are possible")
        return bytes(self.take(length))

    def text(self) -> str:
        try:
            return str(self.take(self.unsigned(MAX_LENGTH_BYTES)), "utf-8")
        except UnicodeDecodeError as error:
            raise _not_utf8(error) from None

    def texts(self, count: int) -> list[str]:
        """So many texts, as `text` reads them, in a fast loop, since a message may consist mostly of them."""
        self.steps += count
        data, end, at = self._data, self._end, self._at
        texts = []
        for _ in range(count):
            if at >= end or data[at] > 0x7F:  # long or cut short: the slow way
                self._at = at
                texts.append(self.text())
                at = self._at
                continue
            start, at = at + 1, at + 1 + data[at]
            if at > end:
                raise CandidError(f"the message ends {at - end} bytes too early")
            self._unpaid += at - start
            try:
                texts.append(str(data[start:at], "utf-8"))
            except UnicodeDecodeError as error:
                raise _not_utf8(error) from None
        self._at = at
        return texts

    def flag(self) -> bool:
        byte = self.byte()
        if byte > 1:
            raise CandidError(f"a byte that says yes or no is {byte}")
        return byte == 1

    def natural(self) -> int:
        return self.unsigned(MAX_NUMBER_BYTES)

    def integer(self) -> int:
        return self.signed(MAX_NUMBER_BYTES)


def _not_utf8(error: UnicodeDecodeError) -> CandidError:
    return CandidError(f"a text is not UTF-8: {error.reason} at its byte {error.start}")
