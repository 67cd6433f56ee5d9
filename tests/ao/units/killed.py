"""Units that pay for answers until they have all, beside two programs, in a process that may be killed:

    python -m tests.ao.units.killed FOLDER N

It prints a line when it begins, and one when each of N requests has ended. Started again, it goes on.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from canister.ao.processes.messages import Incoming, Place, derived_id, tags_of
from canister.ao.processes.models import Context, Drawing, Model, Said
from canister.ao.units import HERDER, TOKEN, Settings, Units
from tests.ao.units.world import MODEL, NODE, OWNER, Spelling

N_PAID = 9  # of needed: 1 + 3 words + 5 tokens
MINTED = 10**9


class Slow(Spelling):
    def say(self, owner: str, context: Context, n_tokens: int, drawing: Drawing) -> Said:
        time.sleep(0.002)
        return Spelling.say(self, owner, context, n_tokens, drawing)


@dataclass(frozen=True, slots=True)
class SlowShelf:
    def open(self, id: str) -> Model:
        return Slow()

    def close(self) -> None: ...


def payment(number: int) -> Incoming:
    """Each seventh pays too little."""
    tags = tags_of(Action="Transfer", Recipient=HERDER, Quantity=N_PAID - (number % 7 == 0), X_Tokens=5)
    about = ((b"X-Prompt", b"a b c%d" % number), (b"X-Reference", b"%d" % number))
    return Incoming(f"payment{number}", OWNER, TOKEN, b"", tags + about)


def settings(folder: Path) -> Settings:
    return Settings(folder, NODE, SlowShelf(), model=MODEL, n_workers=2, snapshot_every=4)


RELAY = """
  N = 0
  Handlers.add('Step', function(m) N = N + 1 Send({ Target = COUNTER, Action = 'Tick', N = tostring(N) }) end)
"""
COUNTER = """
  All = {}
  Handlers.add('Tick', function(m) All[#All + 1] = m.N end)
"""


def program(name: str, code: str) -> Incoming:
    tags = tags_of(Module="m", On_Boot="Data", Name=name)
    return Incoming(derived_id("killed", name), OWNER, "", code.encode(), tags)


def step(number: int) -> Incoming:
    return Incoming(f"step{number}", OWNER, derived_id("killed", "relay"), b"", tags_of(Action="Step"))


async def counted(units: Units) -> str:
    """What the second program has heard of the first."""
    id, process = derived_id("ask", time.time_ns()), derived_id("killed", "counter")
    place = await units.send(Incoming(id, OWNER, process, b"table.concat(All, ' ')", tags_of(Action="Eval")))
    done = await units.result(place.process, place.slot, wait_seconds=60)
    assert done is not None
    return done.result.output.decode()


async def ended(units: Units) -> list[str]:
    """The references that were answered or paid back, as often as they were."""
    found: list[str] = []
    after: int | None = None
    while True:
        page = await units.results(HERDER, after=after, limit=500)
        for done in page.done:
            for sent in done.result.messages:
                named = {name: value.decode() for name, value in sent.tags}
                is_end = named[b"Action"] == "Inference-Response" or named[b"Action"] == "Transfer"
                if is_end:
                    found.append(named[b"X-Reference"])
        if not page.has_next:
            return found
        after = page.done[-1].place.slot


async def main(folder: Path, n: int) -> None:
    units = await Units.open(settings(folder))
    print("begun", flush=True)
    if not await units.balance(OWNER) and not await units.balance(HERDER):
        minted = Incoming("minted", NODE, TOKEN, b"", tags_of(Action="Mint", Recipient=OWNER, Quantity=MINTED))
        place = await units.send(minted)
        await units.result(place.process, place.slot, wait_seconds=60)
    counter = await units.spawn(program("counter", COUNTER))
    await units.spawn(program("relay", f"COUNTER = '{counter.process}' {RELAY}"))
    places: list[Place] = []
    for number in range(n):
        places += [await units.send(payment(number)), await units.send(step(number))]
    for place in places:
        await units.result(place.process, place.slot, wait_seconds=60)

    while await units.current_slot(counter.process) < n or len(await ended(units)) < n:  # noqa: ASYNC110  no event
        await asyncio.sleep(0.02)
    print("ended", flush=True)
    await units.aclose()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
