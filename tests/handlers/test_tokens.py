"""Texts and tokens of a model, and the prompt of what stands between two texts; the rows as doors run them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from canister import dispatch
from canister.api.methods import Method
from canister.api.rest_only import DETOKENIZE, INFILL_PROMPT, TOKENIZE
from canister.api.rest_records import (
    DetokenizeInput,
    DetokenizeOutput,
    InfillInput,
    InfillOutput,
    Piece,
    TokenizeInput,
    TokenizeOutput,
)
from canister.errors import AccessDenied, BadRequest
from canister.ic.principal import ANONYMOUS
from canister.runtime.canister import Canister
from tests.engine import tiny_models
from tests.engine.gguf_writer import Plain
from tests.server.served import Served, served

pytestmark = pytest.mark.anyio

# Tokens of the tiny vocabulary: <unk> 0, <s> 1, </s> 2, bytes from 3 on, then words.
BOS, FIRST_BYTE = 1, 3
FIM = {"fim_pre": 300, "fim_suf": 301, "fim_mid": 302}


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    folder = tmp_path_factory.mktemp("tokens")
    async with served(folder / "server") as started, started.client() as client:
        await load(client, folder, FIM)
        yield started


async def load(client: httpx.AsyncClient, folder: Path, fill_in: dict[str, int]) -> None:
    changes: dict[str, Plain] = {f"tokenizer.ggml.{name}_token_id": token for name, token in fill_in.items()}
    changes["tokenizer.ggml.add_bos_token"] = True
    model = tiny_models.llama_model(folder / "made.gguf", changes=changes)
    (await client.put("/canisters/llama_cpp/files/made.gguf", content=model.read_bytes())).raise_for_status()
    loaded = await client.post("/load_model", json={"args": ["--model", "made.gguf", "-c", "128"]})
    assert loaded.status_code == 200, loaded.text


@pytest.fixture
def canister(server: Served) -> Canister:
    return server.host.default


async def ask(canister: Canister, row: Method, arg: object, caller: str | None = None) -> object:
    reply = await dispatch.execute(canister, row, caller or next(iter(canister.controllers)), lambda: arg)
    if reply.error is not None:
        raise reply.error
    return reply.value


async def tokens_of(canister: Canister, content: str | list[int | str], **fields: bool) -> list[int]:
    value = await ask(canister, TOKENIZE, TokenizeInput(content=content, **fields))
    assert isinstance(value, TokenizeOutput)
    return [token for token in value.tokens if isinstance(token, int)]


async def text_of(canister: Canister, tokens: list[int]) -> str:
    value = await ask(canister, DETOKENIZE, DetokenizeInput(tokens=tokens))
    assert isinstance(value, DetokenizeOutput)
    return value.content


async def infill(canister: Canister, **fields: object) -> InfillOutput:
    arg = InfillInput.model_validate({"input_prefix": "", "input_suffix": "", **fields})
    value = await ask(canister, INFILL_PROMPT, arg)
    assert isinstance(value, InfillOutput)
    return value


async def test_texts_become_tokens_and_texts_again(canister: Canister) -> None:
    tokens = await tokens_of(canister, "Hé😀")
    assert tokens
    assert (await text_of(canister, tokens)).strip() == "Hé😀"
    assert await tokens_of(canister, "Hé😀", add_special=True) == [BOS, *tokens]
    assert await tokens_of(canister, "") == []
    assert await text_of(canister, []) == ""


async def test_special_tokens_are_read_and_shown(canister: Canister) -> None:
    assert await tokens_of(canister, "</s>") == [2]
    assert len(await tokens_of(canister, "</s>", parse_special=False)) > 1
    assert await text_of(canister, [1, 2]) == "<s></s>"


async def test_texts_and_tokens_in_one_list(canister: Canister) -> None:
    a, b = await tokens_of(canister, "a"), await tokens_of(canister, "b")
    assert await tokens_of(canister, ["a", 7, "b"], add_special=True) == [BOS, *a, 7, *b]
    assert await tokens_of(canister, [7, "b"], add_special=True) == [7, *b]


async def test_pieces_are_texts_or_bytes(canister: Canister) -> None:
    value = await ask(
        canister, TOKENIZE, TokenizeInput(content=[FIRST_BYTE + 0xC3, FIRST_BYTE + 0x41], with_pieces=True)
    )
    assert isinstance(value, TokenizeOutput)
    assert value.tokens == [Piece(id=FIRST_BYTE + 0xC3, piece=[0xC3]), Piece(id=FIRST_BYTE + 0x41, piece="A")]


async def test_a_token_that_there_is_not(canister: Canister) -> None:
    with pytest.raises(BadRequest, match="there is no token 2000000000: the vocabulary has"):
        await text_of(canister, [2_000_000_000])


@pytest.mark.parametrize(
    ("row", "arg"),
    [
        (TOKENIZE, TokenizeInput(content="a")),
        (DETOKENIZE, DetokenizeInput(tokens=[1])),
        (INFILL_PROMPT, InfillInput(input_prefix="a", input_suffix="b")),
    ],
    ids=lambda value: value.name if isinstance(value, Method) else "",
)
async def test_who_may_not_use_the_model_is_refused(canister: Canister, row: Method, arg: object) -> None:
    with pytest.raises(AccessDenied):
        await ask(canister, row, arg, ANONYMOUS)


async def test_what_stands_between_two_texts(canister: Canister) -> None:
    async def plain(text: str) -> list[int]:
        return await tokens_of(canister, text, parse_special=False)

    made = await infill(canister, input_prefix="ab", input_suffix="cd", prompt="e")
    assert made.tokens == [BOS, 300, *await plain("ab"), *await plain("e"), 301, *await plain("cd"), 302]
    # Without a token between files a line stands there; of what is too long, what is nearest stays.
    extra = [{"text": "x", "filename": "f.py"}]
    made = await infill(canister, input_prefix="ab", input_suffix="cd", input_extra=extra)
    between = [*await plain("\n\n--- snippet ---\n\n"), *await plain("x")]
    assert made.tokens == [BOS, *between, 300, *await plain("ab"), 301, *await plain("cd"), 302]
    before, behind = [10 + n % 50 for n in range(500)], [70 + n % 50 for n in range(500)]
    made = await infill(canister, input_prefix=before, input_suffix=behind, input_extra=extra * 90)
    n_batch = 64  # half of the context
    n_before, n_behind = 3 * (n_batch // 4), n_batch // 4 - 2
    assert made.tokens[-(n_before + n_behind + 3) :] == [300, *before[-n_before:], 301, *behind[:n_behind], 302]
    assert n_before + n_behind + 4 < len(made.tokens) < 128
    # Longer answers leave less room for other files.
    short = await infill(canister, input_prefix=before, input_suffix=behind, input_extra=extra * 90, n_predict=30)
    assert len(short.tokens) == len(made.tokens) - (2 * 30 - 128 // 8)


async def test_files_have_names_where_the_vocabulary_has_tokens_for_them(tmp_path: Path) -> None:
    async with served(tmp_path / "server") as server, server.client() as client:
        await load(client, tmp_path, {})
        canister = server.host.default
        nothing = await infill(canister, input_prefix="a", input_suffix="b")
        assert nothing == InfillOutput(tokens=[], missing=["prefix", "suffix", "middle"])
        await load(client, tmp_path, {**FIM, "fim_rep": 303, "fim_sep": 304})
        made = await infill(canister, input_prefix="a", input_suffix="b", input_extra=[{"text": "x", "filename": "f"}])
        file = made.tokens.index(304)
        assert made.tokens[:2] == [BOS, 303]
        assert (await text_of(canister, made.tokens[2:file])).strip() == "myproject"
        assert made.tokens.count(304) == 2
        assert made.tokens[-1] == 302
