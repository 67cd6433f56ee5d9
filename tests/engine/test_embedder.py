"""Vectors of texts: those of llama.cpp, whoever else asks; turns, long texts in pieces, and calls that go away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from canister.engine.embedder import Pace, Vectors, normalized
from canister.engine.engine import Engine
from canister.engine.llama_types import ModelError
from canister.engine.load.loaded import LoadParams
from canister.engine.load.trial import Trials
from canister.engine.request import Tokens
from canister.engine.thread import DecodeThread
from canister.errors import BadRequest, ContextExceeded, NotSupported
from canister.model_file.gguf import read_gguf
from canister.model_file.kind import embedding_of
from tests.embedding_models import N_CTX, ROWS, as_llama_cpp_python, distance, embedding_model
from tests.engine.driver import NOTHING, Driver, Turnstile, cancel

TEXTS = ["hello world", "the cat sat on the mat", "a", "the " * 80, "hello " * 70, "mat hello"]
NEAR = 5e-5  # of the same text beside others, in a vector of length 1
SHORT = ("bert", "gemma-embedding", "qwen3", "llama")


def in_nightly(name: str) -> object:
    return name if name in SHORT else pytest.param(name, marks=pytest.mark.nightly)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("embedding models")

    def path_of(architecture: str) -> Path:
        path = folder / f"{architecture}.gguf"
        return path if path.exists() else embedding_model(path, architecture)

    return path_of


def settings(path: Path) -> dict[str, Any]:
    found = embedding_of(read_gguf(path))
    assert found is not None
    return {"pooling": found.pooling, "reads_whole": found.reads_whole, "n_threads": 1}


@pytest.fixture
def drive(model: Callable[[str], Path]) -> Iterator[Callable[..., Driver]]:
    drivers: list[Driver] = []

    def start(architecture: str, **params: object) -> Driver:
        path = model(architecture)
        drivers.append(Driver(path, **{**settings(path), **params}))
        return drivers[-1]

    yield start
    for driver in drivers:
        driver.close()


def tokens_of(engine: Engine, texts: list[str]) -> list[Tokens]:
    return [np.array(engine.tokenize_framed(text), np.int32) for text in texts]


@pytest.mark.parametrize("architecture", [in_nightly(name) for name in ROWS])
def test_vectors_are_those_of_llama_cpp_python(
    architecture: str, drive: Callable[..., Driver], model: Callable[[str], Path]
) -> None:
    driver = drive(architecture)
    texts = tokens_of(driver.engine, TEXTS)
    expected = as_llama_cpp_python(model(architecture), TEXTS)
    together = driver.run(driver.engine.embed("a", texts))
    assert distance(together, expected) < NEAR
    alone = np.concatenate([driver.run(driver.engine.embed("a", [text])) for text in texts])
    assert distance(alone, expected) < 1e-6
    assert together.shape == (len(TEXTS), driver.engine.info.n_embd)


def test_in_exact_mode_a_text_is_the_same_beside_others(drive: Callable[..., Driver]) -> None:
    driver = drive("bert", exact="on")
    texts = tokens_of(driver.engine, TEXTS)
    together = driver.run(driver.engine.embed("a", texts))
    alone = np.concatenate([driver.run(driver.engine.embed("a", [text])) for text in texts])
    assert np.array_equal(together, alone)
    assert driver.engine.info.policy.is_exact


def test_short_texts_share_decodes_and_no_caller_waits_for_another(drive: Callable[..., Driver]) -> None:
    driver = drive("bert")
    engine = driver.engine
    few, many = tokens_of(engine, ["cat"]), tokens_of(engine, ["the " * 100] * 40)
    order: list[str] = []

    async def ask(caller: str, texts: list[Tokens]) -> Vectors:
        found = await engine.embed(caller, texts)
        order.append(caller)
        return found

    async def all_of_them() -> None:
        await asyncio.gather(ask("greedy", many), *(ask(f"modest {n}", few) for n in range(3)))

    n_before = engine.stats().n_steps
    driver.run(all_of_them())
    assert order[-1] == "greedy"
    assert engine.stats().n_steps - n_before <= 11  # 43 texts of 4 086 tokens, in decodes of at most 512
    assert engine.stats().n_waiting == engine.stats().n_running == 0


def test_a_long_text_in_pieces_holds_nobody_up(drive: Callable[..., Driver], model: Callable[[str], Path]) -> None:
    """Between two pieces of it, short texts of others are read."""
    driver = drive("qwen3", n_ctx=0)
    engine = driver.engine
    long, short = "hello " * 160, "cat"
    expected = as_llama_cpp_python(model("qwen3"), [long[: 6 * 80], short, "cat cat"])
    texts = tokens_of(engine, [long[: 6 * 80], short, "cat cat"])
    assert len(texts[0]) > 256

    async def all_of_them() -> list[Vectors]:
        return await asyncio.gather(*(engine.embed(str(n), [text]) for n, text in enumerate(texts)))

    for _ in range(3):
        assert distance(np.concatenate(driver.run(all_of_them())), expected) < NEAR


def test_a_call_that_goes_away_leaves_the_others_right(
    drive: Callable[..., Driver], model: Callable[[str], Path]
) -> None:
    for architecture in ("bert", "qwen3"):
        driver = drive(architecture)
        engine = driver.engine
        long = tokens_of(engine, ["hello " * 70] * 30)
        kept = tokens_of(engine, TEXTS[:3])

        async def some_go(engine: Engine = engine, long: list[Tokens] = long, kept: list[Tokens] = kept) -> Vectors:
            with Turnstile(engine, 2) as turnstile:
                gone = [asyncio.create_task(engine.embed(caller, long)) for caller in ("a", "b")]
                stays = asyncio.create_task(engine.embed("b", kept))
                await turnstile.reached()
                for task in gone:
                    await cancel(task)
            results = await asyncio.gather(*gone, return_exceptions=True)
            assert all(isinstance(result, asyncio.CancelledError) for result in results)
            return await stays

        found = driver.run(some_go())
        assert distance(found, as_llama_cpp_python(model(architecture), TEXTS[:3])) < NEAR
        assert engine.stats().n_waiting == 0
        assert engine.stats().n_cancelled == 2, architecture


def test_beside_a_chat_long_decodes_are_done_aside(
    model: Callable[[str], Path], model_path: Callable[[str], Path]
) -> None:
    """With a pause of nothing every decode is too long for the shared thread, and all is the same."""
    thread, path = DecodeThread(), model("bert")
    with (
        Driver(model_path("f32"), thread=thread, n_slots=1, n_threads=1, exact="off") as chatting,
        Driver(path, thread=thread, max_pause_ms=0, **settings(path)) as embedder,
    ):
        texts = tokens_of(embedder.engine, TEXTS)
        expected = as_llama_cpp_python(model("bert"), TEXTS)
        for _ in range(2):
            assert distance(embedder.run(embedder.engine.embed("a", texts)), expected) < NEAR
        chat = chatting.chat("chat")
        assert len(chatting.run(chat.answer([1, 300, 301], 5))) == 5
    thread.close()


def test_closing_gives_up_what_waits(drive: Callable[..., Driver]) -> None:
    driver = drive("bert")
    texts = tokens_of(driver.engine, ["hello " * 100] * 60)

    async def close_early() -> None:
        with Turnstile(driver.engine, 1) as turnstile:
            task = asyncio.create_task(driver.engine.embed("a", texts))
            await turnstile.reached()
            closing = asyncio.create_task(driver.engine.close(drain=False))
            await asyncio.sleep(0)  # the engine is told
        await closing
        await asyncio.wait([task])
        assert task.cancelled() or task.exception() is not None

    driver.run(close_early())


def test_what_cannot_be_read(drive: Callable[..., Driver]) -> None:
    driver = drive("bert")
    embed = driver.engine.embed
    for wrong in ([-1], [128], [2**31 - 1], []):
        with pytest.raises(BadRequest):
            driver.run(embed("a", [np.array([1], np.int32), np.array(wrong, np.int32)]))
    with pytest.raises(ContextExceeded):
        driver.run(embed("a", [np.ones(N_CTX + 1, np.int32)]))
    assert driver.run(embed("a", [])).shape == (0, 64)
    assert driver.run(embed("a", [np.ones(N_CTX, np.int32)])).shape == (1, 64)
    with pytest.raises(NotSupported, match="is an embedding model"):
        driver.run(driver.engine.generate(NOTHING))


@pytest.mark.anyio
async def test_a_context_beyond_the_models(model: Callable[[str], Path]) -> None:
    with pytest.raises(ModelError, match="was trained on 512; give --ctx-size 512 or less"):
        await Engine.load(LoadParams(model("bert"), **settings(model("bert")), n_ctx=513))


@pytest.mark.anyio
@pytest.mark.parametrize("architecture", ["bert", "qwen3"])
async def test_a_file_is_tried_as_it_will_be_used(
    architecture: str, model: Callable[[str], Path], tmp_path: Path
) -> None:
    path = model(architecture)
    params = LoadParams(path, name="embed.gguf", model_id=bytes(32), **settings(path))
    trials = Trials(tmp_path)
    found = await trials.check(params)
    assert (found.restrictions.reasons, trials.n_tried) == ((), 1)
    assert await Trials(tmp_path).check(params) == found
    # Numbers that are none are found before the server has them.
    data = path.read_bytes()
    (tmp_path / "bad.gguf").write_bytes(data[: len(data) // 2] + b"\xff" * (len(data) - len(data) // 2))
    bad = LoadParams(tmp_path / "bad.gguf", name="bad.gguf", model_id=bytes([1] * 32), **settings(path))
    with pytest.raises(ModelError, match="no numbers"):
        await trials.check(bad)


def test_how_long_a_decode_takes() -> None:
    pace = Pace(0.001)
    assert pace.seconds(100) == pytest.approx(0.1)
    pace.seen(100, 0.2)
    assert pace.seconds(100) == pytest.approx(0.2)
    assert pace.seconds(1000) == pytest.approx(0.002 * 1000 * 8)  # never seen: by the square
    pace.seen(100, 0.1)
    assert 0.1 < pace.seconds(100) < 0.2


def test_length_one() -> None:
    found = normalized(np.array([[3, 4], [0, 0], [1e-30, 0]], np.float32))
    assert np.allclose(found, [[0.6, 0.8], [0, 0], [1, 0]])
