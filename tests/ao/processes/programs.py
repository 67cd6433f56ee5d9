"""A program in a real cage, and messages for it in short form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from canister.ao.lua.calls import DEFAULT_LIMITS
from canister.ao.lua.keeper import Nursery
from canister.ao.lua.sandbox import Limits
from canister.ao.processes.messages import Delivered, Incoming, Outgoing, Place, ProcessInfo, Result
from canister.ao.processes.models import Models
from canister.ao.processes.program import History, Program, package_reader
from canister.ao.processes.talk import Kept, Talk

OWNER, NODE, ID = "owner", "node", "p" * 43


@dataclass(slots=True)
class Driven:
    """Sends messages to one program; each gets the next slot."""

    program: Program
    n: int = 0
    time_ms: int = 1_700_000_000_000
    results: list[Result] = field(default_factory=list)

    def send(
        self,
        action: str = "",
        data: bytes | str = b"",
        *,
        sender: str = OWNER,
        owner: str | None = None,
        target: str = ID,
        dry: bool = False,
        boot: bytes | None = None,
        limits: Limits = DEFAULT_LIMITS,
        **tags: str,
    ) -> Result:
        named = {"Action": action, **{name.replace("_", "-"): value for name, value in tags.items()}}
        message = Incoming(
            f"m{self.n}",
            sender if owner is None else owner,
            target,
            data if isinstance(data, bytes) else data.encode(),
            tuple((name.encode(), value.encode()) for name, value in named.items() if value),
        )
        delivered = Delivered(Place(ID, self.n, message.id), message, sender, self.time_ms + self.n)
        result = self.program.handle(delivered, limits, boot, dry=dry)
        if not dry:
            self.n += 1
        self.results.append(result)
        return result

    def eval(self, code: str, **given: str) -> str:
        """What is printed and returned; fails on an error."""
        result = self.send("Eval", code, **given)
        assert result.error is None, result.error
        return result.output.decode()


def tags(message: Outgoing) -> Mapping[str, str]:
    return {name.decode(): value.decode() for name, value in message.tags}


def driven(nursery: Nursery, models: Models | None = None, packages: Path | None = None, **named: str) -> Driven:
    """A process with these tags, made."""
    made = tuple((name.replace("_", "-").encode(), value.encode()) for name, value in named.items())
    info = ProcessInfo(ID, OWNER, "module", made, "lua", 0, False)
    program = Program(nursery, info, NODE, Talk(ID, models, Kept()), package_reader(packages), History())
    found = Driven(program)
    assert found.send().error is None
    return found
