"""Help after an error whose text the interface fixes: who was refused and why, and what to call first."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from canister.api.record_types import Record
    from canister.client.methods import MethodCalls

ACCESS_DENIED = "Access Denied"
_CHATS_ARE_OFF = "DB_CHATS_ACTIVE is false"


@asynccontextmanager
async def told_who(client: MethodCalls, canister: str) -> AsyncIterator[None]:
    """Add to a refusal inside who was refused, and the ways out. Raises ClientError."""
    from canister.client.errors import ClientError, Refused

    try:
        yield
    except Refused as error:
        if not is_denial(error.record):
            raise
        raise ClientError(f"{ACCESS_DENIED}. {await who_was_denied(client, canister)}") from error


def is_denial(record: Record) -> bool:
    return ACCESS_DENIED in (getattr(record, "error", None), getattr(record, "Other", None))


async def who_was_denied(client: MethodCalls, canister: str) -> str:
    """As whom this client calls, and how to choose another caller or let this one in."""
    from canister.client.errors import ClientError
    from canister.ic.principal import ANONYMOUS

    try:
        caller = (await client.whoami()).value
    except ClientError:
        caller = "somebody unknown"
    if caller == ANONYMOUS:
        return (
            f"The call was made as {caller}, the anonymous caller. Give --identity NAME, --api-key KEY, or --data-dir "
            "DIR of a server on this machine."
        )
    return (
        f"The call was made as {caller}. Call as another with --identity NAME, --api-key KEY, or --data-dir DIR of a "
        f"server on this machine; or let a controller give it a role (assignAdminRole), or open the chat methods to "
        f"everybody with a name: canister call {canister} set_access '{{\"level\": 1}}'"
    )


async def hint(client: MethodCalls, canister: str, record: Record) -> str | None:
    """Advice after this error; empty if there is none."""
    if is_denial(record):
        return await who_was_denied(client, canister)
    if _CHATS_ARE_OFF in (getattr(record, "Other", None) or ""):
        return f"Chats are not saved until that is turned on: canister call {canister} chats_resume"
    return None
