"""embed: one bounded call for the vectors of some texts, on tokens.

No door and no caller can make it, only `dispatch/embeddings.py`, so that tokenizing and checking happen once and not in
each call of a chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from canister.api.methods import Method
from canister.api.records import ApiError
from canister.errors import Conflict, InstructionLimit

if TYPE_CHECKING:
    from canister.engine.embedder import Vectors
    from canister.engine.engine import Engine
    from canister.engine.request import Tokens
    from canister.runtime.call import Call
    from canister.runtime.canister import Canister

_TOKEN_BYTES = 4


@dataclass(frozen=True, slots=True)
class EmbedInput:
    """model_id: of the model whose tokens these are. texts: each is framed as the model wants it."""

    model_id: bytes
    texts: Sequence[Tokens]


@dataclass(frozen=True, slots=True)
class EmbedOutput:
    """vectors: a row a text, as the model gives it. n_tokens: of all texts."""

    vectors: Vectors
    n_tokens: int


EMBED = Method(
    "embed",
    "update",
    "inference_update",
    EmbedInput,
    EmbedOutput,
    ApiError,
    "One call for the vectors of texts.",
    "chat",
)


async def embed(call: Call, arg: EmbedInput) -> EmbedOutput:
    # A text can hardly be read in several calls, so its cost is held against the limit only where calls trap at it.
    engine = await call.engine(use="embeddings")
    if engine.info.model_id != arg.model_id:
        raise Conflict("Another model was loaded while texts were read: ask again")
    n_tokens = sum(map(len, arg.texts))
    call.request_bytes = _TOKEN_BYTES * n_tokens
    limit = limit_of(call.canister)
    instructions = cost(call.canister, engine, [len(tokens) for tokens in arg.texts])
    call.cost(instructions, is_limited=limit is not None)
    if limit is not None and instructions > limit:
        longest = max(map(len, arg.texts))
        raise InstructionLimit(
            call.canister.id, limit, f" A text of {longest} tokens takes {instructions}; send shorter texts."
        )
    call.check_balance(instructions)
    vectors = await engine.embed(call.caller, arg.texts)
    return EmbedOutput(vectors, n_tokens)


def limit_of(canister: Canister) -> int | None:
    """Instructions that a call for embeddings may take; None: its cost is counted, no more."""
    settings = canister.settings
    return settings.instruction_limit if settings.budget_policy == "trap" else None


def cost(canister: Canister, engine: Engine, lengths: Sequence[int]) -> int:
    """Instructions of one call for texts of these lengths, in tokens."""
    model = canister.model.cost_model_of(engine)
    both_ways = engine.info.reads_whole
    return model.embed_call(both_ways=both_ways) + sum(model.embed(n, both_ways=both_ways) for n in lengths)
