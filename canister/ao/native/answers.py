"""Messages of native processes, with the tags that programs look for in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from canister.ao.processes.messages import Delivered, Outgoing, Result

MAX_RECEIPTS_CHARACTERS = 3000  # of a tag
NOT_TAKEN = b"Assignment is not trusted by this process!"  # a message for another one, which anybody can assign


class Answers:
    """The messages of one result. Names are tags; a `_` in them is a `-`."""

    def __init__(self, delivered: Delivered) -> None:
        self._delivered = delivered
        self._messages: list[Outgoing] = []

    def send(self, target: str, action: str, data: bytes = b"", /, **named: str | int | None) -> None:
        self._add(target, action, data, {name.replace("_", "-"): value for name, value in named.items()})

    def send_with(self, target: str, action: str, data: bytes, named: Mapping[str, str], /, **more: str | int) -> None:
        """named: tags as they are, after the others."""
        self._add(target, action, data, {**{name.replace("_", "-"): value for name, value in more.items()}, **named})

    def reply(self, action: str, data: bytes = b"", /, **named: str | int | None) -> None:
        """To whoever asked, or whom that names."""
        message = self._delivered.message
        target = message.tag("Reply-To") or self._delivered.sender
        reference = message.tag("X-Reference") or message.tag("Reference")
        self.send(target, action, data, **{"X_Reference": reference, **named})

    def result(self, output: str = "", error: str | None = None) -> Result:
        if error is not None:
            return Result(error=error)
        return Result(output=output.encode(), messages=tuple(self._messages))

    def _add(self, target: str, action: str, data: bytes, named: Mapping[str, str | int | None]) -> None:
        reference = f"{self._delivered.place.slot}.{len(self._messages)}"
        first = {
            "Data-Protocol": "ao",
            "Variant": "ao.TN.1",
            "Type": "Message",
            "Reference": reference,
            "Action": action,
        }
        tags = tuple(
            (name.encode(), str(value).encode()) for name, value in {**first, **named}.items() if value is not None
        )
        anchor = reference.replace(".", "").rjust(32, "0").encode()
        self._messages.append(Outgoing(target, data, anchor, tags))


def carried(delivered: Delivered) -> dict[str, str]:
    """The tags of a message that go with it from hand to hand: those that begin with X-."""
    return {
        name.decode(errors="replace"): value.decode(errors="replace")
        for name, value in delivered.message.tags
        if name[:2].lower() == b"x-"
    }


def shown_receipts(receipts: Sequence[str]) -> str | None:
    """The ids in one tag, as many as fit it; None without any. The result that has the tag names all of them."""
    shown = ",".join(receipts)
    if len(shown) > MAX_RECEIPTS_CHARACTERS:
        shown = shown[: MAX_RECEIPTS_CHARACTERS + 1].rpartition(",")[0]
    return shown or None


def whole(text: str | None, n_digits: int = 77) -> int | None:
    """A number of decimal digits, as tags have them."""
    if text is None or not text.isascii() or not text.isdigit() or len(text) > n_digits:
        return None
    return int(text)
