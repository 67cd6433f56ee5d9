"""What is shown, and what is done, when a server goes away in the middle of an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from canister.cli.talk import again
from canister.cli.talk.again import Shown, when_back
from canister.client.errors import NotConnected, Unreachable
from canister.client.local_server import LocalServer
from canister.client.rest import Canister
from canister.model_file.shipped import shipped_model


@pytest.mark.parametrize(
    ("first", "second", "shown"),
    [
        ([" A", " b"], [" A", " b c", " d"], "A b c d"),
        ([], [" A", " b"], "A b"),
        ([" A b"], [" A", " b"], "A b"),
        ([" A b"], [" A", " x", " y"], "A b\nA x y"),
        ([" ", " A"], [" A", " b"], "A b"),
    ],
)
def test_an_answer_goes_on_where_it_broke_off(
    first: list[str], second: list[str], shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = Shown(is_raw=False, is_silent=False)
    for pieces in (first, second):
        answer.begin()
        for piece in pieces:
            answer.add(piece)
    assert capsys.readouterr().out == shown
    assert answer.text == "".join(second)


def test_work_is_done_again_when_the_server_is_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = shipped_model()
    assert model is not None

    async def work_while_it_restarts(server: LocalServer) -> int:
        times = 0
        async with Canister(server.url, "llama_cpp", server.api_key) as canister:
            await canister.put_file("models/m.gguf", _blocks(model))
            await canister.call("load_model", {"args": ["--model", "models/m.gguf"]})

            async def work() -> int:
                nonlocal times
                times += 1
                if times == 1:
                    server.kill()
                    asyncio.get_running_loop().call_later(0.5, server.start)
                await canister.call("whoami")
                return times

            return await when_back(canister, work)

    with LocalServer(tmp_path / "data") as server:
        assert asyncio.run(work_while_it_restarts(server)) == 2
    assert capsys.readouterr().err.count("the server went away") == 1


async def _blocks(file: Path) -> AsyncIterator[bytes]:
    yield file.read_bytes()


def test_patience_ends() -> None:
    async def ask() -> None:
        async with Canister("http://127.0.0.1:1", "llama_cpp") as canister:
            await when_back(canister, lambda: canister.call("whoami"), patience_seconds=0.01)

    with pytest.raises(NotConnected):
        asyncio.run(ask())


def test_work_that_the_server_crashes_at_is_not_done_for_ever(running_server: LocalServer) -> None:
    times = 0

    async def crash() -> None:
        nonlocal times
        times += 1
        raise Unreachable("gone")

    async def ask() -> None:
        async with Canister(running_server.url, "llama_cpp", running_server.api_key) as canister:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(again, "_is_back", _at_once)
                await when_back(canister, crash)

    with pytest.raises(Unreachable):
        asyncio.run(ask())
    assert times == again.MOST_TIMES


async def _at_once(*_: object) -> bool:
    return True
