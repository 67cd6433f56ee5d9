"""Streams whose worker is killed at a random token: their bytes are those of a run that nobody disturbed."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path

import pytest

from canister.api.herd_frames import Text
from canister.api.herd_wire import Done, Run
from canister.errors import Trap
from canister.herd.jobs import StreamBroken, TextSoFar
from canister.herd.worker_client import OnText, WorkerClient
from canister.herd.workers import Worker
from tests.herd.herds import LINES, PROMPT, QUESTIONS, InProcess, herd_in
from tests.traces import until

pytestmark = pytest.mark.anyio


class KillAt:
    """Kills the worker of a stream when it has told so many characters, once."""

    def __init__(self, n_characters: int) -> None:
        self.n_characters = n_characters
        self.has_killed = False
        self.pid = 0

    def watching(self, client: WorkerClient, on_text: OnText) -> OnText:
        n_told = 0

        def told(piece: Text) -> None:
            nonlocal n_told
            on_text(piece)
            n_told += len(piece.text)
            if n_told >= self.n_characters and not self.has_killed:
                self.has_killed, self.pid = True, client.ref.pid
                os.kill(client.ref.pid, signal.SIGKILL)

        return told


async def stream(herd: InProcess, question: str, *flags: str) -> bytes:
    args = ["-p", PROMPT.format(question), "--temp", "0.9", "--seed", "7", "-n", "40", "--ignore-eos", *flags]
    response = await herd.post("run_query", {"args": args}, accept=LINES)
    assert response.status_code == 200
    return response.content


@pytest.mark.parametrize("n_kills", [4, pytest.param(50, marks=[pytest.mark.nightly, pytest.mark.timeout(3600)])])
async def test_the_bytes_of_a_stream_whose_worker_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_kills: int
) -> None:
    chance, run = random.Random(3), WorkerClient.run
    now: list[KillAt] = []

    async def watched(client: WorkerClient, message: Run, on_text: OnText | None = None) -> Done:
        if on_text is not None and now:
            on_text = now[0].watching(client, on_text)
        return await run(client, message, on_text)

    async with herd_in(tmp_path) as herd:
        monkeypatch.setattr(WorkerClient, "run", watched)
        wanted = {question: await stream(herd, question) for question in QUESTIONS[:2]}
        texts = {question: b"".join(_texts(content)) for question, content in wanted.items()}
        assert min(map(len, texts.values())) > 40
        for number in range(n_kills):
            await herd.ready(2)
            question = QUESTIONS[number % 2]
            now[:] = [KillAt(chance.randrange(1, len(texts[question].decode())))]
            found = await stream(herd, question)
            assert now[0].has_killed
            assert b"".join(_texts(found)) == texts[question], _end(found)
            assert _end(found) == _end(wanted[question])
            # A stream that had told all may be over before its worker is: the next one is not to meet that.
            await until(lambda: all(worker.is_gone or worker.ref.pid != now[0].pid for worker in herd.workers))


def _texts(content: bytes) -> list[bytes]:
    return [json.loads(line)["text"].encode() for line in content.splitlines() if b'"text"' in line]


def _end(content: bytes) -> bytes:
    return content.splitlines()[-1]


async def test_a_stream_of_a_model_that_is_not_exact_ends_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = WorkerClient.run
    kills = KillAt(5)

    async def watched(client: WorkerClient, message: Run, on_text: OnText | None = None) -> Done:
        return await run(client, message, None if on_text is None else kills.watching(client, on_text))

    async with herd_in(tmp_path) as herd:
        monkeypatch.setattr(WorkerClient, "run", watched)
        monkeypatch.setattr(Worker, "is_exact", lambda worker, canister: False)
        content = await stream(herd, QUESTIONS[0], "-n", "1500")  # it is killed long before it has told all
        assert b"not exact" in _end(content)
        assert b'"reject_code":2' in _end(content).replace(b" ", b"")
        await herd.ready(2)
        assert b'"Ok"' in await stream(herd, QUESTIONS[0])


def test_what_is_told_again_is_passed_over() -> None:
    told: list[str] = []
    text = TextSoFar(lambda piece, echo: told.append(piece))
    for piece in ("Once", " upon", " a"):
        text.take(piece, False)
    text.begin()
    for piece in ("On", "ce upo", "n a ti", "me"):
        text.take(piece, False)
    assert told == ["Once", " upon", " a", " ti", "me"]
    text.begin()
    with pytest.raises(StreamBroken):
        text.take("Twice", False)
    assert issubclass(StreamBroken, Trap)
