"""Stable memory as its users see it: what is there, what is refused, and what is said about damage."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import insert

from canister.errors import BadRequest, Busy, CanisterError, Conflict, NotFound, StorageFull, StoreDamaged
from canister.store import volume
from canister.store.cache_paths import CACHE_FOLDER, SIDECAR
from canister.store.database import Database
from canister.store.filesystem import FileLayer
from canister.store.recovery import Damage, Recovery
from canister.store.stable import StableMemory, Upload
from canister.store.tables import settings
from canister.store.transaction import Transaction
from tests.store.home import Home


def change(memory: StableMemory, *changes: Callable[[Transaction], object]) -> None:
    """All of these in one transaction."""
    with memory.begin() as transaction:
        for add in changes:
            add(transaction)
        transaction.commit_sync()


def write(memory: StableMemory, path: str, data: bytes = b"data") -> None:
    change(memory, lambda transaction: transaction.write_file(path, data))


def paths(memory: StableMemory, folder: str = "", max_entries: int = 0) -> list[str] | None:
    found = memory.walk(folder, max_entries)
    return None if found is None else [info.path for info in found]


# -- reading


def filled(memory: StableMemory, path: str, offset: int, size: int) -> bytes:
    buffer = bytearray(size)
    return bytes(buffer[: memory.read_into(path, offset, memoryview(buffer))])


def test_a_file_is_there_once_it_is_committed(home: Home) -> None:
    memory = home.memory
    with memory.begin() as transaction:
        transaction.write_file("./models//m.gguf", b"0123456789")
        assert memory.stat("models/m.gguf") is None
        transaction.commit_sync()
    info = memory.stat("models/m.gguf")
    assert info is not None
    assert (info.path, info.kind, info.size) == ("models/m.gguf", "file", 10)
    assert info.created_ns == info.modified_ns == 1000
    assert memory.read("models/m.gguf", 3, 4) == b"3456"
    assert memory.read("models/m.gguf", 8, 100) == b"89"
    assert memory.read("models/m.gguf", 10, 1) == memory.read("models/m.gguf", 1 << 62, 1) == b""
    for offset, size in ((3, 4), (8, 100), (10, 1), (0, 0)):
        assert filled(memory, "models/m.gguf", offset, size) == memory.read("models/m.gguf", offset, size)
    assert memory.physical("models/m.gguf").read_bytes() == b"0123456789"
    assert memory.total_bytes() == 10


def test_a_replaced_file_keeps_its_id_and_creation_and_its_old_bytes_for_who_has_them_open(home: Home) -> None:
    memory = home.memory
    write(memory, "a", b"old")
    before = memory.stat("a")
    opened = memory.open_file("a")
    try:
        write(memory, "a", b"newer")
        after = memory.stat("a")
        assert before is not None
        assert after is not None
        assert (after.id, after.created_ns, after.size) == (before.id, before.created_ns, 5)
        assert after.modified_ns > before.modified_ns
        assert os.pread(opened.fd, 10, 0) == b"old"
    finally:
        os.close(opened.fd)


def test_walk_is_depth_first_in_creation_order(home: Home) -> None:
    memory = home.memory
    for path in ("z/2", "a", "z/1/x", "z/3", "b/c"):
        write(memory, path)
    change(memory, lambda transaction: transaction.remove("z/2"))
    write(memory, "z/2")
    write(memory, "a", b"again")  # keeps its place
    everything = ["z", "z/1", "z/1/x", "z/3", "z/2", "a", "b", "b/c"]
    assert paths(memory) == paths(memory, ".") == paths(memory, "./") == everything
    assert paths(memory, "z/") == ["z/1", "z/1/x", "z/3", "z/2"]
    assert paths(memory, "", 3) == everything[:3]
    assert paths(memory, "missing") is None
    assert paths(memory, "a") is None
    with Home(shutil.copytree(home.root, home.root.with_name("copy"))) as copy:
        assert paths(copy.memory) == everything


def test_the_newest_are_those_written_last_wherever_they_lie_below_the_folder(home: Home) -> None:
    memory, folder = home.memory, f"{CACHE_FOLDER}/a/sessions"
    below = ("1", f"2{SIDECAR}", "deep/er/3", "6", f"7{SIDECAR}")
    for path in (*(f"{folder}/{name}" for name in below), f"{folder}0/4", f"{CACHE_FOLDER}/b/sessions/5"):
        write(memory, path)
    write(memory, f"{folder}/1", b"again")
    newest = [f"{folder}/{name}" for name in ("1", "6", "deep/er/3")]
    assert memory.newest_below(folder, 10) == newest
    assert memory.newest_below(folder, 2) == newest[:2]
    assert memory.newest_below("missing", 2) == []


def test_what_cannot_be_read(home: Home) -> None:
    memory = home.memory
    write(memory, "folder/file")
    for path, error, message in (
        ("missing", NotFound, "no file 'missing'"),
        ("folder", BadRequest, "'folder' is a folder, not a file"),
        ("folder/file/", BadRequest, "leave out the '/'"),
        ("../etc/passwd", BadRequest, r"contains '\.\.'"),
    ):
        with pytest.raises(error, match=message):
            memory.read(path, 0, 1)
        with pytest.raises(error, match=message):
            filled(memory, path, 0, 1)
        with pytest.raises(error, match=message):
            memory.physical(path)
    with pytest.raises(BadRequest, match="neither may be negative"):
        memory.read("folder/file", -1, 1)
    assert memory.stat("folder/file/") is None
    assert memory.stat("folder/") is not None


# -- changing


def test_what_a_transaction_refuses(home: Home) -> None:
    memory = home.memory
    write(memory, "folder/file")
    before = home.state()
    with memory.begin() as transaction:
        refusals: list[tuple[Callable[[], None], type[CanisterError], str]] = [
            (lambda: transaction.write_file("folder", b""), Conflict, "'folder' is a folder"),
            (lambda: transaction.write_file("new/", b""), BadRequest, "names a folder"),
            (lambda: transaction.write_file("folder/file/x", b""), Conflict, "'folder/file' is a file"),
            (lambda: transaction.append_file("missing", b""), NotFound, "no file 'missing' to append to"),
            (lambda: transaction.append_file("folder", b""), Conflict, "'folder' is a folder"),
            (lambda: transaction.copy_file("missing", "x"), NotFound, "no file 'missing' to copy"),
            (lambda: transaction.copy_file("folder", "x"), Conflict, "'folder' is a folder"),
            (lambda: transaction.copy_file("folder/file", "folder"), Conflict, "'folder' is a folder"),
            (lambda: transaction.remove("missing"), NotFound, "no file or folder 'missing'"),
            (lambda: transaction.remove("folder"), Conflict, "'folder' is not empty"),
            (lambda: transaction.remove("folder/file/"), NotFound, "'folder/file/'"),
            (lambda: transaction.remove("/"), BadRequest, "absolute"),
        ]
        for refused, error, message in refusals:
            with pytest.raises(error, match=message):
                refused()
        transaction.commit_sync()
    assert home.state() == before


def test_a_transaction_sees_what_it_did(home: Home) -> None:
    memory = home.memory
    with memory.begin() as transaction:
        transaction.write_file("a/b", b"1")
        transaction.append_file("a/b", b"2")
        transaction.copy_file("a/b", "c")
        transaction.append_file("a/b", b"3")
        with pytest.raises(Conflict):
            transaction.remove("a")
        with pytest.raises(Conflict):
            transaction.write_file("a", b"")
        transaction.copy_file("c", "c")
        transaction.commit_sync()
    assert memory.read("a/b", 0, 9) == b"123"
    assert memory.read("c", 0, 9) == b"12"


def test_a_used_up_transaction_is_refused(home: Home) -> None:
    with home.memory.begin() as transaction:
        transaction.commit_sync()
        with pytest.raises(RuntimeError, match="is committed"):
            transaction.write_file("a", b"")
        transaction.rollback()  # nothing
    with home.memory.begin() as transaction:
        pass
    with pytest.raises(RuntimeError, match="is rolled back"):
        transaction.prepare()


def test_a_rolled_back_transaction_leaves_nothing(home: Home) -> None:
    memory = home.memory
    write(memory, "a", b"old")
    before = home.state()
    calls: list[str] = []
    with memory.begin() as transaction:
        transaction.append_file("a", b"new")
        transaction.write_file("b", b"x" * 100_000)
        transaction.on_commit(lambda: calls.append("committed"))
        transaction.on_rollback(lambda: calls.append("rolled back"))
        transaction.prepare()
    assert calls == ["rolled back"]
    assert home.state() == before
    home.check_disk()


def test_callbacks_run_once_after_the_commit_and_cannot_break_it(home: Home) -> None:
    seen: list[bytes] = []
    with home.memory.begin() as transaction:
        transaction.write_file("a", b"x")
        transaction.on_commit(lambda: seen.append(1 // 0))  # type: ignore[arg-type]
        transaction.on_commit(lambda: seen.append(home.memory.read("a", 0, 1)))
        transaction.on_rollback(lambda: seen.append(b"rolled back"))
        transaction.commit_sync()
    assert seen == [b"x"]


def test_sql_and_files_stand_or_fall_together(home: Home) -> None:
    memory = home.memory
    change(memory, lambda transaction: transaction.execute(insert(settings), {"key": "k", "value": 1}))
    before = home.state()
    with memory.begin() as transaction:
        transaction.write_file("a", b"x")
        transaction.execute(insert(settings), {"key": "k", "value": 2})
        with pytest.raises(Exception, match="UNIQUE"):
            transaction.commit_sync()
    assert home.state() == before
    home.check_disk()


def test_an_upload_note_lives_as_long_as_its_contents(home: Home) -> None:
    memory = home.memory
    note = Upload(4, "ab" * 32, 0)

    def upload(transaction: Transaction) -> None:
        transaction.write_file("a", b"data")
        transaction.set_upload("a", *note)

    for end in (
        lambda transaction: transaction.remove("a"),
        lambda transaction: transaction.append_file("a", b"x"),
        lambda transaction: transaction.write_file("a", b"other"),
    ):
        change(memory, upload)
        assert memory.upload("./a") == note
        with Home(shutil.copytree(home.root, home.root.with_name("copy"))) as copy:
            assert copy.memory.upload("a") == note
        shutil.rmtree(home.root.with_name("copy"))
        change(memory, end)
        assert memory.upload("a") is None
    change(memory, upload)
    change(memory, lambda transaction: transaction.set_upload("a", *note._replace(last_offset=2)))
    assert memory.upload("a") == note._replace(last_offset=2)
    with pytest.raises(Conflict, match="begin the upload anew"):
        change(memory, lambda transaction: transaction.set_upload("missing", *note))


# -- damage and links


def test_a_damaged_file_is_reported_and_the_rest_is_served(home: Home) -> None:
    memory = home.memory
    for path in ("short", "gone", "link", "fine", "long"):
        write(memory, path, b"0123456789")
    home.close()
    folder = home.root / "stable"
    os.truncate(folder / "short", 4)
    (folder / "gone").unlink()
    (folder / "link").unlink()
    (folder / "link").symlink_to("fine")
    with (folder / "long").open("ab") as file:
        file.write(b"garbage")
    with Home(home.root) as again:
        memory = again.memory
        assert memory.read("fine", 0, 99) == memory.read("long", 0, 99) == b"0123456789"
        assert memory.read("short", 0, 4) == filled(memory, "short", 0, 4) == b"0123"
        for path, message in (
            ("short", "should have 10 bytes and has only 4 bytes on the disk; upload it again or remove it"),
            ("gone", "is gone from the disk; upload it again or remove it"),
            ("link", "links are never followed"),
        ):
            with pytest.raises(StoreDamaged, match=f"'{path}'.*{message}"):
                memory.read(path, 0, 10)
            with pytest.raises(StoreDamaged, match=f"'{path}'.*{message}"):
                filled(memory, path, 0, 10)
            with pytest.raises(StoreDamaged, match=message):
                memory.physical(path)
            with memory.begin() as transaction:
                transaction.append_file(path, b"x")
                with pytest.raises(StoreDamaged, match=message):
                    transaction.commit_sync()
            with memory.begin() as transaction:
                transaction.copy_file(path, "copy")
                with pytest.raises(StoreDamaged, match=message):
                    transaction.commit_sync()
        write(memory, "short", b"whole again")
        assert memory.read("short", 0, 99) == b"whole again"
        change(memory, lambda transaction: transaction.remove("gone"))
        change(memory, lambda transaction: transaction.remove("link"))
        assert memory.read("fine", 0, 99) == b"0123456789"
        again.check_disk()


def test_recovery_tells_what_it_found(home: Home) -> None:
    write(home.memory, "f/short", b"0123456789")
    write(home.memory, "long", b"0123456789")
    home.close()
    os.truncate(home.root / "stable/f/short", 4)
    (home.root / "staging/abc").write_bytes(b"never committed")
    with (home.root / "stable/long").open("ab") as file:
        file.write(b"never committed")
    again = Home(home.root)
    try:
        assert again.open() == Recovery(
            n_redone=0, n_leftovers=1, truncated=("long",), damaged=(Damage("f/short", 10, 4),)
        )
    finally:
        again.close()


def test_links_are_never_followed_out_of_the_root(home: Home, tmp_path: Path) -> None:
    memory = home.memory
    write(memory, "inside/file")
    (tmp_path / "file").write_bytes(b"secret")
    for planted in ("planted", "inside/planted"):
        (home.root / "stable" / planted).symlink_to(tmp_path)
        assert memory.stat(f"{planted}/file") is None
        for path in (f"{planted}/new", f"{planted}/a/b"):
            with pytest.raises(BadRequest, match=r"is a symbolic link.*remove it there, or use another"):
                write(memory, path)
    (home.root / "stable/target").symlink_to(tmp_path / "file")
    write(memory, "target", b"replaces the link itself")
    assert not (home.root / "stable/target").is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"secret"

    shutil.rmtree(home.root / "stable/inside")
    (home.root / "stable/inside").symlink_to(tmp_path)
    with pytest.raises(StoreDamaged, match="links are never followed"):
        memory.read("inside/file", 0, 9)
    with pytest.raises(StoreDamaged, match="links are never followed"):
        memory.physical("inside/file")
    with pytest.raises(BadRequest, match="is a symbolic link"):
        write(memory, "inside/file", b"x")
    change(memory, lambda transaction: transaction.remove("inside/file"))
    assert (tmp_path / "file").read_bytes() == b"secret"


def test_pipes_and_foreign_folders_are_refused(home: Home) -> None:
    memory = home.memory
    write(memory, "a")
    (home.root / "stable/a").unlink()
    os.mkfifo(home.root / "stable/a")
    with pytest.raises(StoreDamaged, match="no regular file"):
        memory.read("a", 0, 1)
    (home.root / "stable/b").mkdir()
    with pytest.raises(BadRequest, match="there is a folder of this name; remove it"):
        write(memory, "b")


def test_a_removed_folder_that_holds_foreign_files_goes_from_the_tables_only(home: Home) -> None:
    home.make_folder("f")
    (home.root / "stable/f/mine").write_bytes(b"by hand")
    change(home.memory, lambda transaction: transaction.remove("f"))
    assert home.memory.stat("f") is None
    assert (home.root / "stable/f/mine").exists()
    write(home.memory, "f/theirs")
    assert paths(home.memory) == ["f", "f/theirs"]


def test_a_move_that_fails_is_made_up_for(home: Home) -> None:
    """Something takes a folder's place after the commit: the file can be read all the same, and moves later."""
    memory = home.memory
    write(memory, "f/a")
    folder = home.root / "stable/f"
    with memory.begin() as transaction:
        transaction.write_file("f/b", b"new" * 40_000)
        transaction.write_file("f/c", b"small")
        transaction.prepare()
        folder.rename(home.root / "elsewhere")
        folder.symlink_to(home.root / "elsewhere")
        transaction.commit().result()
    assert memory.read("f/b", 0, 3) == b"new"
    with pytest.raises(StoreDamaged, match="cannot be moved to its place"):
        memory.physical("f/b")
    change(memory, lambda transaction: transaction.append_file("f/b", b"!"))
    write(memory, "f2")
    state = [memory.read(path, 0, 1 << 20) for path in ("f/b", "f/c", "f2")]
    home.close()
    with Home(home.root) as again:  # it still is in the way
        assert [again.memory.read(path, 0, 1 << 20) for path in ("f/b", "f/c", "f2")] == state
        folder.unlink()
        (home.root / "elsewhere").rename(folder)
        assert again.memory.physical("f/b").read_bytes() == state[0]
        again.memory.sync()
        again.check_disk()
        assert again.memory.read("f/a", 0, 9) == b"data"


