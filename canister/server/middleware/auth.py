"""Credentials → caller principal, for every path alike: no route can forget to ask.

`Authorization: Bearer <API key>` makes the caller the key's principal, and so does `x-api-key`, which Anthropic's
clients send, where there is no Authorization. Without either the caller is anonymous. A header that is there but does
not count is refused with 401: a mistyped key must never act as somebody else.
"""

from __future__ import annotations

from starlette.types import ASGIApp

from canister.dispatch import Dispatcher
from canister.errors import Unauthenticated
from canister.ic.principal import ANONYMOUS
from canister.server.answers import rejected
from canister.server.middleware.asked import Asked
from canister.server.requests import VOUCHED


class Authentication:
    """A check that puts the caller's principal into the request's state."""

    def __init__(self, behind: Dispatcher) -> None:
        self._behind = behind

    def __call__(self, asked: Asked) -> ASGIApp | None:
        state = asked.scope["state"]
        if not state.get(VOUCHED):  # by the herd that this server works for: doors/herd.py
            try:
                state["caller"] = caller_of(asked, self._behind)
            except Unauthenticated as error:
                return rejected(asked.scope, error)
        return None


def caller_of(asked: Asked, behind: Dispatcher) -> str:
    """The caller's principal. Unauthenticated says what is wrong with the header, without repeating it."""
    given = asked.all_of(b"authorization") or [f"Bearer {key}" for key in asked.all_of(b"x-api-key")]
    if not given:
        return ANONYMOUS
    scheme, _, key = given[0].strip().partition(" ")
    if len(given) > 1 or scheme.lower() != "bearer" or not key.strip():
        raise Unauthenticated(
            "the Authorization header is not understood: send one, 'Authorization: Bearer <API key>', "
            "or none to call as anonymous"
        )
    principal = behind.principal_of(key.strip())
    if principal is None:
        raise Unauthenticated(
            "the API key is unknown, revoked or expired: make one with 'canister api-key create NAME' on the server, "
            "or send no Authorization header to call as anonymous"
        )
    return principal
