"""What an operator asks of the node: `GET /ao` tells who it is, `POST /ao/mint` makes money. Here API keys count."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import Request, Response
from starlette.routing import Route

from canister.ao.encoding import is_id
from canister.errors import AccessDenied, BadRequest
from canister.server.doors.ao.routing import document, json_body, route
from canister.server.doors.ao.units import Units
from canister.server.requests import caller, dispatcher

MAX_BODY_BYTES = 4096
MAX_DIGITS = 60


class Node:
    """named: ids that clients need, by what they are."""

    def __init__(self, units: Units, named: Mapping[str, str]) -> None:
        self._units = units
        self._named = named

    def routes(self) -> list[Route]:
        return [
            route("/ao", {"GET": self.about}),
            route("/ao/mint", {"POST": self.mint}),
            route("/ao/balance/{account}", {"GET": self.balance}),
        ]

    async def about(self, request: Request) -> Response:
        return document({"address": self._units.node, **self._named})

    async def mint(self, request: Request) -> Response:
        asks = caller(request)
        if not all(asks in canister.controllers for canister in dispatcher(request).targets):
            raise AccessDenied(
                "money is made by controllers: send 'Authorization: Bearer <API key>' of one. `canister ao mint` has "
                "--api-key KEY, and --data-dir of the server for its controller.key"
            )
        given = await json_body(request, MAX_BODY_BYTES)
        account, amount = (given.get("account"), given.get("amount")) if isinstance(given, dict) else (None, None)
        account = _account(account)
        if not isinstance(amount, str) or not amount.isdecimal() or len(amount) > MAX_DIGITS or not int(amount):
            raise BadRequest(f"amount is {str(amount)[:80]!r}; it is a text of digits, in the smallest units")
        await self._units.mint(account, int(amount))
        return document({"account": account, "balance": str(await self._units.balance(account))})

    async def balance(self, request: Request) -> Response:
        account = _account(request.path_params["account"])
        return document({"account": account, "balance": str(await self._units.balance(account))})


def _account(value: object) -> str:
    if not isinstance(value, str) or not (is_id(value) or value.startswith("0x")):
        raise BadRequest(f"account is {str(value)[:80]!r}, no address of a wallet and no process")
    return value
