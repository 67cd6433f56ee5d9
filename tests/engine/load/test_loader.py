"""What is chosen and found out when a model is loaded, what is refused, and models of other kinds."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from canister.engine.engine import Engine, LoadParams, ModelError
from canister.engine.llama import Context, Model
from canister.engine.llama_log import log
from canister.engine.llama_types import ContextParams
from canister.engine.load import loader
from canister.engine.load.ways import Restrictions
from canister.engine.schedule.scheduler import ALONE
from canister.engine.thread import DecodeThread
from canister.engine.traits import Traits
from canister.errors import BadRequest
from canister.flags.parse import RopeParams
from canister.system.machine import usable_cores
from tests.engine.driver import GREEDY, Driver
from tests.engine.test_batch_invariance import SAMPLED, some_prompt
from tests.engine.tiny_models import EOS, N_VOCAB

Drive = Callable[..., Driver]


def refusal(path: Path, **params: Any) -> str:
    with pytest.raises(ModelError) as caught:
        asyncio.run(Engine.load(LoadParams(path, name="models/some.gguf", **params)))
    return str(caught.value)


def test_info(drive: Drive, model_path: Callable[[str], Path]) -> None:
    info = drive("q8_0", n_slots=3, n_ctx=300, n_batch=64, n_ubatch=32, model_id=b"id", name="tiny").engine.info
    assert (info.n_ctx, info.n_batch, info.n_ubatch, info.n_slots) == (300, 64, 32, 3)
    assert (info.name, info.model_id, info.model_bytes) == ("tiny", b"id", model_path("q8_0").stat().st_size)
    assert (info.type_k, info.type_v, info.flash_attn) == ("f16", "f16", False)
    assert info.kv_bytes_per_token == 3 * 2 * 4 * 32 * 2
    assert info.add_bos
    assert info.can_shift
    assert "Q8_0" in info.description
    assert info.chat_template is None


def test_defaults_come_from_model_and_machine(drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = drive("q8_0").engine
    assert engine.info.n_ctx == 512
    for available, n_slots in (
        (10**12, 8),
        (4 * 3 * 768 * 1536 + engine.mapped_bytes, 3),
        (3 * 768 * 1536 + engine.mapped_bytes, 1),
    ):
        monkeypatch.setattr(loader, "available_bytes", lambda available=available: available)
        assert drive("q8_0").engine.info.n_slots == n_slots


@pytest.mark.parametrize("model", ["f32", "q8_0"])
def test_kernels_are_compared(drive: Drive, model: str) -> None:
    engine = drive(model, n_slots=1).engine
    assert engine._core.runner._traits.needs_pairs == (model == "f32")


def test_layouts_tell_contexts_apart(drive: Drive) -> None:
    contexts: list[dict[str, Any]] = [
        {},
        {"type_k": "q8_0"},
        {"flash_attn": "on"},
        {"type_k": "q8_0", "type_v": "q8_0"},
        {"rope": RopeParams(scaling="linear", freq_scale=0.5)},
    ]
    infos = [drive("q8_0", n_slots=1, **context).engine.info for context in contexts]
    assert len({info.kv_layout for info in infos}) == len(contexts)
    assert [info.flash_attn for info in infos] == [False, False, True, True, False]
    assert drive("q8_0", n_slots=2, n_ctx=99).engine.info.kv_layout == infos[0].kv_layout
    other_kernels = drive("q8_0", restrictions=Restrictions(extra_buffers=False)).engine.info.kv_layout
    assert other_kernels not in {info.kv_layout for info in infos}


@pytest.mark.parametrize(
    "types", [("f16", "f16"), ("q8_0", "f16"), ("q8_0", "q8_0"), ("q4_0", "q4_0"), ("f32", "bf16")]
)
def test_kv_types(drive: Drive, types: tuple[str, str]) -> None:
    """Rows of every type are stored and restored; what follows is what follows without."""
    driver = drive("q8_0", n_slots=2, n_ctx=200, type_k=types[0], type_v=types[1])
    chat = driver.chat("k")
    driver.run(chat.answer(some_prompt(1), 10))
    copy = chat.copy("copy")
    result = driver.run(copy.call([3, 4], n_predict=5))
    assert result.redecoded == 0
    assert driver.run(chat.call([3, 4], n_predict=5)).sampled == result.sampled


def test_tokenizing(drive: Drive) -> None:
    engine = drive("q8_0", n_ctx=64).engine
    assert engine.tokenize("</s>", add_bos=False) == [EOS]
    assert EOS not in engine.tokenize("</s>", add_bos=True, special=False)
    assert engine.tokenize("", add_bos=True) == [1]
    for text in ("héllo\n €", "a\0b", "😀", "x" * 500):
        tokens = engine.tokenize(text, add_bos=True)
        assert b"".join(engine.piece(token, False) for token in tokens).decode().strip() == text
    assert engine.tokenize("\ud800", add_bos=True)
    assert [engine.piece(EOS, special) for special in (False, True)] == [b"", b"</s>"]
    assert engine.is_eog(EOS)
    assert not engine.is_eog(5)
    with pytest.raises(BadRequest):
        engine.piece(N_VOCAB, True)


def test_texts_that_are_too_long_take_no_quadratic_time(drive: Drive) -> None:
    engine = drive("q8_0", n_ctx=64).engine
    assert len(engine.tokenize("\n" * 300_000, add_bos=True)) > 64


def test_files_that_are_no_models(tmp_path: Path, model_path: Callable[[str], Path]) -> None:
    model = model_path("q8_0").read_bytes()
    for name, data in {"empty": b"", "text": b"hello", "half": model[: len(model) // 2], "head": model[:100]}.items():
        path = tmp_path / name
        path.write_bytes(data)
        assert "models/some.gguf" in refusal(path)
    assert "No such file" in refusal(tmp_path / "missing")
    assert "models/some.gguf" in refusal(tmp_path)


def test_settings_that_do_not_go_together(model_path: Callable[[str], Path]) -> None:
    assert "needs flash attention" in refusal(model_path("q8_0"), type_v="q8_0", flash_attn="off")
    assert "no KV cache type q9" in refusal(model_path("q8_0"), type_k="q9")


def test_quiet(drive: Drive, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    driver = drive("q8_0")
    driver.run(driver.chat().call([1, 2, 3], n_predict=3))
    (tmp_path / "bad.gguf").write_bytes(b"bad")
    refusal(tmp_path / "bad.gguf")
    assert capfd.readouterr() == ("", "")
    assert log.handlers


def test_flash_attention(drive: Drive) -> None:
    driver = drive("q8_0", n_slots=2, n_ctx=200, flash_attn="on")
    chat = driver.chat("k")
    driver.run(chat.answer(some_prompt(1), 10, [5, 30]))
    driver.engine.forget("k")
    assert driver.run(chat.call([3], n_predict=2)).redecoded == 0


@pytest.mark.parametrize("model", ["gemma", "mamba"])
@pytest.mark.parametrize("n_slots", [1, 3])
def test_other_memories(drive: Drive, model: str, n_slots: int) -> None:
    """No rows to store, and for Mamba no going back: chats go on from their tokens."""
    driver = drive(model, n_slots=n_slots, n_ctx=200)
    assert driver.engine.info.kv_layout == b""
    whole = driver.run(driver.chat(None, sampling=SAMPLED).answer(some_prompt(1), 20))
    chats = [driver.chat(name, sampling=SAMPLED) for name in "ab"]
    answers = driver.together(*(chat.answer(some_prompt(1), 20, [7] * 20) for chat in chats))
    assert [len(answer) for answer in answers] == [20, 20]
    if model == "gemma":
        assert answers == [whole, whole]
    assert all(not chat.segments for chat in chats)
    query = chats[0].copy("a").call
    queries = [driver.run(query(prompt, keep=False, n_predict=5)).sampled for prompt in (some_prompt(2), [])]
    assert queries[0] == queries[1]


def test_a_memory_that_refuses_to_remove(drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever the tail of a stream cannot be removed, the slot is dropped and decoded again."""
    driver = drive("q8_0", n_slots=2, n_ctx=200)
    expected = driver.run(driver.chat(None).answer(some_prompt(1), 20))
    context = driver.engine._core.runner._context
    monkeypatch.setattr(context, "remove", lambda *_: False)
    monkeypatch.setattr(driver.engine._core.runner, "_traits", Traits(None, False, False, 1))
    monkeypatch.setattr(driver.engine._core.runner._streams, "layout", None)
    chat = driver.chat("k", sampling=GREEDY)
    assert driver.run(chat.answer(some_prompt(1), 20, [31, 3, 3])) == expected
    driver.run(chat.call(keep=False, n_predict=3))
    assert driver.engine.residents()["k"] == 0
    assert driver.run(chat.call([3], n_predict=0)).redecoded == len(chat.tokens) - 1