class FullDisk(FileLayer):
    def __init__(self, code: int) -> None:
        self.code = code

    def write(self, fd: int, data: bytes, offset: int) -> None:
        raise OSError(self.code, os.strerror(self.code))


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        (errno.ENOSPC, StorageFull, r"no room on the disk for 100 bytes of 'a' \(No space left on device\); remove"),
        (errno.EDQUOT, StorageFull, "no room on the disk"),
        (errno.EIO, StoreDamaged, "100 bytes of 'a' cannot be read or written: Input/output error"),
        (errno.EACCES, StoreDamaged, "Permission denied; check the disk and its permissions"),
        (errno.EMFILE, Busy, "too many files are open"),
    ],
)
def test_what_the_disk_says_is_told(home: Home, code: int, error: type[CanisterError], message: str) -> None:
    home.memory.volume.layer = FullDisk(code)
    with pytest.raises(error, match=message):
        write(home.memory, "a", b"x" * 100)
    home.memory.volume.layer = FileLayer()
    assert home.memory.walk("") == []
    home.check_disk()


def test_two_processes_do_not_share_a_folder(home: Home) -> None:
    other = StableMemory(home.root / "stable", home.root / "staging", home.database)
    with pytest.raises(Conflict, match="in use by another process"):
        other.recover()
    with other.begin() as transaction:
        transaction.write_file("a", b"")
        with pytest.raises(RuntimeError, match="recover"):
            transaction.commit_sync()


