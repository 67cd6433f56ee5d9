"""Storage that is full, read-only, forbidden or damaged: one clear error where it is met, and service for all else."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from canister.client.local_server import LocalServer, ServerFailed
from canister.errors import CanisterUnavailable, StoreDamaged
from canister.runtime.canister import Canister
from tests.crash.rig import Rig, running
from tests.crash.scenarios import CHAT, MODEL, furnish
from tests.harness import ROOT, needs_story_model

pytestmark = pytest.mark.anyio

TWO = {"canister": ["sound", "damaged"]}


def spoil(path: Path, first: int = 0, n_bytes: int = 4096) -> None:
    """Write noise over a part of a file."""
    data = bytearray(path.read_bytes())
    data[first : first + n_bytes] = os.urandom(len(data[first : first + n_bytes]))
    path.write_bytes(data)


async def upload(rig: Rig, canister: Canister, path: str = "a/b", data: bytes = b"something") -> None:
    arg = {"filename": path, "chunk": data, "chunksize": len(data), "offset": 0}
    await rig.ok("file_upload_chunk", arg, canister=canister)


async def two_canisters(data_dir: Path) -> Path:
    """Makes them; the folder of the one that is to be damaged."""
    async with running(data_dir, **TWO) as rig:
        for canister in rig.host.canisters:
            await upload(rig, canister)
        return rig.host.find("damaged").folder


async def only_one_answers(data_dir: Path, reason: str) -> None:
    """`sound` works in every way, `damaged` rejects every message with the reason."""
    async with running(data_dir, **TWO) as rig:
        sound, damaged = rig.host.find("sound"), rig.host.find("damaged")
        await upload(rig, sound, "new")
        arg = {"filename": "a/b", "chunksize": 100, "offset": 0}
        assert (await rig.ok("file_download_chunk", arg, canister=sound)).chunk == b"something"
        for method in ("health", "set_max_tokens", "canister_status"):
            with pytest.raises(CanisterUnavailable, match=reason):
                await rig.call(method, canister=damaged)
        assert re.search(reason, rig.host.not_ready()["damaged"])
        assert "sound" not in rig.host.not_ready()


async def test_a_corrupt_database_keeps_only_its_own_canister_from_serving(tmp_path: Path) -> None:
    folder = await two_canisters(tmp_path)
    spoil(folder / "canister.db")
    await only_one_answers(tmp_path, "canister.db is not a sound SQLite database.*put a backup in its place")


async def test_a_database_of_a_newer_version_keeps_only_its_own_canister_from_serving(tmp_path: Path) -> None:
    folder = await two_canisters(tmp_path)
    async with running(tmp_path, **TWO) as rig:
        statement = "UPDATE alembic_version SET version_num = 'c9999'"
        await asyncio.wrap_future(
            rig.host.find("damaged").database.submit(lambda connection: connection.exec_driver_sql(statement).rowcount)
        )
    await only_one_answers(tmp_path, "c9999.*upgrade llama-canister")
    assert (folder / "stable" / "a" / "b").read_bytes() == b"something"


@contextmanager
def forbidden(folder: Path, data_dir: Path) -> Iterator[None]:
    """This process may not enter `folder`, and everything else of the data folder is its own."""
    if os.geteuid() != 0:
        folder.chmod(0)
        try:
            yield
        finally:
            folder.chmod(0o700)
        return
    nobody = 65534
    for path in [data_dir, *data_dir.rglob("*")]:
        if path != folder and folder not in path.parents:
            os.chown(path, nobody, nobody)
    os.seteuid(nobody)
    try:
        yield
    finally:
        os.seteuid(0)


async def test_a_folder_without_permission_keeps_only_its_own_canister_from_serving() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as place:
        Path(place).chmod(0o755)
        data_dir = Path(place, "data")
        folder = await two_canisters(data_dir)
        with forbidden(folder, data_dir):
            await only_one_answers(data_dir, f"{folder}/canister.db cannot be .*check")


async def test_a_server_whose_only_canister_is_damaged_does_not_start(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        folder = rig.canister.folder
    spoil(folder / "canister.db")
    with pytest.raises(StoreDamaged, match="not a sound SQLite database"):
        async with running(tmp_path):
            pass
    shutil.rmtree(folder)
    async with running(tmp_path) as rig:  # nothing was left locked
        await rig.ok("health")


@needs_story_model
async def test_damaged_files_are_told_by_name_and_the_rest_is_served(tmp_path: Path) -> None:
    await furnish(tmp_path, loaded=True)
    async with running(tmp_path) as rig:
        stable = rig.canister.folder / "stable"
        chat = next(stable.glob(".canister_cache/*/sessions/chat.cache"))
        untouched = await rig.ok("run_update", {"args": [*CHAT, "-n", "8"]})
        before = chat.read_bytes()
        await rig.ok("remove_prompt_cache", {"args": ["--prompt-cache", "chat.cache"]})
    # The same chat from a container with noise in it: no KV rows, or no tokens either, and never another text.
    for first in (0, len(before) // 2, len(before) - 100):
        async with running(tmp_path) as rig:
            await rig.ok(
                "upload_prompt_cache_chunk",
                {"promptcache": "chat.cache", "chunk": before, "chunksize": len(before), "offset": 0},
            )
        spoil(chat, first)
        async with running(tmp_path) as rig:
            again = await rig.ok("run_update", {"args": [*CHAT, "-n", "8"]})
            assert again.conversation == untouched.conversation
            await rig.ok("remove_prompt_cache", {"args": ["--prompt-cache", "chat.cache"]})

    (stable / "big.bin").write_bytes(b"short")
    spoil(stable / MODEL)
    async with running(tmp_path) as rig:
        reason = (await rig.call("load_model", {"args": ["--model", MODEL, "-c", "32"]})).error
        assert reason is not None
        assert MODEL in str(reason)
        reason = (await rig.call("file_download_chunk", {"filename": "big.bin", "chunksize": 9, "offset": 0})).error
        assert isinstance(reason, StoreDamaged)
        assert re.search("'big.bin' should have [0-9]+ bytes and has only 5 bytes.*upload it again", str(reason))
        arg = {"filename": "old.log", "chunksize": 9, "offset": 0}
        assert (await rig.ok("file_download_chunk", arg)).chunk == b"# log of "
        await upload(rig, rig.canister, "big.bin", b"whole again")
        assert rig.canister.stable.read("big.bin", 0, 99) == b"whole again"


def can_mount() -> bool:
    tried = ["unshare", "--user", "--map-root-user", "--mount", "true"]
    return shutil.which("unshare") is not None and subprocess.run(tried, capture_output=True).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="a small disk of one's own needs user namespaces, which are off here")
def test_a_disk_that_is_really_full_or_read_only(tmp_path: Path) -> None:
    """A tmpfs of 8 MiB: what `small_disk.py` checks."""
    enter = ["unshare", "--user", "--map-root-user", "--mount"]
    done = subprocess.run(
        [*enter, sys.executable, "-m", "tests.crash.small_disk", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr


def test_over_http_the_others_are_served_and_doctor_tells(tmp_path: Path) -> None:
    folder = asyncio.run(two_canisters(tmp_path))
    spoil(folder / "canister.db")
    doctor = [sys.executable, "-m", "canister", "doctor", "--data-dir", str(tmp_path)]
    with LocalServer(tmp_path, "--canister", "sound", "--canister", "damaged") as server:
        with httpx.Client(base_url=server.url, trust_env=False) as http:
            assert http.post("/canisters/sound/health").status_code == 200
            answer = http.post("/canisters/damaged/health")
            assert answer.status_code == 503
            assert "put a backup in its place" in answer.text
            assert http.get("/readyz").status_code == 503
            assert http.get("/healthz").status_code == 200
        told = subprocess.run(doctor, capture_output=True, text=True)
        assert told.returncode == 1
        assert re.search(rf"problem +canisters/{folder.name}/canister.db: .*canister restore", told.stdout)
        with pytest.raises(ServerFailed, match="another server uses the data folder"):
            LocalServer(tmp_path).start()
