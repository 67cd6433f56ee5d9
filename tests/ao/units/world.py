"""Units on a folder, a model that can be reckoned with, and messages in short form."""

from __future__ import annotations

import itertools
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from canister.ao.lua.sandbox import Limits
from canister.ao.processes.messages import Done, Incoming, Outgoing, Place, derived_id
from canister.ao.processes.models import Context, Drawing, Model, Models, Said
from canister.ao.units import Settings, Units
from canister.errors import BadRequest, CanisterStopping, NotFound

NODE, OWNER = "n" * 43, "o" * 43
MODEL = "spelling"
_number = itertools.count()


@dataclass(slots=True)
class Spelling:
    """A model whose tokens are bytes, and which says the letter after the last one: z is the end of the text."""

    name: str = MODEL
    n_context: int = 2048
    n_said: int = 0
    is_stopped: bool = False
    fails: int = 0  # times
    gate: threading.Event | None = None  # nothing is said until it is set
    prompts: list[bytes] = field(default_factory=list)

    def tokens(self, text: bytes, *, is_first: bool) -> tuple[int, ...]:
        return tuple(text)

    def say(self, owner: str, context: Context, n_tokens: int, drawing: Drawing) -> Said:
        if self.is_stopped:
            raise CanisterStopping("the model stops")
        if self.fails:
            self.fails -= 1
            raise BadRequest("the model has failed")
        if not context.said:
            self.prompts.append(bytes(context.prompt))
        if self.gate is not None:
            self.gate.wait(60)
        said = list(context.said)
        pieces: list[bytes] = []
        is_over = False
        for _ in range(n_tokens):
            token = ((context.prompt + tuple(said))[-1] - 96) % 26 + 97
            if token == ord("z"):
                is_over = True
                break
            said.append(token)
            pieces.append(bytes([token]))
        self.n_said += len(pieces)
        after = replace(context, said=tuple(said), n_decoded=max(len(said) - 1, 0), is_over=is_over)
        receipts = (f"{self.n_said}-receipt",)
        return Said(after, tuple(pieces), 100 * len(pieces), 10 * len(pieces), receipts)


@dataclass(slots=True)
class Shelf:
    model: Spelling = field(default_factory=Spelling)

    def open(self, id: str) -> Model:
        if id != MODEL:
            raise NotFound(f"there is no model {id}")
        return self.model

    def close(self) -> None:
        self.model.is_stopped = True


def message(target: str, action: str = "", data: str = "", owner: str = OWNER, **tags: str) -> Incoming:
    named = {"Action": action, **{name.replace("_", "-"): value for name, value in tags.items()}}
    encoded = tuple((name.encode(), value.encode()) for name, value in named.items() if value)
    return Incoming(derived_id("test", next(_number)), owner, target, data.encode(), encoded)


def tags(sent: Outgoing | Incoming) -> Mapping[str, str]:
    return {name.decode(): value.decode() for name, value in sent.tags}


@dataclass(slots=True)
class Driven:
    units: Units

    async def program(self, code: str = "", owner: str = OWNER, **named: str) -> str:
        """A new process that has run this code."""
        place = await self.units.spawn(message("", "", code, owner, Module="m", On_Boot="Data", **named))
        made = await self.done(place)
        assert made.result.error is None, made.result.error
        return place.process

    async def send(self, target: str, action: str = "", data: str = "", owner: str = OWNER, **named: str) -> Done:
        return await self.done(await self.units.send(message(target, action, data, owner, **named)))

    async def eval(self, process: str, code: str) -> str:
        done = await self.send(process, "Eval", code)
        assert done.result.error is None, done.result.error
        return done.result.output.decode()

    async def done(self, place: Place) -> Done:
        found = await self.units.result(place.process, place.slot, wait_seconds=300)
        assert found is not None
        return found

    async def heard(self, process: str, slot: int) -> Done:
        """What came of a message that somebody else sends, once it has come."""

        from tests.traces import until_so  # which loads what a process that only pays does without

        async def came() -> bool | None:
            return await self.units.current_slot(process) >= slot or None

        await until_so(came)
        found = await self.units.result(process, slot, wait_seconds=300)
        assert found is not None
        return found


@asynccontextmanager
async def opened(folder: Path, models: Models | None = None, **named: object) -> AsyncIterator[Driven]:
    settings = Settings(folder, NODE, models, model=MODEL, has_herd=False, limits=Limits(), n_cages=4)
    units = await Units.open(replace(settings, **named))  # type: ignore[arg-type]
    try:
        yield Driven(units)
    finally:
        await units.aclose()