def test_both_folders_must_be_on_one_file_system(home: Home, tmp_path: Path) -> None:
    if os.stat(tmp_path).st_dev == os.stat(home.root).st_dev:
        pytest.skip("there is only one file system here")
    other = StableMemory(tmp_path / "stable", home.root / "elsewhere", home.database)
    with pytest.raises(BadRequest, match="one file system"):
        other.recover()


# -- threads


def test_transactions_that_make_the_same_folder_at_once(home: Home) -> None:
    def add(n: int) -> None:
        with home.memory.begin() as transaction:
            transaction.write_file(f"one/two/{n}", b"%d" % n)
            transaction.prepare()
            barrier.wait()
            transaction.commit().result()

    barrier = threading.Barrier(8)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(add, range(8)))
    assert sorted(paths(home.memory, "one/two") or ()) == [f"one/two/{n}" for n in range(8)]
    home.check_disk()


def test_a_folder_that_is_filled_meanwhile_is_not_removed_and_one_removed_is_made_again(home: Home) -> None:
    memory = home.memory
    home.make_folder("f/g")
    with memory.begin() as remover, memory.begin() as writer:
        remover.remove("f/g")
        remover.prepare()
        writer.write_file("f/g/x", b"")
        writer.commit_sync()
        with pytest.raises(Conflict, match="not empty any more"):
            remover.commit().result()
    change(memory, lambda transaction: transaction.remove("f/g/x"))
    with memory.begin() as remover, memory.begin() as writer:
        writer.write_file("f/g/x", b"")
        writer.prepare()
        remover.remove("f/g")
        remover.commit_sync()
        writer.commit().result()
    assert paths(memory) == ["f", "f/g", "f/g/x"]
    home.check_disk()


