"""Which tokens end an answer and which are special is found without asking about each: as if each were asked about."""

from __future__ import annotations

from array import array
from pathlib import Path

import llama_cpp as lib
import pytest

from canister.engine.llama import Model
from canister.engine.llama_build import start_backend
from tests.engine.gguf_writer import Plain
from tests.engine.tiny_models import VOCABULARY, llama_model
from tests.harness import CHAT_MODEL

NORMAL, CONTROL, USER_DEFINED = 1, 3, 4  # of tokenizer.ggml.token_type


def asked_one_by_one(model: Model) -> tuple[list[int], list[int]]:
    """Those that end an answer, and those that are control tokens."""
    tokens = range(model.n_vocab)
    control = lib.LLAMA_TOKEN_ATTR_CONTROL
    return (
        [token for token in tokens if model.is_eog(token)],
        [token for token in tokens if lib.llama_vocab_get_attr(model.vocab, token) & control],
    )


def same(path: Path) -> bool:
    start_backend()
    model = Model(path, "model")
    ends, control = asked_one_by_one(model)
    assert control == model._with(lib.LLAMA_TOKEN_ATTR_CONTROL)
    assert ends
    return list(model.eog_tokens) == ends and {*ends, *control} <= {*model.special_tokens.values()}


def test_of_the_shipped_model() -> None:
    assert same(CHAT_MODEL)


@pytest.mark.parametrize("kind", [NORMAL, CONTROL, USER_DEFINED])
@pytest.mark.parametrize("eos", [2, 5])
def test_whatever_the_file_says_of_the_token_that_ends(kind: int, eos: int, tmp_path: Path) -> None:
    kinds = VOCABULARY["tokenizer.ggml.token_type"]
    assert isinstance(kinds, array)
    changes: dict[str, Plain] = {
        "tokenizer.ggml.token_type": array("i", [*kinds[:eos], kind, *kinds[eos + 1 :]]),
        "tokenizer.ggml.eos_token_id": eos,
    }
    assert same(llama_model(tmp_path / "m.gguf", changes=changes))
