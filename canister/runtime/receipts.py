"""The records of a canister's calls: gathers what a call was, for the chain that `state/receipts.py` keeps."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

from canister.engine.load import library
from canister.engine.numeric import isa, numeric_class
from canister.flags.params import SamplingParams
from canister.flags.parse import RopeParams
from canister.ic import principal
from canister.ic.receipts import record as records
from canister.ic.receipts.document import terms_hash
from canister.ic.receipts.record import ChatPart, Outcome, Record
from canister.ic.receipts.values import encoded
from canister.state.receipts import Added, Contents, Receipts

if TYPE_CHECKING:
    from canister.config import CanisterSettings
    from canister.engine.engine import Engine, EngineInfo
    from canister.metering.cost_model import CostContext
    from canister.metering.fees import Charge
    from canister.store.transaction import Transaction

MOST_TERMS = 256  # that are remembered
MOST_CALLERS = 4096
_NO_ROPE = RopeParams()
_NO_SAMPLING = SamplingParams()


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a call did with a conversation. words: of all tokens behind it."""

    chat: ChatPart
    words: bytes
    sampling: SamplingParams


def hashes_of(before: bytes, after: bytes, n_kept: int) -> tuple[bytes, bytes]:
    """The hashes of both; what they have in common at their beginning is hashed once."""
    kept = 4 * n_kept
    if before[:kept] != after[:kept]:
        return records.words_hash(before), records.words_hash(after)
    common = hashlib.sha256(memoryview(before)[:kept])
    whole = common.copy()
    common.update(memoryview(before)[kept:])
    whole.update(memoryview(after)[kept:])
    return common.digest(), whole.digest()


@dataclass(frozen=True, slots=True)
class Facts:
    """What a call was, beside what it was told and answered. limit: of its instructions. worker: of a herd; fence: of
    the job's try. engine, cost: the model that it used, if any.
    """

    caller: str
    method: str
    is_update: bool
    now_ns: int
    request_bytes: int
    limit: int | None
    worker: str | None
    fence: int | None
    decoded: Decoded | None
    engine: Engine | None
    cost: CostContext | None


@dataclass(frozen=True, slots=True)
class Made:
    """A record that has no place in a chain yet, and what is kept with it."""

    record: Record
    terms: bytes
    contents: Contents | None


class ReceiptBook:
    """Makes the records of one canister. What many calls have in common is made once."""

    def __init__(self, canister_id: str, settings: CanisterSettings, chain: Receipts) -> None:
        self.chain = chain
        self._canister_id = canister_id
        self._settings = settings
        self._terms: dict[tuple[object, ...], tuple[bytes, bytes]] = {}
        self._engine: Callable[[], Engine | None] = lambda: None
        self._callers: dict[str, bytes] = {}

    def make(self, facts: Facts, charge: Charge, outcome: Outcome, argument: bytes, output: object) -> Made:
        """The record of a call. argument: in CBOR; b"": it has none."""
        decoded = facts.decoded
        hash_of_terms, terms = self._terms_of(facts)
        told = encoded(output)
        record = Record(
            0,
            facts.now_ns,
            records.NO_HASH,
            hash_of_terms,
            self._caller(facts.caller),
            facts.method,
            not facts.is_update,
            outcome,
            hashlib.sha256(argument).digest() if argument else records.NO_HASH,
            hashlib.sha256(told).digest(),
            facts.request_bytes,
            charge.cycles,
            charge.parts,
            None if decoded is None else decoded.chat,
            facts.fence,
        )
        contents = None
        if self._settings.receipts == "full":
            contents = Contents(b"" if decoded is None else decoded.words, argument, told)
        return Made(record, terms, contents)

    def add(self, transaction: Transaction, made: Made) -> Added:
        """Append a record when this transaction commits."""
        return self.chain.add(transaction, made.record, made.terms, made.contents)

    def terms(self, hash_of_terms: bytes) -> bytes:
        """The terms with this hash; b"" for those that are forgotten."""
        known = next((terms for found, terms in self._terms.values() if found == hash_of_terms), None)
        return known or self.chain.terms(hash_of_terms) or b""

    def _caller(self, text: str) -> bytes:
        found = self._callers.get(text)
        if found is None:
            if len(self._callers) >= MOST_CALLERS:
                self._callers.clear()
            found = self._callers[text] = principal.from_text(text)
        return found

    def _terms_of(self, facts: Facts) -> tuple[bytes, bytes]:
        sampling = None if facts.decoded is None else facts.decoded.sampling
        engine = facts.engine
        if engine is not None and self._engine() is not engine:
            self._terms.clear()
            self._engine = weakref.ref(engine)  # so that an unloaded model is not kept
        key = (engine is not None, sampling, facts.limit, facts.worker)
        found = self._terms.get(key)
        if found is None:
            if len(self._terms) >= MOST_TERMS:
                self._terms.clear()
            terms = self._make_terms(facts, sampling or _NO_SAMPLING)
            found = self._terms[key] = terms_hash(terms), terms
        return found

    def _make_terms(self, facts: Facts, sampling: SamplingParams) -> bytes:
        told: dict[str, object] = {
            "canister": principal.from_text(self._canister_id),
            "limit": facts.limit,
            "nodes": self._settings.subnet_nodes,
            "worker": facts.worker,
        }
        if facts.engine is not None and facts.cost is not None:
            told["engine"] = engine_terms(facts.engine.info)
            told["cost"] = {**asdict(facts.cost), "pages": self._settings.page_cost}
            told["sampling"] = _changed(sampling)
        return encoded(told)


def engine_terms(info: EngineInfo) -> dict[str, object]:
    """Model, build and processor, and how it decodes: as far as the bits of a decode may depend on it."""
    policy, ways = info.policy, info.restrictions
    return {
        "model": info.model_id,
        "name": info.name,
        "file_type": info.file_type,
        "build": library.version(),
        "library": library.library_id(),
        "processor": library.processor(),
        "isa": isa(),
        **({"devices": str(info.placed.key)} if info.placed.is_offloaded else {}),
        "numeric": numeric_class(info),
        "exact": policy.is_exact,
        "why": policy.why,
        "flash": info.flash_attn,
        "block": policy.chunk.block,
        "repeats_cut": policy.repeats_cut,
        "rows": info.row_classes,
        "attention": info.attention_classes,
        "ways": str(ways.key),
        "n_ctx": info.n_ctx,
        "n_batch": info.n_batch,
        "n_ubatch": info.n_ubatch,
        "threads": info.n_threads,
        "type_k": info.type_k,
        "type_v": info.type_v,
        "rope": {name: value for name, value in asdict(info.rope).items() if value != getattr(_NO_ROPE, name)},
    }


def _changed(sampling: SamplingParams) -> dict[str, object]:
    """The settings that are not the defaults."""
    values: Mapping[str, object] = {row.name: getattr(sampling, row.name) for row in fields(sampling)}
    return {name: value for name, value in values.items() if value != getattr(_NO_SAMPLING, name)}
