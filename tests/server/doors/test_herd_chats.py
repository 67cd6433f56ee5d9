"""Chats put into a worker: whatever it had before, it has exactly what came, with all KV rows that can be kept."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from canister.client.local_server import LocalServer
from canister.store.container import CacheFile, CacheHeader, Segment
from canister.store.heads import head_of, n_same, tokens_alone
from tests.server.doors.herd_leader import Leader, WorkerClient, client_of, worker_server
from tests.server.doors.test_herd_process import MODEL, leader_of, ready, rows
from tests.store.test_container import state_of

N_VOCAB = 256


@dataclass(frozen=True)
class Chat:
    """A container's bytes, parsed."""

    data: bytes

    @property
    def file(self) -> CacheFile:
        return CacheFile.parse(self.data)


@dataclass(frozen=True)
class Worker:
    """A server as a process, and its leader. model: SHA-256 and KV layout."""

    runner: asyncio.Runner
    server: LocalServer
    client: WorkerClient
    leader: Leader
    model: tuple[bytes, bytes]

    def put(self, data: bytes) -> bytes:
        return self.runner.run(self.client.put("llama_cpp", self.leader.caller, self.leader.path("x"), data))

    def get(self, *, rows: bool) -> tuple[bytes, bytes] | None:
        return self.runner.run(self.client.get("llama_cpp", self.leader.caller, self.leader.path("x"), rows=rows))

    def file(self) -> list[tuple[object, ...]]:
        """The row of the chat's file."""
        return rows(self.server, "SELECT * FROM files WHERE path = ?", self.leader.path("x"))


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    folder = tmp_path_factory.mktemp("worker")

    async def model(client: WorkerClient) -> tuple[bytes, bytes]:
        (canister,) = (await client.state()).canisters
        assert canister.model is not None
        return canister.model.sha256, canister.model.kv_layout

    with worker_server(folder, "w1", *MODEL) as server, asyncio.Runner() as runner:
        runner.run(ready(server))
        client = client_of(server)
        yield Worker(runner, server, client, leader_of(server), runner.run(model(client)))
        runner.run(client.http.aclose())


RECORDS = st.lists(
    st.tuples(
        st.floats(0.5, 1),  # share of the tokens that stays
        st.lists(st.tuples(st.integers(0, N_VOCAB - 1), st.booleans(), st.booleans()), max_size=8),
        st.booleans(),  # with KV rows
    ),
    max_size=5,
)


def chat_of(header: CacheHeader, records: list[tuple[float, list[tuple[int, bool, bool]], bool]], salt: int) -> Chat:
    """A container of these records. Rows tell who wrote them."""
    cache, data = CacheFile.create(header, lambda offset, size: b"")
    parts = [data]
    for share, added, has_rows in records:
        keep = round(share * len(cache.tokens))
        tokens = np.array([token for token, _, _ in added], np.int32)
        generated = np.array([mark for _, mark, _ in added], np.bool_)
        marks = np.array([mark for _, _, mark in added], np.bool_)
        rows = bytes([salt]) * (10 * len(added)) if has_rows else b""
        cache, data = cache.extended(keep, tokens, generated, rows, marks, marks)
        parts.append(data)
    return Chat(b"".join(parts))


def rows_of(chat: CacheFile) -> list[Segment]:
    return [replace(segment, kv=bytes(segment.kv)) for segment in chat.segments(len(chat.tokens))]


