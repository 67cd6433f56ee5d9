"""The grammars of a model, read once, outside of event loop and decode thread, since reading may take a second.

The binding of an answer is looked up here when its request comes in. A binding of a known grammar begins cheaply.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from canister import json_schema
from canister.engine.llama import Model
from canister.engine.sampling.binding import MOST_VOCABULARY_SECONDS, TOO_MANY_WAYS, Binding, Gbnf, Guided, first_line
from canister.engine.sampling.gbnf_ways import most_pairs
from canister.engine.sampling.llguidance import GrammarFault, GrammarLimits, Matcher, TokenTable
from canister.engine.sampling.samplers import Candidates, Sampler
from canister.engine.sampling.triggers import Triggered
from canister.errors import BadRequest
from canister.flags.params import SamplingParams
from canister.system.deep_stack import with_deep_stack

MAX_GRAMMAR_BYTES = 262_144
MAX_GRAMMAR_DEPTH = 128  # the parser of llama.cpp calls itself for each group in another
MAX_GRAMMAR_GROUPS = 4096
MAX_KNOWN = 32  # grammars that are kept
MAX_KNOWN_CHARACTERS = 1 << 20  # of all of them; what is read takes up to some hundred times as much memory
MAX_READ_AT_ONCE = 2
MAX_PAIRS = 250_000  # such as of 700 "a"? in a row, or of 500 words that may follow one another without a space
N_PROBED = 1024  # a vocabulary begins with its single bytes, which tell what a grammar costs
LIMITS = GrammarLimits()
_BEGINNINGS = (b'{"', b'[{"')

Start = Sampler | Matcher
"""A grammar at its beginning."""


class Source(NamedTuple):
    """kind: gbnf, lark, json_schema."""

    kind: str
    text: str


def source_of(params: SamplingParams) -> Source | None:
    """What the answer is bound to. BadRequest if that is more than one thing."""
    given = [
        Source(kind, text)
        for kind, text in (("gbnf", params.grammar), ("json_schema", params.json_schema), ("lark", params.lark))
        if text
    ]
    if len(given) > 1:
        raise BadRequest("An answer can be bound to one of a grammar and a JSON schema, not to both")
    return given[0] if given else None


class Grammars:
    """For one event loop, except `table`. model: the engine may have dropped it."""

    def __init__(self, model: Callable[[], Model]) -> None:
        self._model = model
        self._table: asyncio.Future[TokenTable] | None = None
        self._known: OrderedDict[Source, asyncio.Future[Start]] = OrderedDict()
        self._turn = asyncio.Semaphore(MAX_READ_AT_ONCE)

    async def bind(self, params: SamplingParams) -> Binding | None:
        """A binding at its beginning, None if there is none. The caller closes it. Raises BadRequest."""
        source = source_of(params)
        if source is None:
            return None
        start = await self._start(source)
        model = self._model()
        binding = Gbnf(start) if isinstance(start, Sampler) else Guided(frozenset(model.eog_tokens), start)
        if not any(params.grammar_triggers):
            return binding
        triggers = [text for text in params.grammar_triggers if text]
        spell = (await self._tokens()).spelled
        return Triggered(binding, triggers, partial(model.piece, special=True), spell, params.grammar_quiet)

    async def _start(self, source: Source) -> Start:
        known = self._known.get(source)
        if known is None:
            known = self._known[source] = asyncio.ensure_future(self._read(source))
            known.add_done_callback(_is_known)
            self._forget_oldest()
        self._known.move_to_end(source)
        try:
            return await asyncio.shield(known)
        except BadRequest:
            if self._known.get(source) is known:
                del self._known[source]
            raise

    def _forget_oldest(self) -> None:
        n_characters = sum(len(source.text) for source in self._known)
        while len(self._known) > 1 and (len(self._known) > MAX_KNOWN or n_characters > MAX_KNOWN_CHARACTERS):
            source, _ = self._known.popitem(last=False)
            n_characters -= len(source.text)

    async def _read(self, source: Source) -> Start:
        async with self._turn:
            if source.kind == "gbnf":
                return await asyncio.to_thread(_read_gbnf, self._model(), source.text)
            table = await self._tokens()
            return await asyncio.to_thread(with_deep_stack, partial(_read_guided, table, source))

    async def _tokens(self) -> TokenTable:
        if self._table is None:
            self._table = asyncio.ensure_future(asyncio.to_thread(_table_of, self._model()))
        return await asyncio.shield(self._table)


def _is_known(read: asyncio.Future[Start]) -> None:
    if not read.cancelled():
        read.exception()  # the waiting caller may have gone


def _table_of(model: Model) -> TokenTable:
    return TokenTable(model.pieces(), model.untexted_tokens, model.eog_tokens)


def _read_gbnf(model: Model, text: str) -> Sampler:
    depth = deepest = 0
    for character in text:
        depth += (character == "(") - (character == ")")
        deepest = max(deepest, depth)
    n_bytes, n_groups = len(text.encode("utf-8", "replace")), text.count("(")
    if n_bytes > MAX_GRAMMAR_BYTES or n_groups > MAX_GRAMMAR_GROUPS or deepest > MAX_GRAMMAR_DEPTH:
        raise BadRequest(
            f"The grammar cannot be used: it has {n_bytes} bytes and {n_groups} groups, {deepest} within each other; "
            f"at most {MAX_GRAMMAR_BYTES}, {MAX_GRAMMAR_GROUPS} and {MAX_GRAMMAR_DEPTH} are taken"
        )
    if most_pairs(text) > MAX_PAIRS:  # what follows could not be ended
        raise BadRequest(f"The grammar cannot be used: {TOO_MANY_WAYS}")
    start = Sampler.grammar(model, text)
    candidates = Candidates(min(model.n_vocab, N_PROBED))
    candidates.fill(np.zeros(candidates.n_vocab, np.float32))
    if not start.clone().apply_within(candidates, MOST_VOCABULARY_SECONDS):  # told now, not in the middle of an answer
        raise BadRequest(f"The grammar cannot be used: {TOO_MANY_WAYS}")
    return start


def _read_guided(table: TokenTable, source: Source) -> Matcher:
    kind, text = source
    if kind == "json_schema":
        text = json.dumps(json_schema.bindable(json_schema.read(text)))
    try:
        start = table.matcher(kind, text, LIMITS)
        if not (start.mask().any() or start.may_end):
            raise GrammarFault("nothing fits it")
        for beginning in _BEGINNINGS:  # what costs too much there is told now, not in the middle of an answer
            probe = start.clone()
            probe.take(table.spelled(beginning))
            probe.mask()
    except GrammarFault as fault:
        if kind == "json_schema":
            raise json_schema.unusable(first_line(fault)) from None
        raise BadRequest(f"The grammar cannot be used: {first_line(fault)}") from None
    return start
