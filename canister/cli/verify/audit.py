"""The steps of `canister audit`: a sample of a server's own calls is looked at, there or from its stopped folder."""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from canister.cli.verify.run import Asked, Outcome, check_cycles, look_at, look_with_model
from canister.cli.verify.verdict import Verdict
from canister.ic.receipts import document, tree
from canister.ic.receipts import record as records
from canister.ic.receipts.check import OTHER_TERMS, Proven, check_together
from canister.ic.receipts.document import Receipt, ReceiptError, read_terms
from canister.system.hashing import sha256_of_file

if TYPE_CHECKING:
    from canister.client.rest import Canister
    from canister.ops.receipt_log import ReceiptLog


def sampled(share: float, first: int, size: int, draw: random.Random) -> list[int]:
    """So large a share of the calls first … size - 1, at least one; in their order."""
    kept = range(first, size)
    return sorted(draw.sample(kept, min(len(kept), max(1, math.ceil(share * len(kept))))))


async def of_server(client: Canister, calls: Sequence[int], size: int) -> AsyncIterator[Verdict]:
    """Each call as its server audits it: the receipt is checked here, the tokens are decoded there.

    size: records under the head that was seen first; each receipt proves that they are still the first. Raises
    ClientError.
    """
    key: bytes | None = None
    for call in calls:
        data = await client.receipt(str(call), since=size, cbor=True)
        verdict = look_at(f"call {call}", data, Asked([], root_key=key))
        if verdict.proven is not None:
            key = verdict.proven.receipt.root_key
        told = await client.audit(call)
        match told:
            case {"outcome": "equal", "tokens": int(n)}:
                verdict.tokens = f"{n} drawn, all as the model draws them, decoded one by one by the server"
            case {"outcome": "differs", "reason": str(reason)}:
                verdict.tokens = reason
                verdict.faults.append(f"the answer is not what this model gives: {reason}")
            case {"outcome": "drew none", "reason": str(reason)}:
                verdict.tokens = reason
            case {"reason": str(reason)}:
                verdict.tokens = f"not decoded again: {reason}"
        verdict.cost = "its cycles are those of its instructions"
        if told.get("cost"):
            verdict.faults.append(f"the cost is wrong: {told['cost']}")
        yield verdict


def together(verdicts: Sequence[Verdict]) -> Outcome:
    """What the receipts of a server say together: are they of one chain?"""
    try:
        check_together([verdict.proven for verdict in verdicts if verdict.proven is not None])
    except ReceiptError as error:
        return Outcome(list(verdicts), [], [str(error)])
    return Outcome(list(verdicts), [], [])


async def of_folder(log: ReceiptLog, calls: Sequence[int], model: Path | None) -> Outcome:
    """The whole chain of a stopped server, and these of its calls. model: beside those in the folder."""
    verdicts = [_read(log, call) for call in calls]
    notes: list[str] = []
    by_model: dict[bytes | None, list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.proven is not None:
            by_model.setdefault(_model_of(verdict.proven), []).append(verdict)
    for digest, group in by_model.items():
        if digest is None:
            for verdict in group:
                verdict.cost, verdict.tokens = "its cycles are those of its instructions", "it decoded nothing"
            continue
        is_given = model is not None and sha256_of_file(model) == digest.hex()
        file = model if is_given else log.model(digest)
        if file is None:
            named = f"{digest.hex()[:16]}…"
            for verdict in group:
                verdict.tokens = f"not decoded again: the folder has no file of model {named}, give --model"
            continue
        crashed = await look_with_model(file, group, False)
        notes += [crashed] if crashed else []
    return Outcome(verdicts, notes, list(log.faults))


def _read(log: ReceiptLog, call: int) -> Verdict:
    verdict = Verdict(f"call {call}", signed="by nobody, read from the folder of its server")
    found = log.record(call)
    if found is None:
        verdict.faults.append("its terms are gone, though its record is kept")
        return verdict
    data, terms = found
    record = records.decode(data)
    receipt = Receipt(log.size, (), data, terms, b"", b"", log.replay_of(record))
    proven = verdict.proven = Proven(receipt, record, tree.leaf_hash(data), b"", log.canister_id, record.time_ns)
    if document.terms_hash(terms) != record.terms:
        verdict.faults.append(OTHER_TERMS)
    check_cycles(verdict, proven)
    return verdict


def _model_of(proven: Proven) -> bytes | None:
    engine = read_terms(proven.receipt.terms).get("engine")
    model = engine.get("model") if isinstance(engine, dict) and proven.record.chat is not None else None
    return model if isinstance(model, bytes) else None


def told_of(verdict: Verdict) -> str:
    """A line on a call without faults, and all that was found about another one."""
    if verdict.proven is None or not verdict.is_ok:
        return "\n".join(verdict.lines())
    record = verdict.proven.record
    return f"call {record.index}: {record.method}, {record.outcome}; {verdict.tokens}"


def summary(outcome: Outcome, size: int, first: int, is_signed: bool) -> list[str]:
    """What was established of all, in a few lines."""

    def n_of(holds: Callable[[Verdict], bool]) -> int:
        return sum(map(holds, outcome.verdicts))

    n, n_bad = len(outcome.verdicts), n_of(lambda one: not one.is_ok)
    n_equal = n_of(lambda one: one.is_ok and "all as the model draws them" in one.tokens)
    n_left = n_of(lambda one: one.tokens.startswith("not decoded again"))
    kept = f"{size} calls" if not first else f"{size} calls, of which those from {first} on are kept"
    chain = "their records are in one signed chain" if is_signed else f"all {size - first} records follow each other"
    told = [f"{kept}: {n} looked at" + (f", {chain}" if not outcome.faults else "")]
    told.append(
        f"{n_equal} drew the tokens that the model draws, {n - n_equal - n_left - n_bad} drew none, "
        f"{n_left} could not be decoded again, {n_bad} wrong"
    )
    return told
