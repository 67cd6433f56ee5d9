"""Every architecture that this build of llama.cpp knows: it runs as promised, or is refused for what it is."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from canister.cli.shared.status_view import as_few_lines
from canister.model_file.gguf import read_gguf
from canister.model_file.kind import ARCHITECTURES as OTHER_KINDS
from canister.model_file.kind import why_no_chat
from tests.architectures.conversation import OTHER_PROMPT, PROMPT, SETTINGS, Chat, killed, same, whole
from tests.architectures.table import NOT_WRITTEN, REFUSED, ROWS
from tests.architectures.writer import NotWritableError, diffusion_architectures, known_architectures, write_model
from tests.engine.gguf_writer import write_gguf
from tests.harness import canister_in, someone

pytestmark = pytest.mark.anyio

KNOWN = known_architectures()
# One of each kind of memory, and those in which llama.cpp mixes up chats or rows.
SHORT = ("llama", "gemma3", "mamba", "lfm2", "deepseek2", "plamo2", "kimi-linear", "cogvlm")
ONE_CHAT = ("plamo2", "kimi-linear", "minimax-01")


def in_nightly(name: str) -> object:
    return name if name in SHORT else pytest.param(name, marks=pytest.mark.nightly)


def test_every_architecture_of_the_build_is_here() -> None:
    """One that a new llama.cpp brings must be written, refused for its kind, or named with the reason."""
    here = {*ROWS, *OTHER_KINDS, *NOT_WRITTEN}
    assert not [name for name in KNOWN if name not in here]
    assert not [name for name in (*ROWS, *NOT_WRITTEN) if name not in KNOWN]
    assert not ROWS.keys() & OTHER_KINDS.keys()


@pytest.mark.parametrize("name", NOT_WRITTEN)
def test_what_is_not_written_cannot_be(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROWS, name, ROWS["llama"])
    with pytest.raises(NotWritableError, match="unsupported model architecture"):
        write_model(tmp_path / "model.gguf", name)


@pytest.mark.parametrize("name", OTHER_KINDS)
def test_other_kinds_are_told_by_their_header(name: str, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "model.gguf", {"general.architecture": name})
    assert name in str(why_no_chat(read_gguf(file)))


def test_all_that_llama_cpp_calls_diffusion_models_are_refused() -> None:
    found = diffusion_architectures()
    assert found
    assert not [name for name in found if "diffusion" not in OTHER_KINDS.get(name, ("",))[0]]


@pytest.mark.parametrize("name", REFUSED)
async def test_what_llama_cpp_cannot_run_is_refused(name: str, tmp_path: Path) -> None:
    async with canister_in(tmp_path / "canister", **SETTINGS) as harness:
        await harness.upload(write_model(tmp_path / "model.gguf", name), "model.gguf")
        error = await harness.fails("load_model", {"args": ["--model", "model.gguf", "--ctx-size", "256"]})
        assert "cannot run this file" in error
        assert REFUSED[name] in error
        assert await harness.call("health")


@pytest.mark.parametrize("name", [in_nightly(name) for name in ROWS if name not in REFUSED])
async def test_a_chat_is_the_same_in_every_way(name: str, tmp_path: Path) -> None:
    """Cut into calls, beside another chat, and after a kill: what one uninterrupted call says."""
    model = write_model(tmp_path / "model.gguf", name)
    folder = tmp_path / "canister"
    async with canister_in(folder, **SETTINGS) as harness:
        await harness.load(model, "--ctx-size", "256")
        engine = harness.canister.model.engine
        assert engine is not None
        assert (engine.info.n_slots == 1) == (name in ONE_CHAT), engine.info.memory.notes
        told = as_few_lines({"name": "it", "id": "it", "engine": harness.canister.model.report()})
        assert ("one chat is decoded at a time" in told) == (name in ONE_CHAT)
        await harness.call("set_access", {"level": 1})
        expected, other = await whole(harness, PROMPT), await whole(harness, OTHER_PROMPT)
        await harness.limit(7)
        chats = [Chat(harness, PROMPT, someone(1)), Chat(harness, OTHER_PROMPT, someone(2))]
        await chats[0].finish()
        assert same(chats[0].conversation, expected), "cut into calls"
        chats = [Chat(harness, PROMPT, someone(3)), Chat(harness, OTHER_PROMPT, someone(4))]
        await asyncio.gather(*(chat.finish() for chat in chats))
        assert same(chats[0].conversation, expected), "beside another chat"
        assert same(chats[1].conversation, other), "beside another chat"
        chat = Chat(harness, PROMPT, someone(5))
        while chat.n_answered < 5:
            await chat.call()
        text, n_tried = await killed(folder, tmp_path / "after the kill", chat)
        assert same(text, expected), "killed in the middle"
        assert n_tried == 0, "a second load tries nothing again"
        await chat.finish()
        assert same(chat.conversation, expected), "beside its own copy"
