"""Talk to a canister from Python as IC agents do: signed messages, and answers whose signatures are checked.

    async with IcCanister("http://127.0.0.1:8000", "llama_cpp", Identity.from_pem(pem)) as canister:
        result = await canister.run_update(InputRecord(args=["-p", "Hello"]))

The same calls, values and errors as `canister.client.Canister`, with an identity instead of an API key. `client.agent`
sends the messages and checks the answers.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from canister.api import codec
from canister.api.methods import Method
from canister.client.agent import Agent, Sender
from canister.client.errors import ProtocolError, Refused
from canister.client.http_library import httpx
from canister.client.methods import MethodCalls
from canister.client.rest import CALL_SECONDS, find_method
from canister.client.result import Result
from canister.ic.candid.types import CandidError


class IcCanister(MethodCalls):
    """One canister, by id or by its name on a server of ours. sender None: the anonymous caller.

    root_key: DER; None asks the server for it, if it is on this machine.
    """

    def __init__(
        self,
        url: str,
        canister: str,
        sender: Sender = None,
        *,
        root_key: bytes | None = None,
        timeout_seconds: float = CALL_SECONDS,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.name = canister
        self._agent = Agent(url, sender, root_key, timeout_seconds=timeout_seconds, transport=transport)
        self._id: bytes | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._agent.close()

    async def call(self, name: str, arg: object = None, *, timeout_seconds: float | None = None) -> Result[Any]:
        """Call a method and decode its answer to the types of the interface table. Raises ClientError."""
        method = find_method(name)
        if self._id is None:
            self._id = await self._agent.id_of(self.name)
        send = self._agent.query if method.mode == "query" else self._agent.update
        reply = await send(self._id, name, codec.encode_args(method, arg), timeout_seconds=timeout_seconds)
        return _result(method, reply)


def _result(method: Method, reply: bytes) -> Result[Any]:
    try:
        answer = codec.decode_reply(method, reply)
    except CandidError as error:
        raise ProtocolError(f"{method.name} answered something else than it should: {error}") from None
    if answer.is_err:
        raise Refused(answer.value, 200)
    return Result(answer.value)
