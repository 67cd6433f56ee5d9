"""Chats that move between workers: with their rows where these can be had, from a peer or from the objects, and with
the same texts in any case.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from canister.herd.stored_transfers import StoredTransfers
from canister.herd.ways import Link
from canister.herd.workers import Worker
from tests.herd.herds import QUESTIONS, InProcess, chat, herd_in, hung
from tests.traces import until

pytestmark = pytest.mark.anyio

N_CHATS, N_ROUNDS = 24, 3


class Free(Link):
    """The model of these tests decodes a prompt faster than rows travel, so that nothing would."""

    def seconds(self, n_bytes: float) -> float:
        return 0.0


@asynccontextmanager
async def herd_of(folder: Path, workers: int, **herd: Any) -> AsyncIterator[InProcess]:
    async with herd_in(folder, workers=workers, slots=4, herd=herd) as made:
        speeds = transfers_of(made)._speeds
        speeds.peer, speeds.store = Free(0, 1e9), Free(0, 1e9)
        yield made


def flags_of(name: str) -> list[str]:
    return ["--prompt-cache", f"{name}.cache", "--prompt-cache-all", "--temp", "0.9", "--seed", "7", "-p", ""]


async def go_on(herd: InProcess, name: str) -> str:
    return str((await herd.call("run_update", {"args": [*flags_of(name), "-n", "6"]}))["output"])


def only(herd: InProcess, n: int) -> None:
    """From now on one worker alone takes jobs."""
    for at, worker in enumerate(sorted(herd.workers, key=lambda worker: worker.id)):
        worker.is_draining = at != n
    herd.herd.leader.changed()


def transfers_of(herd: InProcess) -> StoredTransfers:
    found = herd.herd.leader._transfers
    assert isinstance(found, StoredTransfers)
    return found


async def n_decoded(herd: InProcess, worker: Worker) -> int:
    """Tokens of prompts that a worker's engine has decoded."""
    caller = herd.host.identity.principal
    async with worker.client.passed_on("GET", "/metrics", b"", {"Host": "localhost"}, caller) as response:
        text = (await response.read()).decode()
        assert response.status == 200, text
    found = re.search(r"^canister_engine_prompt_tokens_total\S* (\S+)$", text, re.MULTILINE)
    assert found is not None, text
    return int(float(found[1]))


async def test_chats_that_move_take_their_rows_along(tmp_path: Path) -> None:
    async with herd_of(tmp_path, 3) as herd:
        names = [f"c{n}" for n in range(N_CHATS)]
        only(herd, 0)
        await asyncio.gather(*(chat(herd.call, name, QUESTIONS[n % 4], n=1) for n, name in enumerate(names)))
        stays = [await go_on(herd, name) for name in names[:4]]  # what one of each kind says that does not move
        only(herd, 1)
        moved = transfers_of(herd)
        before = [await n_decoded(herd, worker) for worker in herd.workers]
        n_before = moved.n_with_rows
        for n in range(N_ROUNDS):
            only(herd, (n + 1) % 3)
            said = await asyncio.gather(*(go_on(herd, name) for name in names[4:]))
            assert said == [said[i % 4] for i in range(N_CHATS - 4)], f"round {n}"
            if n == 0:
                assert said == [stays[i % 4] for i in range(4, N_CHATS)]
        assert moved.n_with_rows - n_before == N_ROUNDS * (N_CHATS - 4)
        assert moved.n_tokens_alone == 0
        after = [await n_decoded(herd, worker) for worker in herd.workers]
        # Only the last token of a chat that has moved is decoded again, for its logits.
        assert sum(after) - sum(before) <= N_ROUNDS * (N_CHATS - 4)