def test_two_changes_of_one_path_wait_for_each_other(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = home.memory
    write(memory, "log", b"")

    def add(n: int) -> None:
        change(memory, lambda transaction: transaction.append_file("log", b"%d" % n))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(add, range(10)))
    assert sorted(memory.read("log", 0, 99)) == sorted(b"0123456789")

    monkeypatch.setattr(volume, "CLAIM_SECONDS", 0.01)
    with memory.begin() as first, memory.begin() as second:
        first.append_file("log", b"!")
        first.prepare()
        second.append_file("log", b"?")
        with pytest.raises(Busy, match="has been changing 'log'"):
            second.prepare()


def test_readers_see_one_version_or_the_other_and_do_not_wait_for_the_writer(home: Home) -> None:
    memory = home.memory
    versions = {b"%d" % n * (n * 1000): n for n in range(1, 9)}
    write(memory, "a", next(iter(versions)))
    done = threading.Event()

    def keep_writing() -> None:
        for data in list(versions) * 12:
            write(memory, "a", data)
        done.set()

    with ThreadPoolExecutor(1) as threads:
        writing = threads.submit(keep_writing)
        while not done.is_set() and not writing.done():
            assert memory.read("a", 0, 10_000) in versions
        writing.result()

    release = threading.Event()
    blocked = home.database.submit(lambda connection: release.wait(60))
    assert memory.read("a", 0, 10_000) in versions
    assert memory.upload("a") is None
    with home.database.read() as connection:
        connection.exec_driver_sql("SELECT count(*) FROM files").scalar_one()
    assert not blocked.done()  # all of it was read while the writer was busy
    release.set()
    blocked.result()


