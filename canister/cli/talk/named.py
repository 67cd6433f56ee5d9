"""The named chats that a server keeps for a caller."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from http import HTTPStatus

from canister.api.rest_records import Chat, ChatEntry, ChatList
from canister.client.answer import Message
from canister.client.errors import Refused
from canister.client.rest import Canister

PAGE_CHATS = 1000
MAX_NAME_WORDS = 6
MAX_NUMBERED = 9  # chats of one name, before a name is drawn
MAX_NAME_CHARACTERS = 40


class NamedChats:
    """Every method raises ClientError."""

    def __init__(self, canister: Canister) -> None:
        self._canister = canister

    async def last(self) -> str | None:
        """The name of the chat that was written last; None where there is none."""
        async for chats in self.pages(1):
            return next((chat.name for chat in chats), None)
        return None

    async def pages(self, n_each: int = PAGE_CHATS) -> AsyncIterator[Sequence[ChatEntry]]:
        """All chats, the one written last first, as they come. A chat that is written meanwhile may be missing."""
        asked: dict[str, str | int] = {"limit": n_each}
        while True:
            page = ChatList.model_validate(await self._canister.document("GET", "chats", params=asked))
            yield page.chats
            if page.next is None:
                return
            asked["after"] = page.next

    async def get(self, name: str) -> Chat:
        return Chat.model_validate(await self._canister.document("GET", f"chats/{name}"))

    async def put(self, name: str, messages: Sequence[Message], settings: Mapping[str, object]) -> None:
        body = {"messages": [*map(dict, messages)], "settings": dict(settings)}
        await self._canister.document("PUT", f"chats/{name}", body)

    async def remove(self, name: str) -> None:
        await self._canister.document("DELETE", f"chats/{name}")

    async def new_name(self, question: str) -> str:
        """A free name, from the first words of a question."""
        name = name_of(question)
        for candidate in (name, *(f"{name}-{n}" for n in range(2, MAX_NUMBERED + 1))):
            try:
                await self.get(candidate)
            except Refused as refused:
                if refused.http_status != HTTPStatus.NOT_FOUND:
                    raise
                return candidate
        return f"{name}-{secrets.token_hex(4)}"


def cache_of(name: str) -> str:
    """The prompt cache of the chat of this name."""
    return f"chat-{name}"


def name_of(question: str) -> str:
    words = re.findall(r"[^\W_]+", question.lower())[:MAX_NAME_WORDS]
    name = "-".join(words)[:MAX_NAME_CHARACTERS].strip("-")
    return name or "chat"
