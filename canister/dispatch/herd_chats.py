"""The chats of a canister, as the private door of a herd sees them: fetched, put, and what a call does to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from canister.api.herd_wire import ChatChange, Done
from canister.api.records import ApiError
from canister.dispatch.execute import Terms, run
from canister.errors import NotBegun
from canister.handlers import herd_chats
from canister.runtime.call import Call
from canister.store.cache_paths import sessions_folder
from canister.store.heads import NO_CHAT, head_of, n_same, tokens_alone

if TYPE_CHECKING:
    from canister.dispatch.execute import Reply
    from canister.runtime.canister import Canister
    from canister.state.chat_heads import ChatCopy
    from canister.state.unit_of_work import SavedChatChange


@dataclass(frozen=True, slots=True)
class Effect:
    """What a call did to a chat: the heads before and after it. after None: nobody knows, as of an upload."""

    path: str
    before: bytes
    after: bytes | None


async def still_counts(canister: Canister, effects: Iterable[Effect], given: Mapping[str, bytes]) -> bool:
    """Is what a job once did to chats what the journal would have it do now, and is it still there?

    given: the journal's heads. The job may have been lost for the journal, and another have gone on with the chat.
    """
    for effect in effects:
        copy = await canister.herd.heads.of(effect.path)
        if effect.after is not None and copy.head != effect.after:
            return False
        if given.get(effect.path, effect.before) not in (effect.before, copy.head):
            return False
    return True


class ChatWatch:
    """Watches one call: are its chats those of the journal, and what does it do to them?

    expected: heads by path. A chat that the call locks, and that has another head here, ends it with NotBegun before it
    has done anything.
    """

    def __init__(self, canister: Canister, expected: Mapping[str, bytes]) -> None:
        self._canister = canister
        self._expected = expected
        self.call: Call | None = None
        self.done: Done | None = None  # the end of the call, as it was recorded last
        self._before: dict[str, ChatCopy] = {}
        self._after: dict[str, ChatCopy | None] = {}  # None: its file has to be read

    def see(self, call: Call) -> None:
        """This is the call."""
        self.call = call
        call.on_locked = self._compare

    async def compare(self) -> None:
        """Compare all expected chats, for a call that locks none of them."""
        await self._compare(self._expected)

    async def _compare(self, names: Iterable[str]) -> None:
        for path in names:
            if sessions_folder(path) is None:
                continue
            copy = self._before[path] = await self._canister.herd.heads.of(path)
            if self._expected.get(path, copy.head) != copy.head:
                raise NotBegun("head", f"the copy of {path} here is not the chat's present state", path, copy.head)

    @property
    def saved(self) -> SavedChatChange | None:
        """What the call does to its caller's saved chats."""
        return None if self.call is None else self.call.work.saved_chat

    def ends(self) -> None:
        """The handler has ended: look at the chats when the call is committed, before anybody else gets at them."""
        if self.call is not None:
            self.call.on_commit(self._committed)

    def effects(self) -> tuple[Effect, ...]:
        """What the call will have done to chats once it is committed."""
        if self.call is None or not self.call.work.has_transaction:
            return ()
        tx, containers = self.call.work.tx, self.call.work.containers
        found = []
        for path in filter(sessions_folder, tx.changed_paths):
            before = self._before.get(path)
            container = containers.get(path)
            after = NO_CHAT if tx.removes(path) else None if container is None else head_of(container)
            found.append(Effect(path, NO_CHAT if before is None else before.head, after))
        return tuple(found)

    def _committed(self) -> None:
        assert self.call is not None
        if self.call.work.has_transaction:
            for path in self.call.work.tx.changed_paths:
                if sessions_folder(path) is not None:
                    self._after[path] = self._canister.herd.heads.at_hand(path)

    async def changes(self) -> tuple[ChatChange, ...]:
        """What the call has done to chats; nothing if it was not committed."""
        found = []
        for path, copy in self._after.items():
            now = copy or await self._canister.herd.heads.of(path)
            before = self._before.get(path)
            head_before = NO_CHAT if before is None else before.head
            if now.head != head_before:
                same = None if before is None else before.container
                keep = 0 if same is None or now.container is None else n_same(same, now.container)
                found.append(_change(path, head_before, now, keep))
        return tuple(found)


async def chats_now(canister: Canister, before: Mapping[str, bytes]) -> tuple[ChatChange, ...]:
    """The chats that are another now than `before`, each as a whole."""
    copies = {path: await canister.herd.heads.of(path) for path in before}
    return tuple(_change(path, before[path], copy, 0) for path, copy in copies.items() if copy.head != before[path])


def _change(path: str, head_before: bytes, now: ChatCopy, keep: int) -> ChatChange:
    container = b"" if now.container is None else tokens_alone(now.container, keep)
    return ChatChange(path, head_before, now.head, keep, container)


async def put_chat(
    canister: Canister, caller: str, path: str, container: bytes, head: bytes | None
) -> tuple[Reply, bytes]:
    """Let a chat be exactly what this container holds; no bytes: remove it. With the head that it has then."""

    async def handle(call: Call) -> None:
        await herd_chats.put_chat(call, path, container, head)

    reply = await run(canister, "herd_put", caller, handle, Terms(is_update=True, err=ApiError, is_limited=False))
    copy = None if reply.error is not None else await canister.herd.heads.of(canister.clean(path))
    return reply, NO_CHAT if copy is None else copy.head


async def get_chat(canister: Canister, caller: str, path: str, *, rows: bool) -> tuple[Reply, bytes]:
    """The container of a chat as the value of the reply, and its head."""
    head = NO_CHAT

    async def handle(call: Call) -> bytes:
        nonlocal head
        container, head = await herd_chats.get_chat(call, path, rows=rows)
        return container

    reply = await run(canister, "herd_get", caller, handle, Terms(is_update=False, err=ApiError, is_limited=False))
    return reply, head
