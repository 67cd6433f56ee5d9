"""The steps of `canister verify`: each receipt alone, all of them together, costs, and at last the tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from canister.cli.verify.aside import judge_aside
from canister.cli.verify.verdict import Verdict, moment
from canister.ic.receipts import document
from canister.ic.receipts.check import Proven, check, check_contents, check_together, gaps
from canister.ic.receipts.document import ReceiptError, read_terms
from canister.metering.receipts import cycles_fault, instructions_fault

if TYPE_CHECKING:
    from canister.model_file.shape import ModelShape


@dataclass(frozen=True, slots=True)
class Asked:
    """root_key: DER; None: the one that each receipt names. ids: what the server has called the calls, where known.

    argument, output: what was sent and got, for a single receipt.
    """

    files: Sequence[Path]
    model: Path | None = None
    root_key: bytes | None = None
    ids: Sequence[str] = ()
    argument: object = None
    output: object = None
    one_by_one: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """notes: what the receipts do not prove together. faults: of all of them together, such as a fork."""

    verdicts: list[Verdict]
    notes: list[str]
    faults: list[str]

    @property
    def is_ok(self) -> bool:
        return not self.faults and all(verdict.is_ok for verdict in self.verdicts)


async def verify(asked: Asked) -> Outcome:
    """Look at everything that can be looked at. Raises CanisterError for a model file that cannot be used."""
    verdicts = [_alone(path, asked) for path in asked.files]
    proven = [verdict.proven for verdict in verdicts if verdict.proven is not None]
    notes, faults = list[str](), list[str]()
    try:
        notes = check_together(proven)
    except ReceiptError as error:
        faults.append(str(error))
    faults += [str(gap) for gap in gaps(proven)]
    if asked.model is not None:
        crashed = await look_with_model(asked.model, verdicts, asked.one_by_one)
        notes += [crashed] if crashed else []
    return Outcome(verdicts, notes, faults)


def _alone(path: Path, asked: Asked) -> Verdict:
    try:
        data = path.read_bytes()
    except OSError as error:
        return Verdict(path.name, faults=[f"the file cannot be read: {error.strerror}"])
    return look_at(path.name, data, asked)


def look_at(source: str, data: bytes, asked: Asked) -> Verdict:
    """Check a receipt alone, without its model. source: where it comes from, for whoever reads the verdict."""
    verdict = Verdict(source)
    try:
        receipt, _ = document.read(data)
        number = document.decoded(receipt).index
        wanted = next((id for id in asked.ids if document.parse_id(id)[0] == number), None)
        if asked.ids and wanted is None:
            raise ReceiptError(f"it is the receipt of call {number}, which none of the given ids is of")
        proven = verdict.proven = check(receipt, asked.root_key, wanted)
        check_contents(proven.record, asked.argument, asked.output)
    except ReceiptError as error:
        verdict.faults.append(str(error))
        return verdict
    by = "by the root key" if asked.root_key is not None else f"by {receipt.root_key[-96:].hex()[:16]}…, which it names"
    verdict.signed = f"{by}; record {number} of {receipt.size}, certified {moment(proven.certified_ns)}"
    check_cycles(verdict, proven)
    return verdict


def check_cycles(verdict: Verdict, proven: Proven) -> None:
    fault = cycles_fault(proven.record, read_terms(proven.receipt.terms))
    if fault is not None:
        verdict.faults.append(f"the cost is wrong: {fault}")


async def look_with_model(file: Path, verdicts: Sequence[Verdict], one_by_one: bool) -> str | None:
    """Check costs and tokens with the model. Returns a sentence where llama.cpp has crashed."""
    from canister.model_file.gguf import read_gguf
    from canister.model_file.shape import read_shape
    from canister.system.hashing import sha256_of_file

    shape, digest = read_shape(read_gguf(file)), bytes.fromhex(sha256_of_file(file))
    by_engine: dict[bytes, list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.proven is None:
            continue
        terms = read_terms(verdict.proven.receipt.terms)
        engine = terms.get("engine")
        if verdict.proven.record.chat is None or not isinstance(engine, dict):
            verdict.cost, verdict.tokens = "by the bytes of the request, not by a model", "it decoded nothing"
            continue
        _tell_cost(verdict, verdict.proven, shape)
        if engine.get("model") != digest:
            named = engine.get("model")
            told = named.hex()[:16] if isinstance(named, bytes) else "none"
            verdict.tokens = "not decoded again"
            verdict.faults.append(f"another model: the record names {told}…, and {file.name} is {digest.hex()[:16]}…")
            continue
        key = document.terms_hash(repr(engine).encode())
        by_engine.setdefault(key, []).append(verdict)
    groups = list(by_engine.values())
    if not groups:
        return None
    return await asyncio.to_thread(judge_aside, file, groups, one_by_one=one_by_one)


def _tell_cost(verdict: Verdict, proven: Proven, shape: ModelShape) -> None:
    record = proven.record
    fault = instructions_fault(record, read_terms(proven.receipt.terms), shape)
    if fault is None:
        verdict.cost = f"{record.instructions:,} instructions, as the cost model gives; {record.cycles:,} cycles"
    else:
        verdict.cost = "not what the cost model gives"
        verdict.faults.append(f"the cost is wrong: {fault}")
