"""API keys over REST: browsers that sign in by a code or a signed message, and keys that controllers make and revoke.

A browser's key lives eight hours. Its name begins with `console-`, so that lists show what it is, and old ones go when
the next is made.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from canister.errors import BadRequest, CanisterBusy, Forbidden, NotFound, Unauthenticated
from canister.handlers import pages
from canister.ic.principal import ANONYMOUS
from canister.runtime.sign_in import LIFETIME_SECONDS
from canister.state.api_keys import parse_duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from canister.runtime.host import Host
    from canister.state.api_keys import ApiKey

BROWSER = "console-"
BROWSER_SECONDS = 8 * 3600
CODE_SECONDS = LIFETIME_SECONDS
MAX_BROWSERS = 1000  # keys of browsers at once, since anybody may sign a message
MAX_BROWSERS_OF_CALLER = 20  # the oldest goes when the next is made


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

    async def sign_in_signed(self, principal: str, message: bytes, until_ns: int | None) -> MadeKey:
        """The key for who has signed a message. message: its id, which counts once. until_ns: the key ends by then.

        Unauthenticated: it came before. CanisterBusy: too many browsers are signed in.
        """
        if principal == ANONYMOUS:
            raise Unauthenticated("the anonymous caller cannot sign in: sign the message by a key")
        if not self._host.codes.is_new(message):
            raise Unauthenticated("this signed message has signed a browser in before: sign one with a new nonce")
        seconds = BROWSER_SECONDS
        if until_ns is not None:
            seconds = min(seconds, (until_ns - time.time_ns()) // 10**9)
        if seconds < 1:
            raise Unauthenticated("the delegation ends at once: make one that lasts longer")
        return await asyncio.to_thread(self._browser_key, principal, seconds)

    async def sign_out(self, key: str) -> None:
        """Revoke a browser's key. Forbidden for other keys, on which other programs may depend."""
        await asyncio.to_thread(self._sign_out, key)

    async def list_keys(
        self, caller: str, limit: str | None = None, after: str | None = None
    ) -> tuple[Sequence[ApiKey], dict[str, Any]]:
        """A page of keys, and its field `next`, as other lists have them. BadRequest for values that do not fit."""
        self._check_controls(caller)
        asked = pages.Asked.of(limit, after, 2)
        behind = None if asked.after is None else (asked.after[0], f"{asked.after[1]:08x}")
        found = await asyncio.to_thread(self._host.keys.list, behind, asked.n_needed)
        return asked.told(found, lambda key: (key.created_ns, int(key.key_id, 16)))

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

    def _browser_key(self, principal: str, seconds: int = BROWSER_SECONDS) -> MadeKey:
        browsers = self._host.keys.named(BROWSER)
        ended = [key for key in browsers if key.is_expired()]
        own = [key for key in browsers if key not in ended and key.principal == principal]
        for old in [*ended, *own[: max(0, len(own) - MAX_BROWSERS_OF_CALLER + 1)]]:
            self._revoke_if_there(old.name)
        is_known = bool(own) or any(principal in canister.controllers for canister in self._host.canisters)
        if len(browsers) - len(ended) >= MAX_BROWSERS and not is_known:
            raise CanisterBusy(f"{MAX_BROWSERS} browsers are signed in, the most at once; try again later")
        return self._make(f"{BROWSER}{secrets.token_hex(6)}", principal, seconds)

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
