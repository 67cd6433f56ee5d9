"""Texts and tokens of the loaded model, prompts for what stands between two texts, and the places for conversations.

Only REST offers these. Special tokens are shown, as llama.cpp's server shows them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from canister.api.rest_records import (
    MAX_TOKENS,
    MAX_TOKENS_ALONE,
    DetokenizeInput,
    DetokenizeOutput,
    InfillInput,
    InfillOutput,
    Piece,
    Slot,
    Slots,
    TokenizeInput,
    TokenizeOutput,
)
from canister.errors import BadRequest

if TYPE_CHECKING:
    from canister.engine.engine import Engine
    from canister.runtime.call import Call

PROJECT, FILE = "myproject\n", "filename\n"  # names that llama.cpp's server gives to what has none
SNIPPET = "\n\n--- snippet ---\n\n"  # between texts, for vocabularies without a token for that


async def tokenize(call: Call, arg: TokenizeInput) -> TokenizeOutput:
    engine = await call.engine(use="any")
    return await asyncio.to_thread(_tokenized, engine, arg)


async def detokenize(call: Call, arg: DetokenizeInput) -> DetokenizeOutput:
    engine = await call.engine(use="any")
    return await asyncio.to_thread(_detokenized, engine, arg)


async def infill_prompt(call: Call, arg: InfillInput) -> InfillOutput:
    engine = await call.engine()
    wanted = {"prefix": engine.info.fill_in.prefix, "suffix": engine.info.fill_in.suffix}
    wanted["middle"] = engine.info.fill_in.middle
    if missing := [name for name, token in wanted.items() if token < 0]:
        return InfillOutput(tokens=[], missing=missing)
    return InfillOutput(tokens=await asyncio.to_thread(_infill, engine, arg), missing=[])


async def slots(call: Call) -> Slots:
    engine = await call.engine(use="any")
    stats = engine.stats()
    return Slots(
        slots=[Slot(id=n, n_ctx=engine.info.n_ctx, is_processing=n < stats.n_running) for n in range(stats.n_slots)]
    )


def _tokenized(engine: Engine, arg: TokenizeInput) -> TokenizeOutput:
    tokens = _tokens(engine, arg.content, add_bos=arg.add_special, special=arg.parse_special)
    most, how = (MAX_TOKENS, " with their texts") if arg.with_pieces else (MAX_TOKENS_ALONE, "")
    if len(tokens) > most:
        raise BadRequest(f"content has {len(tokens)} tokens; at most {most} are told{how} at once: send it in parts")
    if not arg.with_pieces:
        return TokenizeOutput(tokens=tokens)
    return TokenizeOutput(tokens=[Piece(id=token, piece=_text_or_bytes(_piece(engine, token))) for token in tokens])


def _detokenized(engine: Engine, arg: DetokenizeInput) -> DetokenizeOutput:
    data = b"".join(_piece(engine, token) for token in arg.tokens)
    return DetokenizeOutput(content=data.decode("utf-8", "replace"))


def _tokens(engine: Engine, content: str | Sequence[int | str], *, add_bos: bool, special: bool) -> list[int]:
    """BOS is put before a text that comes first, not before a token."""
    if isinstance(content, str):
        return engine.tokenize(content, add_bos=add_bos, special=special)
    tokens: list[int] = []
    for index, part in enumerate(content):
        if isinstance(part, str):
            tokens += engine.tokenize(part, add_bos=add_bos and index == 0, special=special)
        else:
            tokens.append(part)
    return tokens


def _piece(engine: Engine, token: int) -> bytes:
    if token >= engine.info.n_vocab:
        raise BadRequest(f"there is no token {token}: the vocabulary has {engine.info.n_vocab}")
    return engine.piece(token, special=True)


def _text_or_bytes(data: bytes) -> str | list[int]:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return [*data]


# -- filling in


def _infill(engine: Engine, arg: InfillInput) -> list[int]:
    """The prompt as llama.cpp's server makes it: other files, then what stands before and behind, within a batch.

    Of a long text what is nearest stays, three parts before to one behind.
    """
    info, fill_in = engine.info, engine.info.fill_in
    before = _tokens(engine, arg.input_prefix, add_bos=False, special=False)
    behind = _tokens(engine, arg.input_suffix, add_bos=False, special=False)
    begun = engine.tokenize(arg.prompt, add_bos=False)
    n_batch = min(info.n_batch, info.n_ctx // 2)  # so that there is room for an answer
    n_before = min(len(before), 3 * (n_batch // 4))
    n_behind = min(len(behind), max(0, n_batch // 4 - (2 + len(begun))))
    others = _others(engine, arg)
    n_answer = 2 * arg.n_predict if arg.n_predict > 0 else info.n_ctx // 8
    n_others = min(len(others), max(0, info.n_ctx - n_batch - n_answer))
    bos = engine.tokenize("", add_bos=True)
    return [
        *bos,
        *others[len(others) - n_others :],
        *(fill_in.prefix, *before[len(before) - n_before :], *begun),
        *(fill_in.suffix, *behind[:n_behind]),
        fill_in.middle,
    ]


def _others(engine: Engine, arg: InfillInput) -> list[int]:
    """What the editor has seen of other files, and the heading of this one."""
    fill_in = engine.info.fill_in

    def plain(text: str) -> list[int]:
        return engine.tokenize(text, add_bos=False, special=False)

    tokens = [fill_in.repository, *plain(PROJECT)] if fill_in.repository >= 0 else []
    for file in arg.input_extra:
        head = [fill_in.file, *plain(f"{file.filename}\n")] if fill_in.file >= 0 else plain(SNIPPET)
        tokens += [*head, *plain(file.text)]
    return [*tokens, fill_in.file, *plain(FILE)] if fill_in.file >= 0 else tokens
