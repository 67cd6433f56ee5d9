"""The cost of a call, computed again from its receipt: what it says that it did, by the cost model."""

from __future__ import annotations

from collections.abc import Mapping

from canister.errors import CanisterError
from canister.ic.receipts.record import Record
from canister.metering import fees
from canister.metering.cost_model import PAGE_COSTS, CostContext, CostModel, PageCosts, Work
from canister.model_file.shape import ModelShape


def cycles_fault(record: Record, terms: Mapping[str, object]) -> str | None:
    """What is wrong with the cycles, if anything, given the instructions."""
    nodes = terms.get("nodes")
    if not isinstance(nodes, int):
        return "the terms do not say how many nodes the subnet has"
    if record.is_query:
        return f"{record.cycles} cycles for a query, which costs none" if record.cycles else None
    cycles = fees.update_cycles(record.instructions, record.request_bytes, nodes=nodes)
    if cycles == record.cycles:
        return None
    return f"{record.cycles} cycles are charged, and {record.instructions} instructions cost {cycles}"


def instructions_fault(record: Record, terms: Mapping[str, object], shape: ModelShape) -> str | None:
    """What is wrong with the instructions of a call that decoded, by part, if anything."""
    chat = record.chat
    if chat is None:
        return None
    work = Work(
        chat.n_loaded, chat.n_kept, chat.n_prompt, chat.n_generated, chat.n_sampled, chat.saves, chat.is_penalized
    )
    try:
        model = _cost_model(terms, shape)
        if model is None:
            return "the terms do not say by which parameters the call was charged"
        wanted = {name: n for name, n in model.cost(work).parts().items() if n}
    except (ArithmeticError, LookupError, ValueError, CanisterError):
        return "the terms have parameters that no call can be charged by"
    told = {name: n for name, n in record.parts.items() if name != "load"}
    for name in sorted(wanted.keys() | told.keys()):
        n, n_wanted = told.get(name, 0), wanted.get(name, 0)
        if n != n_wanted:
            return f"{n} instructions for {name} are charged, and the cost model gives {n_wanted}"
    return None


def _cost_model(terms: Mapping[str, object], shape: ModelShape) -> CostModel | None:
    match terms.get("cost"):
        case {
            "n_ctx": int(n_ctx),
            "n_batch": int(n_batch),
            "n_ubatch": int(n_ubatch),
            "type_k": str(type_k),
            "type_v": str(type_v),
            "swa_full": bool(swa_full),
            "pages": str(pages),
        } if pages in PAGE_COSTS:
            known: PageCosts = "mainnet" if pages == "mainnet" else "legacy"
            return CostModel(shape, CostContext(n_ctx, n_batch, n_ubatch, type_k, type_v, swa_full), known)
    return None
