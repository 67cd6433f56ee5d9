"""Backup and restore: a copy of one moment while calls go on, and nothing but a whole backup is restored."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import io
import json
import os
import sqlite3
import stat
import tarfile
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from canister.errors import BadRequest, CanisterError, Conflict, NotFound, StoreDamaged
from canister.ops import backup
from canister.ops.backup import MANIFEST, back_up, restore
from canister.store.volume import Volume
from tests.crash.rig import Rig, read, reopened, running
from tests.crash.scenarios import furnish
from tests.harness import needs_story_model
from tests.traces import until

pytestmark = pytest.mark.anyio

LARGE = 200_000  # more than redo rows take


async def write(rig: Rig, path: str, data: bytes, offset: int = 0) -> None:
    arg = {"filename": path, "chunk": data, "chunksize": len(data), "offset": offset}
    await rig.ok("file_upload_chunk", arg)


@needs_story_model
async def test_what_is_restored_is_what_was_backed_up(tmp_path: Path) -> None:
    await furnish(tmp_path / "data", loaded=True)
    before = read(tmp_path / "data")
    made = await asyncio.to_thread(back_up, tmp_path / "data", tmp_path / "backup.tar")
    restored = restore(tmp_path / "backup.tar", tmp_path / "restored")
    assert (made.n_canisters, made.n_files, made.n_bytes) == (2, restored.n_files, restored.n_bytes)
    assert stat.S_IMODE((tmp_path / "backup.tar").stat().st_mode) == 0o600
    assert await asyncio.to_thread(reopened, tmp_path / "restored") == before
    for name in ("controller.pem", "controller.key", "root.key", "node.pem"):
        assert (tmp_path / "restored" / name).read_bytes() == (tmp_path / "data" / name).read_bytes()
        assert stat.S_IMODE((tmp_path / "restored" / name).stat().st_mode) == 0o600
    async with running(tmp_path / "restored") as rig:
        reply = await rig.ok("run_update", {"args": ["--prompt-cache", "chat.cache", "-p", "", "-n", "2"]})
        assert reply.n_prompt_tokens_cached > 0


@pytest.mark.parametrize("n_open", [1000, 1], ids=["opened", "linked"])
async def test_a_backup_under_load_holds_one_moment_of_every_canister(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_open: int
) -> None:
    """Four writers replace, append to, copy and remove files, small and large; a file's bytes tell its version.

    Version n of a file is n bytes at the end of a chain: file `b` is only ever written after `a` had this version, in
    calls that wait for each other. So in every copy `b` is not newer than `a`, and each is whole.
    """
    monkeypatch.setattr(backup, "_allow_many_files", lambda: n_open + backup._SPARE_FILES)
    data_dir = tmp_path / "data"
    stop = asyncio.Event()

    def content(version: int, size: int) -> bytes:
        return f"{version:08d}".encode() * (size // 8)

    reached: dict[str, int] = {}

    async def writer(rig: Rig, name: str, size: int) -> int:
        version = 0
        while not stop.is_set():
            reached[name] = version = version + 1
            for file in ("a", "b"):
                await write(rig, f"{name}/{file}", content(version, size))
                await write(rig, f"{name}/{file}", content(version, 800), size)
            await write(rig, f"{name}/gone", b"soon")
            await rig.ok("filesystem_remove", {"filename": f"{name}/gone"})
        return version

    n_backups = 8
    async with running(data_dir) as rig:
        writers = [asyncio.create_task(writer(rig, f"w{n}", size)) for n, size in enumerate((80, 8000, LARGE, LARGE))]
        for n in range(n_backups):
            await until(partial(lambda n: len(reached) == len(writers) and min(reached.values()) > n, n))
            made = await asyncio.to_thread(back_up, data_dir, tmp_path / f"{n}.tar")
            assert made.damaged == []
        stop.set()
        assert min(await asyncio.gather(*writers)) >= n_backups

    for n in range(n_backups):
        restore(tmp_path / f"{n}.tar", tmp_path / f"restored-{n}")
        state = await asyncio.to_thread(reopened, tmp_path / f"restored-{n}")
        (id,) = set(state) - {"server"}
        files = state[id]["contents"]
        sizes = {row["path"]: row["size"] for row in state[id]["files"]}
        uploads = {row["path"]: row["sha256"] for row in state[id]["uploads"]}
        for writer_number in range(4):
            versions = []
            for file in ("a", "b"):
                path = f"w{writer_number}/{file}"
                data = files.get(path, b"")
                assert len(data) == sizes.get(path, 0)
                assert len({data[at : at + 8] for at in range(0, len(data), 8)}) <= 1, "two versions in one file"
                assert not data or uploads[path] == hashlib.sha256(data).hexdigest()
                versions.append(int(data[:8] or 0))
            assert 0 <= versions[0] - versions[1] <= 1


async def test_more_files_than_may_be_open_are_backed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data_dir = tmp_path / "data"
    async with running(data_dir) as rig:
        for n in range(5):
            await write(rig, f"file-{n}", f"{n}".encode() * 1000)
    before = await asyncio.to_thread(reopened, data_dir)
    for kind in ("left", "used"):
        (data_dir / f".backup.{kind}").mkdir()
    used = os.open(data_dir / ".backup.used", os.O_RDONLY)
    try:
        fcntl.flock(used, fcntl.LOCK_EX)  # as by a backup that runs
        monkeypatch.setattr(backup, "_allow_many_files", lambda: backup._SPARE_FILES + 2)
        made = await asyncio.to_thread(back_up, data_dir, tmp_path / "backup.tar")
    finally:
        os.close(used)
    assert [path.name for path in data_dir.glob(".backup.*")] == [".backup.used"]
    assert not made.damaged
    restore(tmp_path / "backup.tar", tmp_path / "restored")
    assert await asyncio.to_thread(reopened, tmp_path / "restored") == before

    def no_links(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(Conflict, match=r"makes no links .*ulimit -n"):
        await asyncio.to_thread(back_up, data_dir, tmp_path / "other.tar")
    assert not (tmp_path / "other.tar").exists()


async def test_a_file_that_could_not_be_moved_to_its_place_yet_is_in_the_backup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(volume: Volume) -> None:
        raise OSError(5, "Input/output error")

    async with running(tmp_path / "data") as rig:
        monkeypatch.setattr(Volume, "_perform_moves", failing)
        await write(rig, "models/new", b"n" * LARGE)
        await asyncio.to_thread(back_up, tmp_path / "data", tmp_path / "backup.tar")
        monkeypatch.undo()
    restore(tmp_path / "backup.tar", tmp_path / "restored")
    state = await asyncio.to_thread(reopened, tmp_path / "restored")
    assert next(iter(state[id] for id in state if id != "server"))["contents"] == {"models/new": b"n" * LARGE}


async def small_backup(folder: Path) -> Path:
    async with running(folder / "data") as rig:
        await write(rig, "some/file", b"something")
    await asyncio.to_thread(back_up, folder / "data", folder / "backup.tar")
    return folder / "backup.tar"


async def test_every_damaged_byte_of_a_backup_is_found_and_nothing_is_restored(tmp_path: Path) -> None:
    backup = await small_backup(tmp_path)
    whole = backup.read_bytes()
    with tarfile.open(backup) as tar:
        places = [member.offset_data + member.size // 2 for member in tar]
        end = max(member.offset_data + member.size for member in tar)  # tar pads with zeros behind it
    for place in [*places, len(whole) // 2]:
        damaged = bytearray(whole)
        damaged[place] ^= 1
        (tmp_path / "damaged.tar").write_bytes(damaged)
        with pytest.raises(CanisterError, match="backup"):
            restore(tmp_path / "damaged.tar", tmp_path / "restored")
    for size in [*range(0, end, end // 20), end - 1]:
        (tmp_path / "damaged.tar").write_bytes(whole[:size])
        with pytest.raises(StoreDamaged, match="not a whole backup"):
            restore(tmp_path / "damaged.tar", tmp_path / "restored")
    assert {path.name for path in tmp_path.iterdir()} == {"data", "backup.tar", "damaged.tar"}


@pytest.mark.parametrize("name", ["../decoy", "/decoy", "canisters/../../decoy", "a/./../../decoy"])
def test_a_backup_cannot_lead_out_of_its_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "decoy").write_text("untouched")
    manifest = json.dumps({"format": 1, "damaged": [], "files": [{"name": name, "size": 1, "sha256": "00"}]}).encode()
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        for member_name, data in ((name, b"x"), (MANIFEST, manifest)):
            member = tarfile.TarInfo(member_name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    with pytest.raises((BadRequest, StoreDamaged)):
        restore(tmp_path / "evil.tar", tmp_path / "inner" / "restored")
    assert (tmp_path / "decoy").read_text() == "untouched"
    assert not (tmp_path / "inner" / "restored").exists()


def test_a_backup_has_no_links(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        link = tarfile.TarInfo("server.db")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    with pytest.raises(StoreDamaged, match="has no business there"):
        restore(tmp_path / "evil.tar", tmp_path / "restored")


async def test_what_is_refused(tmp_path: Path) -> None:
    backup = await small_backup(tmp_path)
    before = backup.read_bytes()
    with pytest.raises(Conflict, match="is there already"):
        back_up(tmp_path / "data", backup)
    assert backup.read_bytes() == before
    with pytest.raises(NotFound, match="holds no server's data"):
        back_up(tmp_path / "nothing", tmp_path / "other.tar")
    with pytest.raises(Conflict, match="is not empty"):
        restore(backup, tmp_path / "data")
    with pytest.raises(NotFound, match="there is no backup"):
        restore(tmp_path / "nothing.tar", tmp_path / "restored")
    (tmp_path / "empty").mkdir()
    assert restore(backup, tmp_path / "empty").n_canisters == 1


async def test_a_damaged_database_is_not_backed_up(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as rig:
        folder = rig.canister.folder
    database = bytearray((folder / "canister.db").read_bytes())
    database[5000:9000] = os.urandom(4000)
    (folder / "canister.db").write_bytes(database)
    with pytest.raises(StoreDamaged, match="canister doctor"):
        back_up(tmp_path / "data", tmp_path / "backup.tar")
    assert not (tmp_path / "backup.tar").exists()


async def test_a_herd_and_a_network_of_ao_are_in_it(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    await furnish(data_dir, loaded=False)
    for name, schema in (("herd.db", "CREATE TABLE job (id)"), ("ao/ao.db", "CREATE TABLE message (id)")):
        (data_dir / name).parent.mkdir(exist_ok=True)
        with closing(sqlite3.connect(data_dir / name)) as database:
            database.executescript(f"PRAGMA journal_mode=WAL; {schema}; INSERT INTO {schema.split()[2]} VALUES (7)")
    files = {"herd.secret": b"secret", "ao/node.json": b"{}", "objects/blob/ab": b"rows", "ao/objects/data/cd": b"item"}
    for name, data in {**files, "objects/blob/.part-1": b"in the making"}.items():
        (data_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (data_dir / name).write_bytes(data)
    await asyncio.to_thread(back_up, data_dir, tmp_path / "backup.tar")
    restore(tmp_path / "backup.tar", tmp_path / "restored")
    for name, data in files.items():
        assert (tmp_path / "restored" / name).read_bytes() == data
    assert not (tmp_path / "restored/objects/blob/.part-1").exists()
    for name, table in (("herd.db", "job"), ("ao/ao.db", "message")):
        with closing(sqlite3.connect(tmp_path / "restored" / name)) as database:
            assert database.execute(f"SELECT id FROM {table}").fetchall() == [(7,)]