@pytest.mark.parametrize("n_asked", [32, 100, 512])
def test_only_the_context_that_serves_is_left(
    model_path: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, n_asked: int
) -> None:
    """Those for measuring are closed before it is made, and it has no more rows than the scheduler ever fills."""
    opened: list[Context] = []

    def made(model: Model, shape: ContextParams, name: str) -> Context:
        assert all(context._ctx is None for context in opened)
        opened.append(Context(model, shape, name))
        return opened[-1]

    monkeypatch.setattr(loader, "Context", made)
    loaded = loader.load(LoadParams(model_path("q8_0"), n_slots=3, n_ctx=512, n_ubatch=n_asked))
    has_choice = usable_cores() > 1  # of how many threads decode
    assert len(opened) == 3 + has_choice  # to measure kernels, and speeds, to look, to serve
    assert loaded.context is opened[-1]
    assert loaded.context.params.n_rows == min(max(n_asked // 16 * 16, loader.MIN_ROWS), ALONE)
    loaded.context.close()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_closing_frees_the_memory(model_path: Callable[[str], Path]) -> None:
    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    thread = DecodeThread()  # as in a server: each new one would have an arena of malloc's to itself

    def once() -> None:
        with Driver(model_path("q8_0"), thread=thread, n_slots=8, n_ctx=2048) as driver:
            driver.run(driver.chat("k").call(some_prompt(1), n_predict=3))

    kv_bytes = 8 * 2048 * 1536
    for _ in range(3):  # the allocator keeps some
        once()
    before = resident_bytes()
    for _ in range(6):
        once()
    assert resident_bytes() - before < 3 * kv_bytes
    thread.close()
