"""Load a model, and limit the tokens of one call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from canister.api.records import InputRecord, MaxTokensRecord, RunOutputRecord, StatusCodeRecord
from canister.errors import BadRequest, InstructionLimit
from canister.handlers.arguments import parse_args
from canister.metering.cost_model import load_cost

if TYPE_CHECKING:
    from canister.engine.engine import Engine
    from canister.flags.parse import RunArgs
    from canister.runtime.call import Call


async def load_model(call: Call, arg: InputRecord) -> RunOutputRecord:
    args = parse_args(arg)
    if not args.model:
        raise BadRequest("--model not provided in args. Do not know what model to load.")
    await load(call, args, tuple(arg.args))
    return RunOutputRecord(status_code=200, output="Model succesfully loaded into memory.")


async def load(call: Call, args: RunArgs, given: tuple[str, ...]) -> Engine:
    """Load beside the loaded model, which stays usable until this call is committed, and if this call fails.

    On the main network several calls load a large model. Here an operator loads it in one call, so its cost is metered,
    but held against the limit only where calls trap at it.
    """
    stored = await call.canister.model.find(args)
    instructions = load_cost(stored.n_bytes)
    limit = call.limit if call.canister.settings.budget_policy == "trap" else None
    call.cost(instructions, is_limited=limit is not None)
    if limit is not None and instructions > limit:
        raise InstructionLimit(
            call.canister.id,
            limit,
            f" Loading the {stored.n_bytes} bytes of {stored.path} takes {instructions}; under this limit a model has "
            f"at most {limit // load_cost(1)} bytes. Raise --instruction-limit (none: counted, not enforced), or serve "
            "with --budget-policy yield.",
        )
    call.check_balance(instructions)
    await call.model_alone()
    engine = await call.canister.model.load(args, stored)
    call.change(model_args=given)
    call.on_commit(lambda: call.canister.model.adopt(engine))
    call.on_commit(call.canister.model.crashes.forget)  # a caller who asks for a model wants it to be tried again
    call.on_rollback(lambda: call.canister.model.discard(engine))
    return engine


async def set_max_tokens(call: Call, arg: MaxTokensRecord) -> StatusCodeRecord:
    call.change(max_tokens_update=arg.max_tokens_update, max_tokens_query=arg.max_tokens_query)
    return StatusCodeRecord()


async def get_max_tokens(call: Call) -> MaxTokensRecord:
    return MaxTokensRecord(max_tokens_update=call.state.max_tokens_update, max_tokens_query=call.state.max_tokens_query)
