"""The draft model of a load: found in stable memory, held open, and tried in a child process like any model."""

from __future__ import annotations

from contextlib import ExitStack

from canister.engine.engine import LoadParams
from canister.engine.load.draft_loader import draft_context
from canister.engine.load.trial import Trials, path_of_descriptor
from canister.engine.load.ways import weight_kinds
from canister.errors import BadRequest
from canister.flags.parse import RunArgs
from canister.metering.cost_model import CostContext, CostModel
from canister.model_file.shape import FITTED, read_shape
from canister.runtime.stored_model import find_model, model_id, opened_model
from canister.store.stable import StableMemory


async def draft_params(stable: StableMemory, trials: Trials, held: ExitStack, args: RunArgs) -> LoadParams | None:
    """How the model of --model-draft is loaded; None: none is asked for. held: keeps its files open as long.

    Raises NotFound, BadRequest.
    """
    if args.draft.model is None:
        return None
    path = args.draft.model
    stored = await find_model(stable, path)
    n_ctx = draft_context(args.ctx_size)
    try:
        shape = read_shape(stored.header)
        context = CostContext(n_ctx, n_ctx, n_ctx, args.draft.type_k, args.draft.type_v)
        kv_bytes = CostModel(shape, context).kv_bytes if shape.architecture in FITTED else 0
    except BadRequest as error:
        raise BadRequest(f"cannot use {path} as --model-draft: {error}") from error
    parts = held.enter_context(opened_model(stable, stored))
    paths = [path_of_descriptor(part.fd, part.path) for part in parts]
    params = LoadParams(
        path=paths[0],
        more_paths=tuple(paths[1:]),
        name=path,
        model_id=await model_id(stable, stored),
        n_ctx=n_ctx,
        n_batch=n_ctx,
        n_ubatch=n_ctx,
        type_k=args.draft.type_k,
        type_v=args.draft.type_v,
        exact="off",
        flash_attn="auto" if args.draft.type_v in ("f32", "f16", "bf16") else "on",
        kv_bytes=kv_bytes,
    )
    return await trials.check(params, [part.fd for part in parts], weight_kinds(stored.header))