@given(RECORDS, RECORDS, st.integers(0, 3), st.booleans(), st.booleans())
def test_what_is_put_is_there(
    worker: Worker,
    one: list[tuple[float, list[tuple[int, bool, bool]], bool]],
    two: list[tuple[float, list[tuple[int, bool, bool]], bool]],
    n_shared: int,
    same_seed: bool,
    with_rows: bool,
) -> None:
    """Two conversations that begin alike, one after the other: ahead, behind, beside, equal."""
    model_sha256, kv_layout = worker.model
    header = CacheHeader(model_sha256, 1, kv_layout)
    own = chat_of(header, one, 1)
    wanted = chat_of(header if same_seed else replace(header, seed=2), one[:n_shared] + two, 2)
    if not with_rows:
        wanted = Chat(tokens_alone(wanted.file))

    assert worker.put(b"") == b""
    assert worker.put(own.data) == head_of(own.file)
    assert worker.put(wanted.data) == head_of(wanted.file)

    told = worker.get(rows=False)
    assert told is not None
    assert told[1] == head_of(wanted.file)
    assert state_of(CacheFile.parse(told[0])) == state_of(wanted.file)

    kept = worker.get(rows=True)
    assert kept is not None
    here = CacheFile.parse(kept[0])
    assert (kept[1], state_of(here), here.is_whole) == (told[1], state_of(wanted.file), True)
    assert here.header == wanted.file.header
    # As many rows as either had, of their own tokens.
    n_here = here.n_with_rows(len(here.tokens))
    n_own = own.file.n_with_rows(n_same(own.file, wanted.file))
    assert n_here == max(n_own, wanted.file.n_with_rows(len(wanted.file.tokens)))
    sources = (own.file, wanted.file)
    for segment in rows_of(here):
        assert any(
            segment.first == known.first and segment.kv == known.kv and segment.n_live <= known.n_live
            for source in sources
            for known in rows_of(source)
        )


def test_the_same_again_writes_nothing(worker: Worker) -> None:
    model_sha256, kv_layout = worker.model
    chat = chat_of(CacheHeader(model_sha256, 1, kv_layout), [(1.0, [(5, False, False), (6, True, False)], True)], 1)
    worker.put(chat.data)
    before = worker.file()
    worker.put(tokens_alone(chat.file))
    assert worker.file() == before


def test_rows_of_another_layout_are_left_behind(worker: Worker) -> None:
    model_sha256, kv_layout = worker.model
    chat = chat_of(CacheHeader(model_sha256, 1, b"other"), [(1.0, [(5, False, False), (6, True, False)], True)], 1)
    worker.put(b"")
    assert worker.put(chat.data) == head_of(chat.file)
    kept = worker.get(rows=True)
    assert kept is not None
    here = CacheFile.parse(kept[0])
    assert (here.header.kv_layout, here.n_with_rows(2), state_of(here)) == (kv_layout, 0, state_of(chat.file))


def test_a_chat_of_another_model_is_kept_as_it_is(worker: Worker) -> None:
    """It may be loaded later; until then a run begins cold, as on a single server."""
    chat = chat_of(CacheHeader(bytes(32), 1, b"other"), [(1.0, [(5, False, False), (6, True, False)], True)], 1)
    assert worker.put(chat.data) == head_of(chat.file)
    kept = worker.get(rows=True)
    assert kept is not None
    assert CacheFile.parse(kept[0]).header == chat.file.header
    assert rows_of(CacheFile.parse(kept[0])) == rows_of(chat.file)
    path = worker.leader.path("x")
    assert rows(worker.server, "SELECT size FROM uploads WHERE path = ?", path) == [(len(kept[0]),)]
    assert not rows(worker.server, "SELECT 1 FROM files WHERE path = ?", f"{path}.icppfmt")


def test_damaged_rows_are_left_behind(worker: Worker) -> None:
    model_sha256, kv_layout = worker.model
    records = [(1.0, [(token, False, False)], True) for token in range(4)]
    chat = chat_of(CacheHeader(model_sha256, 1, kv_layout), records, 1)
    damaged = bytearray(chat.data)
    damaged[-1] ^= 1
    worker.put(b"")
    assert worker.put(bytes(damaged)) == head_of(chat.file)
    kept = worker.get(rows=True)
    assert kept is not None
    assert CacheFile.parse(kept[0]).n_with_rows(4) == 3
