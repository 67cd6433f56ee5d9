"""API keys over REST: signing a browser in by a code, and keys that controllers make, list and revoke.

A browser's key lives eight hours. Its name begins with `console-`, so that lists show what it is, and old ones go when
the next is made.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from canister.errors import BadRequest, Forbidden, NotFound, Unauthenticated
from canister.ic.principal import ANONYMOUS
from canister.runtime.sign_in import LIFETIME_SECONDS
from canister.state.api_keys import parse_duration

if TYPE_CHECKING:
    from canister.runtime.host import Host
    from canister.state.api_keys import ApiKey

BROWSER = "console-"
BROWSER_SECONDS = 8 * 3600
CODE_SECONDS = LIFETIME_SECONDS


@dataclass(frozen=True, slots=True)
class MadeKey:
    """A key that is shown this once. expires_ns: ns since 1970; None: never."""

    name: str
    key: str
    principal: str
    expires_ns: int | None


@dataclass(frozen=True, slots=True)
class KeyDesk:
    """The keys of a running host."""

    _host: Host

    def make_code(self, caller: str) -> str:
        """A code that signs a browser in as this caller. Unauthenticated: the anonymous one needs none."""
        if caller == ANONYMOUS:
            raise Unauthenticated("a code signs a browser in as its caller: send 'Authorization: Bearer <API key>'")
        return self._host.codes.make(caller)

    async def sign_in(self, code: str) -> MadeKey:
        """The key that a code is worth. Unauthenticated: it was used, is too old, or never was one."""
        principal = self._host.codes.take(code)
        if principal is None:
            raise Unauthenticated(
                "the code was used already, is older than ten minutes, or was made before the server started: "
                "'canister console' makes a new one"
            )
        return await asyncio.to_thread(self._browser_key, principal)

    async def sign_out(self, key: str) -> None:
        """Revoke a browser's key. Forbidden for other keys, on which other programs may depend."""
        await asyncio.to_thread(self._sign_out, key)

    async def list_keys(self, caller: str) -> list[ApiKey]:
        self._check_controls(caller)
        return await asyncio.to_thread(self._host.keys.list)

    async def make_key(self, caller: str, name: str, principal: str | None, lifetime: str | None) -> MadeKey:
        """principal None: a new one. lifetime: such as 30d; None: for ever. BadRequest; Conflict: the name is taken."""
        self._check_controls(caller)
        if name.startswith(BROWSER):
            raise BadRequest(f"names that begin with {BROWSER!r} are those of browsers' keys; choose another")
        seconds = None if lifetime is None else parse_duration(lifetime)
        return await asyncio.to_thread(self._make, name, principal, seconds)

    async def revoke_key(self, caller: str, name: str) -> None:
        """NotFound names the nearest."""
        self._check_controls(caller)
        await asyncio.to_thread(self._host.keys.revoke, name)

    def _check_controls(self, caller: str) -> None:
        if not all(caller in canister.controllers for canister in self._host.canisters):
            raise Forbidden("API keys are for those who control every canister of this server")

    def _browser_key(self, principal: str) -> MadeKey:
        for old in self._host.keys.list():
            if old.name.startswith(BROWSER) and old.is_expired():
                self._revoke_if_there(old.name)
        return self._make(f"{BROWSER}{secrets.token_hex(6)}", principal, BROWSER_SECONDS)

    def _sign_out(self, key: str) -> None:
        found = self._host.keys.find(key)
        if found is None:
            return
        if not found.name.startswith(BROWSER):
            raise Forbidden(f"the key {found.name!r} is no browser's: revoke it with 'canister api-key revoke'")
        self._revoke_if_there(found.name)

    def _revoke_if_there(self, name: str) -> None:
        with suppress(NotFound):  # another browser was quicker
            self._host.keys.revoke(name)

    def _make(self, name: str, principal: str | None, seconds: int | None) -> MadeKey:
        key = self._host.keys.create(name, principal, seconds)
        made = self._host.keys.find(key)
        assert made is not None
        return MadeKey(name, key, made.principal, made.expires_ns)
