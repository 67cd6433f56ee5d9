"""A server on a disk of its own that becomes full, then read-only, then is mended; run in a mount namespace.

unshare --user --map-root-user --mount python -m tests.crash.small_disk FOLDER
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from canister.errors import CanisterError, StorageFull, Trap
from canister.ops.backup import back_up
from canister.ops.doctor import examine
from tests.crash.rig import Rig, reopened, running

DISK_BYTES = 8 * 1024 * 1024
CHUNK = bytes(range(250)) * 2000


async def upload(rig: Rig, path: str, data: bytes = CHUNK) -> CanisterError | Trap | None:
    arg = {"filename": path, "chunk": data, "chunksize": len(data), "offset": 0}
    try:
        return (await rig.call("file_upload_chunk", arg)).error
    except CanisterError as error:
        return error


async def fill(rig: Rig) -> list[str]:
    """Upload until the disk has no room; what was answered."""
    answered: list[str] = []
    for n in range(100):
        error = await upload(rig, f"file-{n}")
        if error is not None:
            assert isinstance(error, StorageFull), repr(error)
            assert "no room on the disk for" in str(error), error
            return answered
        answered.append(f"file-{n}")
    raise AssertionError("the disk did not become full")


def reads(rig: Rig, names: list[str]) -> None:
    for name in names:
        assert rig.canister.stable.read(name, 0, 1 << 20) == CHUNK, name


async def full(data_dir: Path) -> list[str]:
    async with running(data_dir) as rig:
        (data_dir.parent / "ballast").write_bytes(bytes(1024 * 1024))
        answered = await fill(rig)
        for _ in range(5):  # the last bytes of the disk, and then none
            for size in (60_000, 4_000, 100):
                await upload(rig, "small", bytes(size))
        reads(rig, answered)
        await rig.ok("health")
        with pytest.raises(StorageFull, match=r"backup\.tar"):
            await asyncio.to_thread(back_up, data_dir, data_dir.parent / "backup.tar")
        assert {path.name for path in data_dir.parent.iterdir()} == {data_dir.name, "ballast"}

        (data_dir.parent / "ballast").unlink()
        assert await upload(rig, "more") is None, "it does not go on when there is room again"
        await rig.ok("filesystem_remove", {"filename": answered.pop()})
        reads(rig, [*answered, "more"])
    return answered


async def read_only(data_dir: Path, names: list[str]) -> None:
    """A mount becomes read-only below a running server only when the kernel is forced to; so its start is tried."""
    remount(data_dir.parent, "ro")
    with pytest.raises(CanisterError, match="Read-only file system") as caught:
        async with running(data_dir):
            pass
    assert str(data_dir) in str(caught.value)
    assert [finding.place for finding in examine(data_dir).problems] == ["."]
    remount(data_dir.parent, "rw")
    async with running(data_dir) as rig:
        reads(rig, names)


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


def main() -> None:
    disk = Path(sys.argv[1])
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)], check=True)
    names = asyncio.run(full(disk / "data"))
    asyncio.run(read_only(disk / "data", names))
    state = reopened(disk / "data")
    (id,) = set(state) - {"server"}
    assert set(state[id]["contents"]) >= {*names, "more"}
    assert examine(disk / "data").problems == []


if __name__ == "__main__":
    main()
