"""The host: its data folder, identity and key, and the canisters that keep their ids."""

from __future__ import annotations

import asyncio
import shutil
import signal
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from canister.config import Settings
from canister.errors import BadRequest, CanisterNotFound, Conflict
from canister.ic import principal as principals
from canister.ic.identity import Identity
from canister.runtime.host import Host

pytestmark = pytest.mark.anyio

SOMEBODY = principals.to_text(principals.self_authenticating(b"somebody"))


@asynccontextmanager
async def started(data_dir: Path, **settings: Any) -> AsyncIterator[Host]:
    host = Host(Settings(data_dir=data_dir, **settings))
    await host.start()
    try:
        yield host
    finally:
        await host.stop()


def key_in(host: Host) -> str:
    return host.key_path.read_text().strip()


# -- the first start


async def test_the_first_start_makes_identity_and_key(tmp_path: Path) -> None:
    async with started(tmp_path / "a" / "b") as host:
        identity = Identity.from_pem(host.identity_path.read_bytes())
        assert identity.principal == host.identity.principal
        assert host.key_path.read_text() == key_in(host) + "\n"
        assert host.principal_of(key_in(host)) == identity.principal
        for path in (host.identity_path, host.key_path, host.data_dir / "lock"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(host.data_dir.stat().st_mode) == 0o700
        assert (host.data_dir / "canisters" / host.default.id).is_dir()


async def test_who_controls(tmp_path: Path) -> None:
    async with started(tmp_path, controller=[SOMEBODY, SOMEBODY], canister=["a", "b"]) as host:
        for canister in host.canisters:
            assert set(canister.controllers) == {host.identity.principal, SOMEBODY}


@pytest.mark.parametrize("controller", ["nobody", "", "2vxsx-fae", SOMEBODY.upper()])
async def test_controllers_that_are_refused(tmp_path: Path, controller: str) -> None:
    with pytest.raises(BadRequest, match="--controller"):
        await Host(Settings(data_dir=tmp_path / "data", controller=[controller])).start()
    assert not (tmp_path / "data").exists()


# -- later starts


async def test_a_restart_changes_nothing(tmp_path: Path) -> None:
    async with started(tmp_path, canister=["a", "b"]) as host:
        before = (host.identity.principal, key_in(host), [(c.name, c.id) for c in host.canisters])
    async with started(tmp_path, canister=["a", "b"]) as host:
        assert (host.identity.principal, key_in(host), [(c.name, c.id) for c in host.canisters]) == before
        assert host.principal_of(key_in(host)) == host.identity.principal


async def test_a_name_keeps_its_id(tmp_path: Path) -> None:
    async with started(tmp_path, canister=["a", "b"]) as host:
        first, second = (canister.id for canister in host.canisters)
    async with started(tmp_path, canister=["c", "b"]) as host:
        assert [canister.name for canister in host.canisters] == ["c", "b"]
        assert host.find("b").id == second
        assert host.find("c").id not in (first, second)
        with pytest.raises(CanisterNotFound):
            host.find("a")
    async with started(tmp_path, canister=["a"]) as host:
        assert host.default.id == first


async def test_a_deleted_key_file_is_made_anew(tmp_path: Path) -> None:
    async with started(tmp_path) as host:
        before = key_in(host)
        host.key_path.unlink()
    async with started(tmp_path) as host:
        assert host.principal_of(key_in(host)) == host.identity.principal
        assert host.principal_of(before) is None
        assert [key.name for key in host.keys.list()] == ["controller"]


async def test_a_revoked_key_stays_revoked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with started(tmp_path) as host:
        host.keys.revoke("controller")
    async with started(tmp_path) as host:
        assert host.principal_of(key_in(host)) is None
        assert host.keys.list() == []
    assert "delete the file to get a new one" in caplog.text


async def test_a_new_identity_gets_a_new_key(tmp_path: Path) -> None:
    async with started(tmp_path) as host:
        before = host.identity.principal
        host.identity_path.unlink()
    async with started(tmp_path) as host:
        assert host.identity.principal != before
        assert host.principal_of(key_in(host)) == host.identity.principal
        assert host.identity.principal in host.default.controllers


async def test_an_identity_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "controller.pem").write_text("not a PEM")
    for _ in range(2):  # the lock is let go again
        with pytest.raises(BadRequest, match=r"controller\.pem: no private key"):
            await Host(Settings(data_dir=tmp_path)).start()
    (tmp_path / "controller.pem").unlink()
    async with started(tmp_path):
        pass


# -- the folder


async def test_a_second_server_is_refused(tmp_path: Path) -> None:
    async with started(tmp_path):
        with pytest.raises(Conflict, match=r"another server uses the data folder .*\(process \d+\)"):
            await Host(Settings(data_dir=tmp_path)).start()
    async with started(tmp_path):
        pass


async def test_the_lock_dies_with_its_holder(tmp_path: Path) -> None:
    code = (
        "import os, sys, signal; from pathlib import Path; from canister.system.data_dir import FolderLock\n"
        "FolderLock(Path(sys.argv[1])).take(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    holder = await asyncio.create_subprocess_exec(sys.executable, "-c", code, str(tmp_path / "lock"))
    assert await holder.wait() == -signal.SIGKILL
    assert (tmp_path / "lock").exists()
    async with started(tmp_path):
        pass


async def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(BadRequest, match=r"data folder .* cannot be used: .*--data-dir"):
        await Host(Settings(data_dir=tmp_path / "data")).start()


async def test_the_start_fails_when_no_canister_can_be_opened(tmp_path: Path) -> None:
    async with started(tmp_path, canister=["a", "b"]) as host:
        folders = {canister.name: canister.folder for canister in host.canisters}
    (folders["b"] / "canister.db").write_bytes(b"not a database" * 1000)
    async with started(tmp_path, canister=["a", "b"]) as host:  # tests/crash/test_storage.py: what b answers
        assert [canister.fault is None for canister in host.canisters] == [True, False]
    shutil.copytree(folders["a"], tmp_path / "kept")
    (folders["a"] / "canister.db").write_bytes(b"not a database" * 1000)
    for _ in range(2):
        with pytest.raises(Exception, match=r"canister\.db"):
            await Host(Settings(data_dir=tmp_path, canister=["a", "b"])).start()
    shutil.copytree(tmp_path / "kept", folders["a"], dirs_exist_ok=True)
    async with started(tmp_path, canister=["a"]) as host:
        assert host.default.name == "a"


# -- finding


async def test_find(tmp_path: Path) -> None:
    async with started(tmp_path, canister=["llama_cpp", "qwen"]) as host:
        assert host.default is host.canisters[0]
        for canister in host.canisters:
            assert host.find(canister.name) is canister
            assert host.find(canister.id) is canister
        with pytest.raises(CanisterNotFound, match=r"Did you mean 'llama_cpp'\?"):
            host.find("llama-cpp")
        with pytest.raises(CanisterNotFound, match="This server has: llama_cpp, qwen"):
            host.find("0123")
