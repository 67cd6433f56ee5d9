"""Uploads and downloads over a network that fails: nothing is lost, nothing is sent twice without need."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from canister.client.errors import NotConnected, Refused, Rejected, Unreachable
from canister.client.rest import Canister, Result
from canister.client.transfer import Retries, TransferError, TransferKind, download, upload
from tests.fake_canister import FakeCanister, Fault

pytestmark = pytest.mark.anyio

CONTENT = bytes(range(256)) * 4  # 1024 bytes
CHUNK_BYTES = 300
AT_ONCE = Retries(first_pause_seconds=0.0)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(CONTENT)
    return path


async def put(fake: FakeCanister, source: Path, kind: TransferKind = "file", retries: Retries = AT_ONCE) -> int:
    """Upload; gives how many bytes were there before."""
    async with fake.client() as client:
        done = await upload(client, source, "m", kind=kind, chunk_bytes=CHUNK_BYTES, retries=retries)
    assert (done.filesize, done.sha256) == (len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    return done.n_resumed_bytes


async def get(fake: FakeCanister, target: Path, kind: TransferKind = "file") -> int:
    async with fake.client() as client:
        done = await download(client, "m", target, kind=kind, chunk_bytes=CHUNK_BYTES, retries=AT_ONCE)
    return done.n_resumed_bytes


@pytest.mark.parametrize("kind", ["file", "promptcache"])
async def test_there_and_back(kind: TransferKind, source: Path, tmp_path: Path) -> None:
    fake = FakeCanister()
    assert await put(fake, source, kind) == 0
    assert await get(fake, tmp_path / "back" / "model.gguf", kind) == 0
    assert (tmp_path / "back" / "model.gguf").read_bytes() == CONTENT
    methods = {"file": {"file_upload_chunk", "file_download_chunk"}}.get(
        kind, {"upload_prompt_cache_chunk", "download_prompt_cache_chunk"}
    )
    assert {name for name, _ in fake.calls} == methods


@pytest.mark.parametrize("direction", ["upload", "download"])
async def test_nobody_waits_for_a_server_that_was_never_there(direction: str, source: Path, tmp_path: Path) -> None:
    pauses = list[float]()
    patient = Retries(on_retry=lambda _error, seconds: pauses.append(seconds))
    async with Canister("http://127.0.0.1:1", "llama_cpp") as client:
        if direction == "upload":
            moving = upload(client, source, "m", retries=patient)
        else:
            moving = download(client, "m", tmp_path / "back.gguf", retries=patient)
        with pytest.raises(NotConnected, match="Is a server running there\\? `canister serve` starts one"):
            await moving
    assert pauses == []


@pytest.mark.parametrize("fault", ["request lost", "reply lost", "busy", "stopping", "away"])
@pytest.mark.parametrize("number", range(4))
async def test_upload_survives_one_fault_at_any_chunk(fault: Fault, number: int, source: Path) -> None:
    fake = FakeCanister(faults={number: fault})
    await put(fake, source)
    assert fake.files["m"] == CONTENT
    assert fake.offsets("file_upload_chunk") == sorted([0, 300, 600, 900, 300 * number])


@pytest.mark.parametrize("fault", ["request lost", "reply lost", "busy", "stopping"])
async def test_download_survives_a_fault(fault: Fault, tmp_path: Path) -> None:
    fake = FakeCanister({"m": bytearray(CONTENT)}, faults={2: fault})
    await get(fake, tmp_path / "m")
    assert (tmp_path / "m").read_bytes() == CONTENT


async def test_a_server_that_stops_is_waited_for_through_the_ic_door(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeCanister()
    async with fake.client() as client:
        call, faults = client.call, [Rejected(5, "IC0509", "stopping", 200), Rejected(5, "IC0509", "stopping", 200)]

        async def stopping(name: str, arg: object = None, *, timeout_seconds: float | None = None) -> Result[Any]:
            if faults and "chunk" in name:
                raise faults.pop()
            return await call(name, arg, timeout_seconds=timeout_seconds)

        monkeypatch.setattr(client, "call", stopping)
        await upload(client, source, "m", chunk_bytes=CHUNK_BYTES, retries=AT_ONCE)
    assert fake.files["m"] == CONTENT


async def test_upload_gives_up_after_the_last_attempt(source: Path) -> None:
    fake = FakeCanister(faults=dict.fromkeys(range(1, 99), "request lost"))
    with pytest.raises(Unreachable, match="connection reset"):
        await put(fake, source, retries=Retries(n_attempts=3, first_pause_seconds=0.0))
    assert fake.offsets("file_upload_chunk") == [0, 300, 300, 300]


async def test_pauses_double_up_to_the_longest(source: Path) -> None:
    pauses: list[float] = []
    retries = Retries(4, 0.001, 0.002, on_retry=lambda _, pause: pauses.append(pause))
    fake = FakeCanister(faults=dict.fromkeys(range(99), "request lost"))
    with pytest.raises(Unreachable):
        await put(fake, source, retries=retries)
    assert pauses == [0.001, 0.002, 0.002]


async def test_a_refusal_is_not_retried(tmp_path: Path) -> None:
    fake = FakeCanister()
    with pytest.raises(Refused, match="m is missing"):
        await get(fake, tmp_path / "m")
    assert len(fake.calls) == 1
    assert list(tmp_path.iterdir()) == []


async def test_upload_goes_on_behind_what_the_canister_has(source: Path) -> None:
    fake = FakeCanister({"m": bytearray(CONTENT[:450])})
    assert await put(fake, source) == 450
    assert fake.offsets("file_upload_chunk") == [450, 750]


async def test_upload_of_what_is_there_sends_nothing(source: Path) -> None:
    fake = FakeCanister({"m": bytearray(CONTENT)})
    assert await put(fake, source) == len(CONTENT)
    assert fake.calls == []


@pytest.mark.parametrize("other", [b"another file", CONTENT + b"and more", b""])
async def test_upload_begins_anew_over_another_file(other: bytes, source: Path) -> None:
    fake = FakeCanister({"m": bytearray(other)})
    assert await put(fake, source) == 0
    assert fake.files["m"] == CONTENT


async def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    fake = FakeCanister()
    async with fake.client() as client:
        assert (await upload(client, tmp_path / "empty", "m")).filesize == 0
        assert (await download(client, "m", tmp_path / "back")).filesize == 0
    assert (tmp_path / "back").read_bytes() == b""


async def test_wrong_expected_hash_sends_nothing(source: Path) -> None:
    fake = FakeCanister()
    async with fake.client() as client:
        with pytest.raises(TransferError, match="nothing was uploaded"):
            await upload(client, source, "m", expected_sha256="0" * 64)
        assert fake.files == {}
        await upload(client, source, "m", expected_sha256=hashlib.sha256(CONTENT).hexdigest().upper())


async def test_local_file_that_changes_meanwhile_is_told(source: Path) -> None:
    fake = FakeCanister()

    def change(done_bytes: int, _: int) -> None:
        if done_bytes == CHUNK_BYTES:
            source.write_bytes(bytes(len(CONTENT)))

    async with fake.client() as client:
        with pytest.raises(TransferError, match="changed meanwhile"):
            await upload(client, source, "m", chunk_bytes=CHUNK_BYTES, progress=change)


async def test_download_goes_on_from_the_partial_file(tmp_path: Path) -> None:
    fake = FakeCanister({"m": bytearray(CONTENT)})
    (tmp_path / "m.part").write_bytes(CONTENT[:450])
    assert await get(fake, tmp_path / "m") == 450
    assert fake.offsets("file_download_chunk") == [450, 750]
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("stale", [b"x" * 450, b"x" * 1024, b"x" * 5000])
async def test_partial_file_of_another_file_is_dropped(stale: bytes, tmp_path: Path) -> None:
    fake = FakeCanister({"m": bytearray(CONTENT)})
    (tmp_path / "m.part").write_bytes(stale)
    await get(fake, tmp_path / "m")
    assert (tmp_path / "m").read_bytes() == CONTENT


async def test_file_that_changes_its_size_during_a_download_is_told(tmp_path: Path) -> None:
    fake = FakeCanister({"m": bytearray(CONTENT)})

    def change(done_bytes: int, _: int) -> None:
        fake.files["m"] += b"more"

    async with fake.client() as client:
        with pytest.raises(TransferError, match="changed its size"):
            await download(client, "m", tmp_path / "m", chunk_bytes=CHUNK_BYTES, progress=change)
    assert not (tmp_path / "m").exists()


async def test_file_whose_bytes_change_during_a_download_is_told(tmp_path: Path) -> None:
    fake = FakeCanister({"m": bytearray(CONTENT)})

    def change(done_bytes: int, _: int) -> None:
        fake.files["m"][-1] ^= 1

    async with fake.client() as client:
        with pytest.raises(TransferError, match="changed while it was downloaded"):
            await download(client, "m", tmp_path / "m", chunk_bytes=CHUNK_BYTES, progress=change)
    assert list(tmp_path.iterdir()) == []
