"""Models for processes of AO: each one a canister's, asked by calls that are metered and charged as all of them are.

What a process has read and said is its own record; here it becomes an answer that is gone on with, so that each token
is decoded once, as far as the prompt cache of the process has it. Methods block, on threads that are not the event
loop's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError as ThreadCancelled
from concurrent.futures import Future
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from canister.ao.processes.models import Context, Drawing, Model, Said
from canister.api.tokens import Token
from canister.dispatch.answer_caches import cache_of_key
from canister.dispatch.answer_records import Answered, Taken, Wanted
from canister.dispatch.answers import answer, loaded_engine
from canister.errors import CanisterBusy, CanisterStopping, NotFound
from canister.flags.params import SamplingParams

if TYPE_CHECKING:
    from canister.runtime.canister import Canister
    from canister.runtime.host import Host
    from canister.store.transaction import Transaction


def of_host(host: Host, canisters: Mapping[str, str], caller: str, stored: Callable[[str], Canister]) -> CanisterModels:
    """Models of a running host's canisters. canisters: the name of one by the id of the model that it has loaded.

    caller: who asks, and is charged. stored: the canister of any other model; raises CanisterBusy, NotFound. To be made
    on the event loop that the host runs on.
    """
    known = dict(canisters)

    def find(id: str) -> Canister:
        if id not in known:
            try:
                return stored(id)
            except NotFound as error:
                told = ", ".join(sorted(known)) or "none"
                raise NotFound(f"there is no model {id[:80]} here: {error}; those that are: {told}") from None
        if known[id] in host.pending:  # the message that asks is run again
            raise CanisterBusy(f"the model {id[:80]} is being loaded")
        return host.find(known[id])

    return CanisterModels(find, caller, asyncio.get_running_loop())


@dataclass(slots=True)
class CanisterModels:
    """find: the canister of a model's id; raises NotFound."""

    find: Callable[[str], Canister]
    caller: str
    loop: asyncio.AbstractEventLoop
    running: set[Future[Said]] = field(default_factory=set)
    is_closed: bool = False

    def open(self, id: str) -> Model:
        return _CanisterModel(self, self.find(id))

    def close(self) -> None:
        self.is_closed = True
        for future in list(self.running):
            future.cancel()


@dataclass(frozen=True, slots=True)
class _CanisterModel:
    _models: CanisterModels
    _canister: Canister

    @property
    def name(self) -> str:
        return self._canister.name

    @property
    def n_context(self) -> int:
        return loaded_engine(self._canister).info.n_ctx

    def tokens(self, text: bytes, *, is_first: bool) -> tuple[int, ...]:
        return tuple(loaded_engine(self._canister).tokenize(text.decode("utf-8", "replace"), add_bos=is_first))

    def say(self, owner: str, context: Context, n_tokens: int, drawing: Drawing) -> Said:
        models = self._models
        if models.is_closed:
            raise CanisterStopping("the models are being stopped")
        future = asyncio.run_coroutine_threadsafe(self._said(owner, context, n_tokens, drawing), models.loop)
        models.running.add(future)
        try:
            return future.result()
        except (asyncio.CancelledError, ThreadCancelled):
            raise CanisterStopping("the models are being stopped") from None
        finally:
            models.running.discard(future)

    async def _said(self, owner: str, context: Context, n_tokens: int, drawing: Drawing) -> Said:
        engine = loaded_engine(self._canister)
        keeper = _Kept(context, [Token(id, engine.piece(id, True)) for id in context.said[: context.n_decoded]])
        n_again = len(context.said) - context.n_decoded  # drawn, not decoded: drawn again, by the same numbers
        wanted = Wanted(
            context.prompt,
            SamplingParams(temperature=drawing.temperature),
            drawing.seed,
            max_tokens=len(context.said) + n_tokens,
            cache=cache_of_key(f"ao {owner}"),
        )
        receipts: tuple[str, ...] = ()
        async with aclosing(answer(self._canister, self._models.caller, wanted, keeper)) as events:
            async for event in events:
                if isinstance(event, Answered):
                    receipts = event.receipts
        taken, new = keeper.outcome()
        is_over = taken.finish == "stop"
        if is_over:
            new = new[:-1]  # the token that ends a text is no part of it
        said = context.said[: context.n_decoded] + tuple(new)
        pieces = tuple(engine.piece(token, True) for token in new[n_again:])
        after = Context(context.prompt, said, min(taken.n_decoded, len(said)), taken.n_draws, is_over)
        return Said(after, pieces, taken.instructions, taken.cycles, receipts)


class _Kept:
    """A keeper in memory: the calls of one go, by their number, since a call's transaction may be run twice."""

    def __init__(self, context: Context, decoded: Sequence[Token]) -> None:
        self.tokens: Sequence[Token] = decoded
        n = context.n_decoded
        begun = Taken(len(context.prompt), 0, n_sampled=n, n_decoded=n, n_draws=context.n_draws)
        self.taken: Taken | None = begun if n else None
        self._calls: dict[int, tuple[Sequence[Token], Taken]] = {}

    def keep(self, transaction: Transaction, tokens: Sequence[Token], taken: Taken) -> None:
        self._calls[taken.n_calls] = (tuple(tokens), taken)

    def outcome(self) -> tuple[Taken, list[int]]:
        """The totals of this go, and its tokens."""
        numbers = sorted(self._calls)
        tokens = [token.id for number in numbers for token in self._calls[number][0]]
        return self._calls[numbers[-1]][1], tokens
