"""`canister fit`: will a model load on the Internet Computer, and with how large a context?"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from canister.cli.shared.models import (
    DEFAULT_LIMIT,
    Flags,
    Json,
    Limit,
    ModelFile,
    PageCost,
    Pages,
    read_flags,
    read_limit,
    read_model,
)

if TYPE_CHECKING:
    from canister.metering.cost_model import CostModel
    from canister.metering.estimate import Fit

_GIB = 2**30


def fit(
    file: ModelFile,
    args: Flags = "",
    page_cost: Pages = PageCost.mainnet,
    instruction_limit: Limit = DEFAULT_LIMIT,
    as_json: Json = False,
) -> None:
    """Tell whether a model fits the Internet Computer.

    Exit code 1 when it does not. Loading may touch 2 GiB of stable memory, the wasm heap may have 3.75 GiB, and a call
    on a full context must still decode a token. The largest context that fits is shown. --args gives context, batch
    sizes and KV types. The weights are not read.

    Example: canister fit model.gguf --args '--ctx-size 8192 -ctk q8_0 -ctv q8_0'
    """
    from canister.metering.cost_model import CostModel
    from canister.metering.estimate import against, context_of, estimate_call, estimate_fit

    shape = read_model(file)
    context = context_of(read_flags(args), shape)
    limit = read_limit(instruction_limit)
    found = estimate_fit(shape, context, pages=page_cost.value, limit=limit)
    model = CostModel(shape, context, page_cost.value)
    last = context.n_ctx - 1
    has_room = estimate_call(model, prompt_tokens=last, cached_tokens=last, generate=1, limit=limit).fits
    reasons = against(found, has_room=has_room)
    if as_json:
        document = _document(file.name, model, found, has_room)
        print(json.dumps(document, indent=2, ensure_ascii=False))
        raise typer.Exit(1 if reasons else 0)
    print(f"{file.name}, context {context.n_ctx:,} tokens, KV {context.type_k}/{context.type_v}\n")
    for name, value in _lines(model, found, has_room):
        print(f"{name:<22} {value}")
    for guess in model.estimates:
        print(f"estimated: {guess}")
    verdict = f"no: {'; '.join(reasons)}" if reasons else found.loads
    print(f"\n{'fits':<22} {verdict}")
    if reasons:
        raise typer.Exit(1)


def _document(name: str, model: CostModel, found: Fit, has_room: bool) -> dict[str, object]:
    from canister.metering.estimate import HEAP_LIMIT_BYTES

    return {
        "model": name,
        "file_bytes": model.shape.file_bytes,
        "n_ctx_asked": model.context.n_ctx,
        "fits": found.loads != "no" and found.heap_fits and has_room,
        **asdict(found),
        "heap_limit_bytes": HEAP_LIMIT_BYTES,
        "n_ctx_train": model.shape.n_ctx_train,
        "estimates": model.estimates,
    }


def _lines(model: CostModel, found: Fit, has_room: bool) -> list[tuple[str, str]]:
    """has_room: a call on a full context still decodes a token."""
    from canister.metering.estimate import FAILS_FROM_BYTES, HEAP_LIMIT_BYTES, LOADS_UP_TO_BYTES

    shape = model.shape
    sizes = f"{LOADS_UP_TO_BYTES / 1e9:g} GB are known to load, {FAILS_FROM_BYTES / 1e9:g} GB to fail"
    loads = {
        "yes": "yes",
        "maybe": f"maybe: {sizes}",
        "no": f"no: it would touch more than 2 GiB of stable memory in one message; {sizes}",
    }
    heap = f"{found.heap_bytes / _GIB:.2f} of {HEAP_LIMIT_BYTES / _GIB:g} GiB"
    largest = f"{found.n_ctx:,} tokens" if found.n_ctx else "none fits"
    return [
        ("file", f"{shape.file_bytes:,} bytes"),
        ("loads", loads[found.loads]),
        ("heap", heap if found.heap_fits else f"{heap}: too much"),
        ("calls", "a token fits even at the end of the context" if has_room else "at its end no token fits a call"),
        ("largest context", largest if found.loads != "no" else f"{largest}, if it did load"),
        ("  by the heap", f"{found.n_ctx_heap:,}"),
        ("  by instructions", f"{found.n_ctx_calls:,}"),
        ("  of the model", f"{shape.n_ctx_train:,}" if shape.n_ctx_train else "it does not say"),
    ]