async def test_a_chat_goes_on_from_the_objects_when_its_worker_is_lost(tmp_path: Path) -> None:
    async with herd_of(tmp_path, 2, store_rows=True) as herd:
        await asyncio.gather(*(chat(herd.call, name, QUESTIONS[0], n=2) for name in ("lost", "stays")))
        owner = await owner_of(herd, "lost")
        await until_stored(herd, "lost")
        expected = await go_on(herd, "stays")
        async with hung(owner):  # no peer can be asked
            moved = transfers_of(herd)
            n_before = moved.n_from_store
            assert await go_on(herd, "lost") == expected
            assert moved.n_from_store == n_before + 1
            assert moved.n_tokens_alone == 0


async def test_a_chat_goes_on_when_the_worker_that_has_it_hangs_while_it_is_asked(tmp_path: Path) -> None:
    async with herd_of(tmp_path, 2) as herd:
        await asyncio.gather(*(chat(herd.call, name, QUESTIONS[1], n=1) for name in ("lost", "stays")))
        expected = await go_on(herd, "stays")
        owner = await owner_of(herd, "lost")
        only(herd, 1 - sorted(worker.id for worker in herd.workers).index(owner.id))
        os.kill(owner.ref.pid, signal.SIGSTOP)
        going_on = asyncio.create_task(go_on(herd, "lost"))
        await until(lambda: bool(owner.leases))  # it is asked for the rows
        async with hung(owner):
            assert await going_on == expected
            assert transfers_of(herd).n_tokens_alone == 1


async def test_rows_of_an_earlier_state_are_of_use_too(tmp_path: Path) -> None:
    async with herd_of(tmp_path, 2, store_rows=True) as herd:
        await asyncio.gather(*(chat(herd.call, name, QUESTIONS[1], n=2) for name in ("lost", "stays")))
        await until_stored(herd, "lost")
        store = herd.herd.store
        assert store is not None
        herd.herd.leader.chats.told = lambda chat, n_same: None  # from now on nothing is stored
        for name in ("lost", "stays"):
            await go_on(herd, name)
        owner = await owner_of(herd, "lost")
        expected = await go_on(herd, "stays")
        async with hung(owner):  # no peer can be asked
            assert await go_on(herd, "lost") == expected
            assert transfers_of(herd).n_from_store == 1


async def test_a_chat_goes_on_from_its_tokens_when_the_objects_are_damaged(tmp_path: Path) -> None:
    async with herd_of(tmp_path, 2, store_rows=True) as herd:
        await asyncio.gather(*(chat(herd.call, name, QUESTIONS[2], n=2) for name in ("lost", "stays")))
        await until_stored(herd, "lost")
        for path in (tmp_path / "objects" / "chat").rglob("*"):
            if path.is_file():
                path.write_bytes(path.read_bytes()[:-1000])
        owner = await owner_of(herd, "lost")
        expected = await go_on(herd, "stays")
        async with hung(owner):  # no peer can be asked
            assert await go_on(herd, "lost") == expected
            assert transfers_of(herd).n_tokens_alone == 1


async def test_only_the_newest_state_of_a_chat_is_kept_and_none_of_a_removed_one(tmp_path: Path) -> None:
    def stored() -> list[Path]:
        return [path for path in (tmp_path / "objects" / "chat").rglob("*") if path.is_file()]

    async with herd_of(tmp_path, 1, store_rows=True) as herd:
        await chat(herd.call, "one", QUESTIONS[0], n=1)
        await until_stored(herd, "one")
        first = stored()
        await go_on(herd, "one")
        await until_stored(herd, "one")
        await until(lambda: len(stored()) == 1 and stored() != first)
        await herd.call("remove_prompt_cache", {"args": ["--prompt-cache", "one.cache"]})
        await until(lambda: stored() == [])


async def owner_of(herd: InProcess, name: str) -> Worker:
    known = _known(herd, name)
    return next(worker for worker in herd.workers if worker.id == known.worker)


async def until_stored(herd: InProcess, name: str) -> None:
    await until(lambda: _known(herd, name).stored_head == _known(herd, name).head)


def _known(herd: InProcess, name: str) -> Any:
    chats = herd.herd.leader.chats._known.values()
    return next(chat for chat in chats if chat.key[2].endswith(f"/{name}.cache"))
