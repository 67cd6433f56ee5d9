"""The guard of a call that another process will run: may its caller make it, and does its argument decode?"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING

from canister.dispatch.execute import Reply, Terms, admit, run

if TYPE_CHECKING:
    from canister.api.methods import Method
    from canister.runtime.call import Call
    from canister.runtime.canister import Canister


async def read_argument(canister: Canister, method: Method, caller: str, decode: Callable[[], object]) -> Reply:
    """The argument as the value of a reply without error, or the refusal. Raises Trap for a reject. It costs nothing.

    decode: as of `execute`, called only for a caller who may make the call.
    """

    async def handle(call: Call) -> object:
        admit(call, method)
        call.cost(0, is_limited=False)
        if method.arg is None:
            return None
        argument = decode()
        return await argument if inspect.isawaitable(argument) else argument

    terms = Terms(is_update=False, err=method.err, is_limited=False)
    return await run(canister, method.name, caller, handle, terms)
