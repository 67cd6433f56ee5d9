"""A herd gets workers while work waits and loses them in a calm; chats of those that leave go on the same."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import pytest

from canister.errors import BadRequest
from canister.herd import herd as herds
from canister.herd import scaling
from canister.herd.autoscale import ScalePolicy
from canister.herd.settings import HerdSettings
from tests.herd.herds import QUESTIONS, chat, herd_in
from tests.traces import until

pytestmark = pytest.mark.anyio


async def test_workers_come_with_the_work_and_leave_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(herds, "ScalePolicy", partial(ScalePolicy, wait_seconds=0.05, calm_seconds=2.0))
    monkeypatch.setattr(scaling, "LOOK_SECONDS", 0.1)
    async with herd_in(tmp_path, workers=1, herd={"most_workers": 2, "store_rows": True}) as herd:
        said: set[str] = set()

        async def talk(name: str) -> None:
            """One chat after the other, until both workers have had some."""
            n = 0
            while sum(worker.n_done > 20 for worker in herd.workers) < 2:
                records = await chat(herd.call, f"{name}-{n}", QUESTIONS[0], n=60)
                said.add("".join(record["output"] for record in records[1:]))
                n += 1

        await asyncio.gather(*(talk(f"c{n}") for n in range(12)))
        await until(lambda: [worker.id for worker in herd.workers] == ["w1"])
        assert len(said) == 1
        flags = ["--prompt-cache-all", "--temp", "0.9", "--seed", "7", "-p", "And then?", "-n", "4"]
        calls = (herd.call("run_update", {"args": ["--prompt-cache", f"c{n}-0.cache", *flags]}) for n in range(12))
        assert len({record["output"] for record in await asyncio.gather(*calls)}) == 1


@pytest.mark.parametrize(
    "given", [{"workers": 3, "most_workers": 2}, {"workers": 0, "ray": "127.0.0.1:6379"}, {"needs": {"CPU": 2.0}}]
)
def test_settings_that_do_not_go_together_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(BadRequest, match="--"):
        HerdSettings(**given)  # type: ignore[arg-type]
