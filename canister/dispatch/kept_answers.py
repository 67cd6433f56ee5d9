"""A kept answer as rows, and as the values that dispatch makes answers from: request, tokens, parts.

Events are made from the request and the tokens alone, so they are the same whenever they are read.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, TypeAdapter

from canister.api.tokens import Likely, Token
from canister.dispatch.answer_chain import PIECES_AT_ONCE
from canister.dispatch.answer_records import Answered, Ingested, Scored, Taken, Wanted
from canister.dispatch.answer_text import Piece
from canister.dispatch.answers import replay
from canister.errors import CanisterError, Trap
from canister.state.answers import TOLD, KeptAnswer, KeptCall

if TYPE_CHECKING:
    from canister.runtime.canister import Canister
    from canister.store.transaction import Transaction

Part = tuple[int, Scored | Ingested | Piece | Answered]
"""Of a choice."""


class AnswerFailed(Trap):
    """A kept answer that failed. Later readers are told the same."""

    def __init__(self, message: str, http_status: int, error_code: str) -> None:
        super().__init__(message)
        self.http_status, self.error_code = http_status, error_code

    @classmethod
    def of(cls, error: Trap | CanisterError) -> AnswerFailed:
        return cls(str(error), error.http_status, error.error_code if isinstance(error, Trap) else "")

    @classmethod
    def from_json(cls, told: Mapping[str, object]) -> AnswerFailed:
        return cls(str(told["message"]), int(str(told["http_status"])), str(told["error_code"]))

    def to_json(self) -> dict[str, object]:
        return {"message": str(self), "http_status": self.http_status, "error_code": self.error_code}


class Choices(BaseModel):
    """Everything that the tokens of an answer depend on, except the prompt, which all choices share. model_id: hex."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants", protected_namespaces=(), defer_build=True)

    model_id: str
    wanted: tuple[Wanted, ...]

    @classmethod
    def of(cls, kept: KeptAnswer) -> Choices:
        return cls.model_validate_json(kept.asked.wanted)


_TAKEN = TypeAdapter(Taken)


class TokenKeeper:
    """Keeps the results of the calls of one choice; an answers.Keeper. told: tokens told beyond them, and not kept."""

    def __init__(self, canister: Canister, id: str, choice: int, calls: Sequence[KeptCall]) -> None:
        own = [call for call in calls if call.choice == choice and call.number != TOLD]
        self.tokens: Sequence[Token] = [token for call in own for token in _tokens(call.tokens)]
        self.taken: Taken | None = _TAKEN.validate_python(own[-1].taken) if own else None
        beyond = [call for call in calls if call.choice == choice and call.number == TOLD]
        self.told: Sequence[Token] = [token for call in beyond for token in _tokens(call.tokens)]
        self._canister, self._id, self._choice = canister, id, choice

    def as_told(self, n_prompt: int) -> TokenKeeper:
        """To be replayed: what was told counts as what is kept."""
        found = TokenKeeper(self._canister, self._id, self._choice, ())
        found.tokens = [*self.tokens, *self.told]
        found.taken = Taken(n_prompt, 0) if self.taken is None and self.told else self.taken
        return found

    def keep(self, transaction: Transaction, tokens: Sequence[Token], taken: Taken) -> None:
        call = KeptCall(self._choice, taken.n_calls - 1, _text(tokens), asdict(taken))
        self._canister.answers.add_call(transaction, self._id, call)


def _text(tokens: Sequence[Token]) -> str:
    """Tokens as JSON; bytes as characters of the same numbers."""
    rows = [
        [token.id, token.data.decode("latin-1"), token.logprob]
        + [[likely.id, likely.data.decode("latin-1"), likely.logprob] for likely in token.top]
        for token in tokens
    ]
    return json.dumps(rows, ensure_ascii=False, separators=(",", ":"))


def _tokens(text: str) -> list[Token]:
    return [
        Token(id, data.encode("latin-1"), logprob, tuple(Likely(one, of.encode("latin-1"), p) for one, of, p in top))
        for id, data, logprob, *top in json.loads(text)
    ]


def told_beyond(canister: Canister, kept: KeptAnswer, parts: Sequence[Part]) -> list[KeptCall]:
    """What whoever listened was told of each choice beyond what its calls have kept. Slow for long answers."""
    found = []
    for number, (_, keeper) in enumerate(read(canister, kept)):
        tokens = [
            token for choice, part in parts if choice == number and isinstance(part, Piece) for token in part.tokens
        ]
        n_scored = 0 if keeper.taken is None else keeper.taken.n_scored
        beyond = tokens[len(keeper.tokens) - n_scored :]
        if beyond:
            found.append(KeptCall(number, TOLD, _text(beyond), {}))
    return found


def read(canister: Canister, kept: KeptAnswer) -> list[tuple[Wanted, TokenKeeper]]:
    """Each choice with its kept calls. Slow for long answers."""
    prompt = np.frombuffer(kept.asked.prompt, "<i4").tolist()
    calls = canister.answers.calls(kept.asked.id)
    return [
        (replace(wanted, prompt=prompt), TokenKeeper(canister, kept.asked.id, number, calls))
        for number, wanted in enumerate(Choices.of(kept).wanted)
    ]


async def replayed(canister: Canister, kept: KeptAnswer) -> AsyncGenerator[Part]:
    """The results of the committed calls of an answer."""
    for number, (wanted, keeper) in enumerate(await asyncio.to_thread(read, canister, kept)):
        for n, event in enumerate(replay(wanted, keeper.as_told(len(wanted.prompt)))):
            yield number, event
            if n % PIECES_AT_ONCE == 0:
                await asyncio.sleep(0)
