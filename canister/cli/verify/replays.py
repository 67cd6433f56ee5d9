"""Decodes calls again with a model file: all of a conversation together, and one by one where that leaves a doubt."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from canister.cli.verify.verdict import Verdict
from canister.engine.engine import Engine, LoadParams
from canister.engine.llama import Model
from canister.engine.llama_types import ContextParams
from canister.engine.load.loader import load_model
from canister.engine.load.ways import Restrictions
from canister.engine.numeric import isa, numeric_class
from canister.engine.replay import Difference, Drawn, Replay, Replayed
from canister.engine.sampling.grammars import Grammars
from canister.engine.told_calls import NotToldFully, ToldCall, told_call
from canister.flags.parse import RopeParams
from canister.ic.receipts.document import Replay as Kept
from canister.ic.receipts.document import read_terms
from canister.system.machine import usable_cores

CELLS_STEP = 256


class Replayer:
    """A model file that calls are decoded with. All calls of one `judge` have the same terms of the engine."""

    def __init__(self, file: Path, engine_terms: Mapping[str, object], *, extra_buffers: bool = True) -> None:
        self._terms = engine_terms
        self._params = replace(_params(file, engine_terms), restrictions=Restrictions(extra_buffers=extra_buffers))
        self._engine: Engine | None = None
        self._model: Model | None = None

    async def close(self) -> None:
        if self._engine is not None:
            await self._engine.close()
        self._model = None

    async def judge(self, verdicts: Sequence[Verdict], *, one_by_one: bool) -> None:
        """Fill in what was found about the tokens of these calls, whose receipts hold."""
        told: list[tuple[Verdict, ToldCall]] = []
        for verdict in verdicts:
            try:
                call = self._told(verdict)
            except NotToldFully as error:
                verdict.tokens = f"not decoded again: {error}"
                continue
            if len(call.drawn):
                told.append((verdict, call))
            else:
                verdict.tokens = "it drew none"
        if not told:
            return
        found = await self._together([call for _, call in told])
        for (verdict, call), replayed in zip(told, found, strict=True):
            if one_by_one or replayed.differences:
                await self._decide(verdict, call, replayed, None if one_by_one else replayed.differences[-1].at + 1)
            else:
                self._tell(verdict, replayed)

    def _told(self, verdict: Verdict) -> ToldCall:
        assert verdict.proven is not None
        receipt = verdict.proven.receipt
        words = (receipt.replay or Kept()).words
        call = told_call(verdict.proven.record, words, read_terms(receipt.terms))
        model = self._loaded()
        for tokens in (call.history, call.drawn):
            if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < model.n_vocab:
                raise NotToldFully("it has tokens that this model does not know")
        return call

    async def _together(self, calls: Sequence[ToldCall]) -> list[Replayed]:
        model = self._loaded()
        grammars = Grammars(self._loaded)
        drawn = [
            Drawn(
                call.history,
                call.drawn,
                call.redrawn.tolist(),
                call.sampling,
                call.seed,
                call.n_draws,
                call.n_continued,
                await grammars.bind(call.sampling),
            )
            for call in calls
        ]
        n_most = max(len(call.history) + len(call.drawn) for call in calls)
        shape = ContextParams(
            n_streams=1,
            n_cells=-(-n_most // CELLS_STEP) * CELLS_STEP,
            n_rows=CELLS_STEP,
            n_threads=usable_cores(),
            type_k=self._params.type_k,
            type_v=self._params.type_v,
            flash_attn=self._params.flash_attn == "on",
            rope=self._params.rope,
        )

        def work() -> list[Replayed]:
            replay = Replay(model, shape, self._params.n_ctx)
            try:
                return replay.judge(drawn)
            finally:
                replay.close()

        return await asyncio.to_thread(work)

    async def _exact(self) -> Engine:
        if self._engine is None:
            self._engine = await Engine.load(self._params)
        return self._engine

    def _loaded(self) -> Model:
        if self._model is None:
            self._model = load_model(self._params)
        return self._model

    def _tell(self, verdict: Verdict, replayed: Replayed) -> None:
        told = [f"{replayed.n_equal + replayed.n_near} drawn, all as the model draws them", "decoded together"]
        if replayed.n_near:
            told.append(
                f"{replayed.n_near} of them near ties (within {replayed.bound:.2g} logits; --one-by-one decides)"
            )
        told.append(self._where())
        margin = "" if replayed.smallest_margin is None else f"; smallest margin {replayed.smallest_margin:.3g}"
        verdict.tokens = ", ".join(told) + margin

    async def _decide(self, verdict: Verdict, call: ToldCall, replayed: Replayed, n_tokens: int | None) -> None:
        """Decode one by one, up to the last token that differs, or all."""
        engine = await self._exact()
        exact = (await engine.generate(call.request(engine.info, n_tokens))).sampled
        said = call.drawn.tolist()[:n_tokens]
        n_same = _n_same(exact, said)
        if n_same == len(said):
            verdict.tokens = (
                f"{len(call.drawn)} drawn, all as the model draws them, decoded one by one, {self._where()}"
            )
            return
        difference = next((one for one in replayed.differences if one.at == n_same), None)
        told = _told_difference(n_same, call.drawn.tolist(), exact, difference, self._loaded())
        verdict.tokens = told
        is_same_class = self._terms.get("numeric") == numeric_class(engine.info)
        if not self._terms.get("exact"):
            verdict.tokens += "; the server did not decode exactly, so other chats may have made the difference"
        elif not is_same_class and difference is None:
            verdict.tokens += "; a near tie, on a machine of another numeric class: nothing is proven"
        else:
            verdict.faults.append(f"the answer is not what this model gives: {told}")

    def _where(self) -> str:
        return "on the same instruction sets" if self._terms.get("isa") == isa() else "on other instruction sets"


def _told_difference(
    at: int, said: Sequence[int], exact: Sequence[int], difference: Difference | None, model: Model
) -> str:
    def shown(token: int) -> str:
        return repr(model.piece(token, True).decode("utf-8", "replace"))

    drawn = exact[at] if at < len(exact) else None
    if drawn is None:
        return f"token {at + 1} of {len(said)} is {shown(said[at])}, and the model ends before it"
    told = f"token {at + 1} of {len(said)} is {shown(said[at])}, and the model draws {shown(drawn)}"
    if difference is not None and difference.at == at:
        logits = f"{difference.logit_said:.4g} and {difference.logit_drawn:.4g}"
        told += f" (logits {logits}, margin {difference.margin:.3g})"
    return told


def _n_same(one: Sequence[int], other: Sequence[int]) -> int:
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _params(file: Path, terms: Mapping[str, object]) -> LoadParams:
    """How the server had loaded the model, on this machine."""

    def number(name: str, default: int) -> int:
        value = terms.get(name)
        return value if isinstance(value, int) and value > 0 else default

    model = terms.get("model")
    return LoadParams(
        path=file,
        name=file.name,
        model_id=model if isinstance(model, bytes) else b"",
        n_ctx=number("n_ctx", 0),
        n_batch=number("n_batch", 2048),
        n_ubatch=number("n_ubatch", 512),
        type_k=str(terms.get("type_k", "f16")),
        type_v=str(terms.get("type_v", "f16")),
        flash_attn="on" if terms.get("flash") else "off",
        rope=_rope(terms.get("rope")),
        n_slots=1,
        n_threads=usable_cores(),
    )


def _rope(told: object) -> RopeParams:
    if not isinstance(told, dict):
        return RopeParams()
    defaults = {row.name: getattr(RopeParams(), row.name) for row in fields(RopeParams)}
    values: dict[str, Any] = {}
    for name, value in told.items():
        default = defaults.get(str(name))
        values[str(name)] = float(value) if isinstance(default, float) and isinstance(value, str) else value
    return RopeParams(**{name: value for name, value in values.items() if name in defaults})
