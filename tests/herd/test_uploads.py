"""When a chat's rows go to the object store: at rest, grown, or because its worker leaves."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from canister.api.herd_wire import ChatChange
from canister.herd import uploads as uploading
from canister.herd.journal import Journal
from canister.herd.known_chats import KnownChats
from canister.herd.objects.opening import open_objects
from canister.herd.row_store import RowStore
from canister.herd.uploads import GROWN_TOKENS, IDLE_SECONDS, RETRY_SECONDS, Uploads
from canister.herd.ways import Speeds
from tests.traces import until

CHAT, WORKER = ("llama_cpp", "alice", "prompt.cache"), "w1"


def test_a_chat_at_rest_is_due_once() -> None:
    uploads: Uploads[object] = Uploads()
    uploads.changed(CHAT, WORKER, 10, 0, now=100.0)
    assert uploads.due(100.0 + IDLE_SECONDS / 2, 10) == []
    assert uploads.due(100.0 + IDLE_SECONDS, 10) == [(CHAT, WORKER)]
    assert uploads.due(200.0, 10) == []  # it is under way
    uploads.sent(CHAT, 200.0)
    assert uploads.due(300.0, 10) == []
    assert uploads.stored(CHAT) == 10


def test_a_chat_that_is_talked_with_is_not_due_until_it_has_grown() -> None:
    uploads: Uploads[object] = Uploads()
    now, n_tokens = 0.0, 0
    while n_tokens + 10 < GROWN_TOKENS:
        n_tokens += 10
        uploads.changed(CHAT, WORKER, n_tokens, n_tokens - 10, now)
        assert uploads.due(now, 10) == []
        now += IDLE_SECONDS / 2
    uploads.changed(CHAT, WORKER, GROWN_TOKENS, n_tokens, now)
    assert uploads.due(now, 10) == [(CHAT, WORKER)]


def test_a_long_chat_is_not_sent_again_for_every_few_hundred_tokens() -> None:
    uploads: Uploads[object] = Uploads()
    sent, n_tokens, now = 0, 0, 0.0
    while n_tokens < 100_000:
        n_tokens += 50
        now += 0.1
        uploads.changed(CHAT, WORKER, n_tokens, n_tokens - 50, now)
        for chat, _ in uploads.due(now, 10):
            sent += n_tokens
            uploads.sent(chat, now)
    assert sent < 6 * n_tokens


def test_a_worker_that_leaves_gives_all_away() -> None:
    uploads: Uploads[object] = Uploads()
    for n in range(5):
        uploads.changed(n, "w1" if n < 3 else "w2", 10, 0, now=0.0)
    uploads.drain("w1", now=0.5)
    assert sorted(str(chat) for chat, _ in uploads.due(0.5, 10)) == ["0", "1", "2"]
    assert uploads.pending("w1") == 3
    for n in range(3):
        uploads.sent(n, 1.0)
    assert uploads.pending("w1") == 0
    uploads.changed(0, "w1", 20, 10, now=1.0)  # a job that still ran there
    assert uploads.due(1.0, 10) == [(0, "w1")]


def test_what_failed_is_tried_again_later() -> None:
    uploads: Uploads[object] = Uploads()
    uploads.changed(CHAT, WORKER, 10, 0, now=0.0)
    assert uploads.due(10.0, 10) != []
    uploads.failed(CHAT, 10.0)
    assert uploads.due(10.0 + RETRY_SECONDS / 2, 10) == []
    assert uploads.due(10.0 + RETRY_SECONDS, 10) == [(CHAT, WORKER)]


def test_what_is_sent_of_a_chat_that_was_rolled_back_meanwhile_counts_as_far_as_it_is_still_true() -> None:
    uploads: Uploads[object] = Uploads()
    uploads.changed(CHAT, WORKER, 100, 0, now=0.0)
    assert uploads.due(10.0, 10) != []
    uploads.changed(CHAT, WORKER, 120, 30, now=11.0)
    uploads.sent(CHAT, 12.0)
    assert uploads.stored(CHAT) == 30
    assert uploads.due(12.0, 10) == []
    assert uploads.due(11.0 + IDLE_SECONDS, 10) == [(CHAT, WORKER)]


def test_chats_that_have_not_changed_for_longest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploading, "REMEMBERED", 3)
    uploads: Uploads[object] = Uploads()
    for n in range(3):
        uploads.changed(n, WORKER, 10, 0, now=float(n))
    uploads.changed(0, WORKER, 20, 10, now=3.0)
    uploads.changed(3, WORKER, 10, 0, now=4.0)
    assert len(uploads) == 3
    assert sorted(str(chat) for chat, _ in uploads.due(100.0, 10)) == ["0", "2", "3"]
    for n in (0, 1, 2, 3):  # of one that is forgotten it changes nothing
        uploads.sent(n, 101.0)
    assert [uploads.stored(n) for n in range(4)] == [20, 0, 10, 10]


@pytest.mark.anyio
async def test_rows_of_a_worker_that_has_left_for_good_are_waited_for_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploading, "IDLE_SECONDS", 0.0)
    journal = await Journal.open(f"sqlite:///{tmp_path}/herd.db")
    objects = await open_objects(str(tmp_path / "objects"))
    chats = KnownChats(journal)
    store = RowStore(objects, journal, chats, lambda id: None, Speeds())
    chats.told = store.changed
    chats.changed(CHAT, ChatChange(CHAT[2], b"", b"h" * 16, 0, bytes(50)), WORKER)
    assert store.pending(WORKER) == 1
    running = asyncio.create_task(store.run())
    await until(lambda: store.pending(WORKER) == 0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await objects.close()
    await journal.close()


WORKERS = st.sampled_from(["w1", "w2"])


class AnyUploads(RuleBasedStateMachine):
    """Whatever happens: nothing is lost sight of, nothing is sent twice at a time, and nothing stored is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.uploads: Uploads[object] = Uploads()
        self.now = 0.0
        self.tokens: dict[int, int] = {}
        self.on_the_way: set[object] = set()

    @rule(
        chat=st.integers(0, 3),
        grown=st.integers(1, 400),
        back=st.integers(0, 500),
        worker=st.sampled_from(["w1", "w2"]),
    )
    def changed(self, chat: int, grown: int, back: int, worker: str) -> None:
        n_same = max(self.tokens.get(chat, 0) - back, 0)
        self.tokens[chat] = n_same + grown
        self.uploads.changed(chat, worker, n_same + grown, n_same, self.now)

    @rule(seconds=st.floats(0, 40))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(at_most=st.integers(1, 3))
    def due(self, at_most: int) -> None:
        found = self.uploads.due(self.now, at_most)
        assert len(found) <= at_most
        for chat, _ in found:
            assert chat not in self.on_the_way
            self.on_the_way.add(chat)

    @rule(is_sent=st.booleans())
    def end(self, is_sent: bool) -> None:
        for chat in list(self.on_the_way):
            (self.uploads.sent if is_sent else self.uploads.failed)(chat, self.now)
        self.on_the_way.clear()

    @rule(worker=WORKERS, is_leaving=st.booleans())
    def drain(self, worker: str, is_leaving: bool) -> None:
        if is_leaving:
            self.uploads.drain(worker, self.now)
        else:
            self.uploads.gone(worker)

    @rule()
    def all_is_stored_in_the_end(self) -> None:
        self.end(is_sent=True)
        self.now += RETRY_SECONDS + IDLE_SECONDS
        self.due(100)
        self.end(is_sent=True)
        assert {chat: self.uploads.stored(chat) for chat in self.tokens} == self.tokens

    @invariant()
    def no_more_is_stored_than_there_is(self) -> None:
        assert all(self.uploads.stored(chat) <= n_tokens for chat, n_tokens in self.tokens.items())


TestAnyUploads = AnyUploads.TestCase