def test_a_roll_back_waits_for_a_commit_that_is_under_way(home: Home) -> None:
    """The caller is cancelled between commit and reply: the commit holds, and its bytes stay."""
    release = threading.Event()
    home.database.submit(lambda connection: release.wait(60))
    with home.memory.begin() as transaction:
        transaction.write_file("a", b"x" * 100_000)
        transaction.prepare()
        future = transaction.commit()
        threading.Timer(0.05, release.set).start()
    assert future.done()
    assert home.memory.read("a", 0, 1) == b"x"


def test_what_gathers_is_synced_in_the_background(disk: Path) -> None:
    database = Database(disk / "c.db", "canister")
    database.open()
    memory = StableMemory(disk / "stable", disk / "staging", database, sync_seconds=0.01)
    memory.recover()
    try:
        write(memory, "a")
        deadline = time.monotonic() + 60
        while not memory.volume.done_row and time.monotonic() < deadline:
            time.sleep(0.01)
        assert memory.volume.done_row
        assert not memory.volume.is_unsynced("a")
    finally:
        memory.close()
        memory.close()
        database.close()
        database.close()


def test_a_close_is_not_missed_when_it_comes_while_the_sync_thread_wakes_up(disk: Path) -> None:
    database = Database(disk / "c.db", "canister")
    database.open()
    memory = StableMemory(disk / "stable", disk / "staging", database, sync_seconds=0.01)
    closing = threading.Thread(target=memory.close, daemon=True)
    told = threading.Semaphore(0)
    cleared = threading.Event()

    class Dirty(threading.Event):
        """When it is cleared, `close` has just set it."""

        def set(self) -> None:
            super().set()
            if threading.current_thread() is closing:
                told.release()

        def clear(self) -> None:
            if closing.ident is None:
                closing.start()
                assert told.acquire(timeout=60)
            super().clear()
            cleared.set()

    memory.volume.is_dirty = Dirty()
    memory.recover()
    write(memory, "a")
    assert cleared.wait(60)
    closing.join(60)
    assert not closing.is_alive()
    database.close()


