"""KV rows of chats as objects: what comes back is the chat of the head, with its rows, or nothing."""

from __future__ import annotations

import numpy as np
import pytest

from canister.herd.objects import rows
from canister.herd.objects.objects import Objects, ObjectsUnavailable, chat_key, once
from canister.store.container import CacheFile, CacheHeader
from canister.store.heads import head_of

pytestmark = pytest.mark.anyio

OWNER = b"llama_cpp\n2vxsx-fae"


def chat(n_tokens: int = 20, rows_each: int = 64, n_records: int = 4) -> tuple[bytes, bytes]:
    """A container and its head."""
    cache, data = CacheFile.create(CacheHeader(bytes(32), 7, b"layout"), lambda _, __: b"")
    each = n_tokens // n_records
    for n in range(n_records):
        tokens = np.arange(n * each, (n + 1) * each)
        cache, record = cache.extended(len(cache.tokens), tokens, tokens % 2 == 0, bytes([n]) * (rows_each * each))
        data += record
    return data, head_of(cache)


async def test_rows_come_back(objects: Objects) -> None:
    container, head = chat()
    assert await rows.get(objects, OWNER, head) is None
    assert await rows.put(objects, OWNER, head, container) == 20
    assert await rows.get(objects, OWNER, head) == container
    assert await rows.get(objects, b"llama_cpp\nsomebody else", head) is None
    await rows.forget(objects, OWNER, head)
    assert await rows.get(objects, OWNER, head) is None


async def test_a_chat_that_has_gone_on_is_not_put_under_its_old_head(objects: Objects) -> None:
    _, old = chat(n_tokens=16)
    container, _ = chat(n_tokens=20)
    assert await rows.put(objects, OWNER, old, container) == 0
    assert await objects.size(chat_key(OWNER, old)) is None


async def test_tokens_without_rows_are_not_put(objects: Objects) -> None:
    container, head = chat(rows_each=0)
    assert await rows.put(objects, OWNER, head, container) == 0
    assert await objects.size(chat_key(OWNER, head)) is None


@pytest.mark.parametrize("at", [0, 60, 100, -1])
async def test_what_is_damaged_is_not_used_and_makes_room(objects: Objects, at: int) -> None:
    """A bit in the header, the tokens, the rows, the last checksum. Damaged rows cost those behind them alone."""
    container, head = chat()
    damaged = bytearray(container)
    damaged[at] ^= 1
    await objects.create(chat_key(OWNER, head), once(bytes(damaged)))
    found = await rows.get(objects, OWNER, head)
    if found is None:
        assert await objects.size(chat_key(OWNER, head)) is None
        assert await rows.put(objects, OWNER, head, container) == 20
    else:
        cache = CacheFile.parse(found)
        assert head_of(cache) == head
        assert 0 < sum(segment.n_live for segment in cache.segments(20)) < 20


async def test_a_container_that_is_cut_off_is_not_used(objects: Objects) -> None:
    container, head = chat()
    await objects.create(chat_key(OWNER, head), once(container[:-100]))
    assert await rows.get(objects, OWNER, head) is None


async def test_a_place_that_does_not_answer_has_nothing(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    _, head = chat()

    async def away(*_: object) -> None:
        raise ObjectsUnavailable("the place is away")
        yield

    monkeypatch.setattr(objects, "read", away)
    assert await rows.get(objects, OWNER, head) is None
