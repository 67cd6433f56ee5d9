"""What was established about a call, and nothing more than that."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from canister.ic import principal
from canister.ic.receipts.check import Proven


@dataclass(slots=True)
class Verdict:
    """A line of each kind, as far as it was looked at. faults: what shows that something is wrong, in sentences."""

    source: str
    proven: Proven | None = None
    signed: str = ""
    cost: str = "not looked at: give --model"
    tokens: str = "not looked at: give --model"
    faults: list[str] = field(default_factory=list)

    @property
    def is_ok(self) -> bool:
        return not self.faults

    def lines(self) -> list[str]:
        """For a terminal."""
        if self.proven is None:
            return [f"{self.source}", *(f"  FAULT      {fault}" for fault in self.faults)]
        record = self.proven.record
        title = f"call {record.index}: {record.method} by {principal.to_text(record.caller)}, {moment(record.time_ns)}"
        told = [f"{title}, {record.outcome}"]
        told += [f"  {name:<10} {text}" for name, text in self._parts()]
        return told + [f"  FAULT      {fault}" for fault in self.faults]

    def document(self) -> dict[str, object]:
        found: dict[str, object] = {"source": self.source, "ok": self.is_ok, "faults": self.faults}
        if self.proven is not None:
            found |= {"id": self.proven.id, "method": self.proven.record.method, **dict(self._parts())}
        return found

    def _parts(self) -> list[tuple[str, str]]:
        return [("signed", self.signed), ("cost", self.cost), ("tokens", self.tokens)]


def moment(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
