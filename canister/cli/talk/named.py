"""The named chats that a server keeps for a caller."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence

from canister.api.rest_records import Chat, ChatEntry, ChatList
from canister.client.answer import Message
from canister.client.rest import Canister

PAGE_CHATS = 1000
MAX_NAME_WORDS = 6
MAX_NAME_CHARACTERS = 40


class NamedChats:
    """Every method raises ClientError."""

    def __init__(self, canister: Canister) -> None:
        self._canister = canister

    async def list(self) -> Sequence[ChatEntry]:
        """All chats, the one written last first."""
        return [chat async for chats in self.pages() for chat in chats]

    async def pages(self) -> AsyncIterator[Sequence[ChatEntry]]:
        """The same, as they come. A chat that is written meanwhile may be missing."""
        asked: dict[str, str | int] = {"limit": PAGE_CHATS}
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
        taken = {chat.name for chat in await self.list()}
        name = name_of(question)
        candidates = (name if n == 1 else f"{name}-{n}" for n in range(1, len(taken) + 2))
        return next(candidate for candidate in candidates if candidate not in taken)


def cache_of(name: str) -> str:
    """The prompt cache of the chat of this name."""
    return f"chat-{name}"


def name_of(question: str) -> str:
    words = re.findall(r"[^\W_]+", question.lower())[:MAX_NAME_WORDS]
    name = "-".join(words)[:MAX_NAME_CHARACTERS].strip("-")
    return name or "chat"