class FailingSync(FileLayer):
    def fsync(self, fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_after_a_failing_fsync_the_redo_rows_stay_until_the_next_start(home: Home) -> None:
    """A second fsync may succeed though the bytes of the first are lost."""
    memory = home.memory
    write(memory, "a")
    memory.volume.layer = memory.volume.folder.layer = FailingSync()
    with pytest.raises(OSError, match="Input/output error"):
        memory.sync()
    memory.volume.layer = memory.volume.folder.layer = FileLayer()
    write(memory, "b")
    with pytest.raises(OSError, match="restart the server"):
        memory.sync()
    with memory.begin() as transaction:
        transaction.append_file("a", b"x" * 100_000)  # too much for a redo row
        with pytest.raises(StoreDamaged, match="restart the server"):
            transaction.commit_sync()
    write(memory, "c")
    assert home.n_redo_rows() == 3
    state = home.state()
    home.close()
    with Home(home.root) as again:
        assert again.state() == state
        assert again.n_redo_rows() == 0
        again.check_disk()
        write(again.memory, "d")
        again.memory.sync()


class SlowSync(FileLayer):
    def __init__(self) -> None:
        self.begun, self.release = threading.Event(), threading.Event()

    def fsync(self, fd: int) -> None:
        self.begun.set()
        assert self.release.wait(60)


def test_a_file_is_unsynced_until_its_sync_is_over(home: Home) -> None:
    """Else a big append could pass by, and a crash do a redo row from before over it."""
    memory = home.memory
    write(memory, "a")
    layer = memory.volume.layer = SlowSync()
    with ThreadPoolExecutor(2) as threads:
        syncing = threads.submit(memory.sync)
        assert layer.begun.wait(60)
        asking = threads.submit(memory.volume.is_unsynced, "a")
        time.sleep(0.05)
        assert not asking.done()
        layer.release.set()
        syncing.result()
        assert not asking.result()
    assert memory.volume.done_row
