"""Objects in S3: what a server that goes away, comes back or refuses does to calls, and how a bucket is named."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import os
import signal
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from canister.errors import BadRequest
from canister.herd.objects.folder import FolderObjects
from canister.herd.objects.objects import ObjectsUnavailable, once, whole
from canister.herd.objects.opening import open_objects
from tests.herd.herds import QUESTIONS, chat, herd_in
from tests.herd.test_moving_chats import go_on, owner_of

if TYPE_CHECKING:
    from tests.herd.s3_server import S3Server

pytestmark = pytest.mark.anyio


async def test_a_server_that_is_killed_is_told_and_has_everything_when_it_is_back(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from canister.herd.objects import s3

    monkeypatch.setattr(s3, "_RETRIES", 1)
    objects = s3.S3Objects(s3_server.bucket(uuid.uuid4().hex))
    await objects.create("blob/a", once(b"before"))
    s3_server.stop()
    try:
        for ask in (
            lambda: objects.create("blob/b", once(b"x")),
            lambda: objects.size("blob/a"),
            lambda: whole(objects, "blob/a", 100),
            lambda: objects.remove("blob/a"),
        ):
            with pytest.raises(ObjectsUnavailable, match="cannot be reached"):
                await ask()
        with pytest.raises(ObjectsUnavailable, match="cannot be reached"):
            [found async for found in objects.list("blob")]
    finally:
        s3_server.start()
    assert await whole(objects, "blob/a", 100) == b"before"
    assert await objects.create("blob/b", once(b"after"))


async def test_wrong_keys_are_told(s3_server: S3Server) -> None:
    from canister.herd.objects.s3 import S3Objects

    objects = S3Objects(s3_server.bucket(secret="wrong"))
    with pytest.raises(ObjectsUnavailable, match="AWS_SECRET_ACCESS_KEY"):
        await objects.create("blob/a", once(b"x"))


async def test_a_bucket_of_others_is_told(s3_server: S3Server) -> None:
    from canister.herd.objects.s3 import S3Objects

    objects = S3Objects(dataclasses.replace(s3_server.bucket(), name="others"))
    with pytest.raises(ObjectsUnavailable, match="refuses the herd's keys"):
        await objects.create("blob/a", once(b"x"))


async def test_a_bucket_is_opened_by_its_name(s3_server: S3Server) -> None:
    from tests.herd.s3_server import ACCESS_KEY, SECRET_KEY

    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    prefix = uuid.uuid4().hex
    objects = await open_objects(f"s3://herd/{prefix}/x?endpoint={s3_server.endpoint}", keys)
    await objects.create("blob/a", once(b"x"))
    same = await open_objects(f"s3://herd/{prefix}/x", {**keys, "AWS_ENDPOINT_URL": s3_server.endpoint})
    assert [found.key async for found in same.list("blob")] == ["blob/a"]
    beside = await open_objects(f"s3://herd/{prefix}", {**keys, "AWS_ENDPOINT_URL": s3_server.endpoint})
    assert [found.key async for found in beside.list("x")] == ["x/blob/a"]


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("ftp://herd", "in a folder or in s3://BUCKET"),
        ("s3://", "bucket's name is missing"),
        ("s3://herd?endpiont=http://x", "unknown: endpiont"),
        ("s3://key:secret@herd", "AWS_ACCESS_KEY_ID"),
        ("s3://herd?endpoint=127.0.0.1:9000", "no http:// or https:// URL"),
    ],
)
async def test_a_name_that_makes_no_sense_is_told(place: str, told: str) -> None:
    with pytest.raises(BadRequest, match=told):
        await open_objects(place, {})


async def test_a_folder_is_opened_by_its_path(tmp_path: Path) -> None:
    objects = await open_objects(str(tmp_path / "a" / "b"))
    assert isinstance(objects, FolderObjects)
    await objects.create("blob/x", once(b"x"))
    assert (tmp_path / "a" / "b" / "blob" / "x").read_bytes() == b"x"


async def test_a_herd_goes_on_without_its_object_server(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chats move as tokens, small changes reach every worker, and what needs objects is refused until they are back."""
    from canister.herd.objects import s3
    from tests.herd.s3_server import ACCESS_KEY, SECRET_KEY

    monkeypatch.setattr(s3, "_RETRIES", 1)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    place = f"s3://herd/{uuid.uuid4().hex}?endpoint={s3_server.endpoint}"
    data = base64.b64encode(bytes(100_000)).decode()
    chunk = {"filename": "notes.txt", "chunk": data, "chunksize": 100_000, "offset": 0}
    async with herd_in(tmp_path, 2, herd={"objects": place}) as herd:
        await asyncio.gather(*(chat(herd.call, name, QUESTIONS[0], n=2) for name in ("lost", "stays")))
        s3_server.stop()
        try:
            expected = await go_on(herd, "stays")
            owner = await owner_of(herd, "lost")
            os.kill(owner.ref.pid, signal.SIGKILL)
            assert await go_on(herd, "lost") == expected
            await herd.call("set_max_tokens", {"max_tokens_update": 50, "max_tokens_query": 50})
            refused = await herd.post("file_upload_chunk", chunk)
            assert refused.status_code == 503, refused.text
            assert "cannot be reached" in refused.text
        finally:
            s3_server.start()
        assert (await herd.call("file_upload_chunk", chunk))["filesize"] == 100_000
        await herd.ready(2)
