"""What is wrong with a model's memory is found by trying it: in real models, and where a fault is planted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from canister.engine.llama import Bytes, Context, Logits, Model
from canister.engine.llama_types import ContextParams, EngineFault
from canister.engine.load.memory_trial import (
    N_CELLS,
    N_OUTPUTS,
    N_ROWS,
    MemoryTraits,
    Stage,
    from_json,
    to_json,
    try_memory,
)
from tests.architectures.writer import write_model

ModelPath = Callable[[str], Path]


def traits(path: Path, kind: type[Context] = Context, *, flash_attn: bool = False) -> MemoryTraits:
    model = Model(path, path.name)

    def make(n_streams: int) -> Context:
        return kind(
            model, ContextParams(n_streams, N_CELLS, N_ROWS, 1, flash_attn=flash_attn, n_outputs=N_OUTPUTS), path.name
        )

    stages: list[Stage] = []
    found = try_memory(make, model.n_vocab, lambda stage, _: stages.append(stage))
    assert stages == ["chunks", "states", "streams"]
    return found


@pytest.mark.parametrize("flash_attn", [False, True])
@pytest.mark.parametrize("name", ["q8_0", "f32", "gemma", "mamba"])
def test_nothing_is_wrong_with_these(name: str, flash_attn: bool, model_path: ModelPath) -> None:
    assert traits(model_path(name), flash_attn=flash_attn) == MemoryTraits()


def test_plamo2_writes_into_the_states_of_idle_chats(tmp_path: Path, model_path: ModelPath) -> None:
    found = traits(write_model(tmp_path / "plamo2.gguf", "plamo2"))
    assert "the state of chat 3, which is idle, is another afterwards" in str(found.one_stream)
    assert found == MemoryTraits(one_stream=found.one_stream)
    assert found.notes[0].startswith("one chat is decoded at a time")


def test_cogvlm_gives_logits_of_other_rows(tmp_path: Path, model_path: ModelPath) -> None:
    assert traits(write_model(tmp_path / "cogvlm.gguf", "cogvlm")) == MemoryTraits(all_outputs=True)


# -- planted faults


class MixesRows(Context):
    """Several streams in a decode get each other's logits."""

    def decode(self, streams: Sequence[int], positions: Any, tokens: Any, outputs: Sequence[int]) -> None:
        super().decode(streams, positions, tokens, outputs)
        self._is_mixed = len(set(streams)) > 1
        self._n = len(tokens)

    def logits(self, row: int) -> Logits:
        return super().logits(self._n - 1 - row if self._is_mixed else row)


class TouchesAnIdleStream(Context):
    """A chunk of one stream changes what another one, which is idle, holds."""

    def decode(self, streams: Sequence[int], positions: Any, tokens: Any, outputs: Sequence[int]) -> None:
        super().decode(streams, positions, tokens, outputs)
        if self.params.n_streams > 1 and streams[0] == 1 and len(tokens) > 1:
            self.remove(0, 1)


class RefusesSeveral(Context):
    def decode(self, streams: Sequence[int], positions: Any, tokens: Any, outputs: Sequence[int]) -> None:
        if len(set(streams)) > 2:
            raise EngineFault("llama_decode answered -3")
        super().decode(streams, positions, tokens, outputs)


class ForgetsInChunks(Context):
    """A chunk leaves its first token out of account, whatever asks for logits."""

    def decode(self, streams: Sequence[int], positions: Any, tokens: Any, outputs: Sequence[int]) -> None:
        if len(tokens) > 1 and len(set(streams)) == 1:
            tokens = [0, *tokens[1:]]
        super().decode(streams, positions, tokens, outputs)


class DamagesStates(Context):
    """What is put back has holes."""

    def set_state(self, stream: int, blob: Bytes) -> bool:
        is_set = super().set_state(stream, blob)
        self.remove(stream, 1, 8)
        return is_set


class TakesNoStates(Context):
    """A state that is refused is decoded again: nothing is wrong with that."""

    def set_state(self, stream: int, blob: Bytes) -> bool:
        self.clear(stream)
        return False


@pytest.mark.parametrize(
    ("kind", "what", "said"),
    [
        (MixesRows, "one_stream", "gets other logits than alone"),
        (TouchesAnIdleStream, "one_stream", "the state of chat 0, which is idle, is another afterwards"),
        (RefusesSeveral, "one_stream", "llama.cpp refuses several (llama_decode answered -3)"),
        (ForgetsInChunks, "single_rows", "in chunks they give other logits than one by one"),
        (DamagesStates, "no_states", "does not go on as before when its state was put back"),
    ],
)
def test_a_planted_fault_is_found(kind: type[Context], what: str, said: str, model_path: ModelPath) -> None:
    found = traits(model_path("q8_0"), kind)
    assert said in str(getattr(found, what))
    assert found == MemoryTraits(**{what: getattr(found, what)})
    assert len(found.notes) == 1


def test_states_that_are_refused_are_no_fault(model_path: ModelPath) -> None:
    assert traits(model_path("q8_0"), TakesNoStates) == MemoryTraits()


# -- notes of it


@pytest.mark.parametrize(
    "found",
    [MemoryTraits(), MemoryTraits("one", "two", "three", True), MemoryTraits().after_end("states", "it crashed")],
)
def test_traits_are_read_back(found: MemoryTraits) -> None:
    assert from_json(to_json(found)) == found


@pytest.mark.parametrize(
    "entry", [None, [], {}, {"one_stream": None}, {**to_json(MemoryTraits()), "all_outputs": 1}, {"x": 1}]
)
def test_what_is_no_note_is_refused(entry: object) -> None:
    with pytest.raises(ValueError, match="no traits"):
        from_json(entry)


def test_a_crash_tells_what_it_was_about() -> None:
    known = MemoryTraits(all_outputs=True)
    assert known.after_end("streams", "llama.cpp crashed") == MemoryTraits(
        one_stream="llama.cpp crashed when it decoded several", all_outputs=True
    )
    assert known.after_end("states", "llama.cpp crashed").no_states == "llama.cpp crashed when it put one back"
