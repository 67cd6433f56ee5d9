"""The guard of a call that another process will run: may its caller make it, and does its argument decode?"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING

from canister.dispatch.execute import Reply, Terms, admit, run
from canister.runtime import access

if TYPE_CHECKING:
    from canister.api.methods import Method
    from canister.runtime.call import Call
    from canister.runtime.canister import Canister


async def read_argument(canister: Canister, method: Method, caller: str, decode: Callable[[], object]) -> Reply:
    """The argument as the value of a reply without error, or the refusal. Raises Trap for a reject. It costs nothing.

    decode: as of `execute`, called only for a caller who may make the call, and again if it fails.
    """
    if canister.is_started and access.allows(canister, caller, method.access):  # as most are: without a call for it
        try:
            decoded = None if method.arg is None else decode()
        except Exception:  # the call below says it in the words of all calls
            pass
        else:
            if not inspect.isawaitable(decoded):
                return Reply(decoded)
            decode = lambda: decoded  # noqa: E731  # it is large, and comes from a thread

    async def handle(call: Call) -> object:
        admit(call, method)
        call.cost(0, is_limited=False)
        if method.arg is None:
            return None
        argument = decode()
        return await argument if inspect.isawaitable(argument) else argument

    terms = Terms(is_update=False, err=method.err, is_limited=False)
    return await run(canister, method.name, caller, handle, terms)
