"""What a place for objects promises, on a folder and on a real S3 server alike."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from canister.errors import BadRequest, NotFound
from canister.herd.objects.objects import Objects, check_key, once, whole

pytestmark = pytest.mark.anyio

LARGE = 20 << 20  # several parts of S3
MANY = 20


async def in_pieces(data: bytes, n_bytes: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), n_bytes):
        yield data[start : start + n_bytes]
        await asyncio.sleep(0)


async def broken(data: bytes) -> AsyncIterator[bytes]:
    yield data
    raise ValueError("the client went away")


async def keys(objects: Objects, prefix: str) -> list[str]:
    return sorted([found.key async for found in objects.list(prefix)])


@pytest.mark.parametrize("data", [b"", b"x", b"y" * 70_000])
async def test_what_was_created_is_read(objects: Objects, data: bytes) -> None:
    assert await objects.create("blob/a", in_pieces(data, 1000))
    assert await whole(objects, "blob/a", 1 << 20) == data
    assert await objects.size("blob/a") == len(data)


async def test_a_large_object_comes_back_whole_and_from_its_middle(objects: Objects) -> None:
    data = os.urandom(LARGE)
    assert await objects.create("blob/large", in_pieces(data, 1_000_003))
    assert await objects.size("blob/large") == LARGE
    assert await whole(objects, "blob/large", LARGE) == data
    start = LARGE // 3
    assert b"".join([block async for block in objects.read("blob/large", start)]) == data[start:]
    assert [block async for block in objects.read("blob/large", LARGE)] == []
    assert not await objects.create("blob/large", once(b"another"))
    assert await objects.size("blob/large") == LARGE


async def test_a_key_is_created_once(objects: Objects) -> None:
    assert await objects.create("blob/a", once(b"first"))
    assert not await objects.create("blob/a", once(b"second"))
    assert await whole(objects, "blob/a", 100) == b"first"


async def test_of_many_creators_at_once_one_wins(objects: Objects) -> None:
    won = await asyncio.gather(*(objects.create("blob/raced", once(b"%d" % i)) for i in range(MANY)))
    assert sum(won) == 1
    assert await whole(objects, "blob/raced", 100) == b"%d" % won.index(True)


@pytest.mark.parametrize("n_bytes", [1000, LARGE])
async def test_a_body_that_breaks_off_leaves_nothing(objects: Objects, n_bytes: int) -> None:
    with pytest.raises(ValueError, match="went away"):
        await objects.create("blob/a", broken(bytes(n_bytes)))
    assert await objects.size("blob/a") is None
    assert await keys(objects, "blob") == []
    assert await objects.create("blob/a", once(b"whole"))


async def test_what_is_not_there(objects: Objects) -> None:
    with pytest.raises(NotFound, match="blob/none"):
        await whole(objects, "blob/none", 100)
    assert await objects.size("blob/none") is None
    await objects.remove("blob/none")
    assert await keys(objects, "blob") == []


async def test_what_was_removed_can_be_created_anew(objects: Objects) -> None:
    await objects.create("chat/a/1", once(b"old"))
    await objects.remove("chat/a/1")
    assert await objects.size("chat/a/1") is None
    assert await objects.create("chat/a/1", once(b"new"))
    assert await whole(objects, "chat/a/1", 100) == b"new"


async def test_a_list_has_what_is_below_whole_segments(objects: Objects) -> None:
    for key in ("chat/a/1", "chat/a/2", "chat/ab/3", "chats/a/4"):
        await objects.create(key, once(key.encode()))
    assert await keys(objects, "chat/a") == await keys(objects, "chat/a/") == ["chat/a/1", "chat/a/2"]
    assert await keys(objects, "chat") == ["chat/a/1", "chat/a/2", "chat/ab/3"]
    (found,) = [found async for found in objects.list("chats")]
    assert (found.key, found.n_bytes) == ("chats/a/4", len("chats/a/4"))
    assert found.changed_seconds > 1.6e9


@pytest.mark.parametrize(
    "key", ["", "/a", "a/", "a//b", "../a", "a/../b", ".part-a", "a/.b", "a b", "ä", "a\n", "a" * 600]
)
async def test_a_key_that_is_none_is_refused(objects: Objects, key: str) -> None:
    with pytest.raises(BadRequest, match="no key of an object"):
        await objects.create(key, once(b"x"))
    with pytest.raises(BadRequest, match="no key of an object"):
        await objects.size(key)
    with pytest.raises(BadRequest, match="no key of an object"):
        [block async for block in objects.read(key)]


def test_keys_of_the_herd_are_keys() -> None:
    from canister.herd.objects.objects import blob_key, chat_key, prefix_key

    chat = chat_key(b"llama_cpp\n2vxsx-fae", bytes(16))
    for key in (blob_key("0" * 64), chat, prefix_key("canister", bytes(32), b"layout", bytes(16))):
        assert check_key(key) == key
    with pytest.raises(BadRequest, match="no SHA-256"):
        blob_key("../" + "0" * 61)
