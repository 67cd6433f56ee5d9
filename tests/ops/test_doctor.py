"""canister doctor: every kind of damage is found, by place; repair mends what it can and loses nothing."""

from __future__ import annotations

import asyncio
import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from canister.errors import Conflict
from canister.ops.doctor import Finding, examine
from canister.ops.repair import repair
from tests.cli.conftest import Command
from tests.cli.conftest import canister as canister
from tests.crash.rig import read, reopened, running
from tests.crash.scenarios import MODEL, furnish
from tests.harness import needs_story_model

pytestmark = needs_story_model


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("furnished") / "data"

    async def prepare() -> None:
        await furnish(folder, loaded=True)
        async with running(folder) as rig:
            await rig.ok("remove_prompt_cache", {"args": ["--prompt-cache", "old.cache"]})  # noise, not a container

    asyncio.run(prepare())
    return folder


@dataclass(frozen=True)
class Data:
    """A data folder to spoil. first, second: its canisters; chat: path of the chat's container."""

    folder: Path
    first: Path
    second: Path
    chat: Path


@pytest.fixture
def data(furnished: Path, tmp_path: Path) -> Data:
    folder = tmp_path / "data"
    shutil.copytree(furnished, folder)
    folder.chmod(0o700)
    second, first = sorted((folder / "canisters").iterdir())
    return Data(folder, first, second, next(first.glob("stable/.canister_cache/*/sessions/chat.cache")))


def spoil(path: Path, place: int, n_bytes: int = 1) -> None:
    content = bytearray(path.read_bytes())
    for at in range(len(content))[place:][:n_bytes]:
        content[at] ^= 0xFF
    path.write_bytes(content)


def sql(folder: Path, statement: str) -> None:
    with closing(sqlite3.connect(folder / "canister.db")) as connection, connection:
        connection.execute(statement)


def place(data: Data, path: Path) -> str:
    return str(path.relative_to(data.folder))


def problems(data: Data) -> list[Finding]:
    return examine(data.folder).problems


def test_nothing_is_wrong_with_a_sound_folder(data: Data) -> None:
    found = examine(data.folder)
    assert found.findings == []
    assert (found.n_canisters, found.n_containers, found.n_models, found.is_running) == (2, 1, 1, False)
    assert found.n_files == len([path for path in data.folder.glob("canisters/*/stable/**/*") if path.is_file()])


def test_what_doctor_only_looks_at_stays_as_it_is(data: Data) -> None:
    spoil(data.chat, -20)
    before = {path: path.read_bytes() for path in data.folder.rglob("*") if path.is_file()}
    assert problems(data)
    assert {path: path.read_bytes() for path in data.folder.rglob("*") if path.is_file()} == before


FATAL: dict[str, tuple[Callable[[Data], Path], str]] = {}


def fatal(what: str) -> Callable[[Callable[[Data], Path]], Callable[[Data], Path]]:
    def keep(damage: Callable[[Data], Path]) -> Callable[[Data], Path]:
        FATAL[damage.__name__] = damage, what
        return damage

    return keep


@fatal("cannot be read: file is not a database; .*canister restore")
def database(data: Data) -> Path:
    spoil(data.first / "canister.db", 0, 9000)
    return data.first / "canister.db"


@fatal("(not sound|cannot be read): .*canister restore")
def page_of_a_database(data: Data) -> Path:
    sql(data.first, "PRAGMA wal_checkpoint(TRUNCATE)")
    with closing(sqlite3.connect(data.first / "canister.db")) as connection:
        page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'call_log'").fetchone()[0]
    spoil(data.first / "canister.db", 4096 * (page - 1), 2000)
    return data.first / "canister.db"


@fatal("cannot be read: .*no such file")
def no_database(data: Data) -> Path:
    (data.first / "canister.db").unlink()
    return data.first / "canister.db"


@fatal("is gone; upload it again")
def lost_file(data: Data) -> Path:
    (data.first / "stable" / "big.bin").unlink()
    return data.first / "stable" / "big.bin"


@fatal("has 1000 of 102400 bytes; upload it again")
def short_file(data: Data) -> Path:
    path = data.second / "stable" / "a" / "b.bin"
    path.write_bytes(path.read_bytes()[:1000])
    return path


@fatal("is not what was uploaded .*upload it again")
def one_bit_of_a_model(data: Data) -> Path:
    spoil(data.first / "stable" / MODEL, 200_000)
    return data.first / "stable" / MODEL


@fatal("cannot be loaded as a model: .*upload it again")
def header_of_a_model(data: Data) -> Path:
    sql(data.first, "DELETE FROM uploads")
    spoil(data.first / "stable" / MODEL, 30, 3000)
    return data.first / "stable" / MODEL


@fatal("has the role 'Emperor', which does not exist")
def role(data: Data) -> Path:
    sql(data.first, "UPDATE admin_roles SET role = 'Emperor'")
    return data.first / "canister.db"


@fatal("cannot be read")
def principal(data: Data) -> Path:
    sql(data.first, "INSERT INTO controllers VALUES ('nobody')")
    return data.first / "canister.db"


@fatal("cannot be read")
def key(data: Data) -> Path:
    (data.folder / "root.key").write_text("not hex")
    (data.folder / "root.key").chmod(0o600)
    return data.folder / "root.key"


@pytest.mark.parametrize("name", FATAL)
def test_damage_is_found_and_repair_leaves_alone_what_it_cannot_mend(data: Data, name: str) -> None:
    damage, what = FATAL[name]
    path = damage(data)
    (found,) = problems(data)
    assert found.place == place(data, path)
    assert found.mend == ""
    assert re.search(what, found.what), found.what
    _, after = repair(data.folder)
    assert [problem.place for problem in after.problems] == [place(data, path)]


def test_damaged_kv_rows_are_dropped_and_the_tokens_stay(data: Data) -> None:
    before = data.chat.read_bytes()
    spoil(data.chat, len(before) - 20)
    (found,) = problems(data)
    assert (found.place, found.mend) == (place(data, data.chat), "container")
    done, after = repair(data.folder)
    assert after.findings == []
    (line,) = done
    kept = next(data.folder.glob("quarantine/**/chat.cache"))
    assert str(kept) in line
    assert len(kept.read_bytes()) == len(before)

    async def goes_on() -> None:
        async with running(data.folder) as rig:
            run = await rig.ok("run_update", {"args": ["--prompt-cache", "chat.cache", "-p", "", "-n", "2"]})
            assert run.n_prompt_tokens > 5  # the chat, not a new one

    asyncio.run(goes_on())


def test_a_container_of_which_nothing_can_be_read_is_put_away(data: Data) -> None:
    spoil(data.chat, 0, 64)
    _, after = repair(data.folder)
    assert after.findings == []
    assert not data.chat.exists()
    assert list(data.folder.glob("quarantine/**/chat.cache"))


def test_what_no_table_knows_goes_to_quarantine_and_is_never_followed(data: Data, tmp_path: Path) -> None:
    outside = tmp_path / "decoy"
    outside.mkdir()
    (outside / "file").write_text("untouched")
    stable = data.first / "stable"
    (stable / "by hand").write_text("mine")
    (stable / "models" / "folder").mkdir()
    (stable / "models" / "folder" / "file").write_text("mine too")
    (stable / "link").symlink_to(outside)
    (data.folder / "canisters" / "unknown").mkdir()
    before = read_contents(data)
    assert {(found.place, found.mend) for found in problems(data)} == {
        (place(data, stable / "by hand"), "quarantine"),
        (place(data, stable / "models" / "folder"), "quarantine"),
        (place(data, stable / "link"), "quarantine"),
        ("canisters/unknown", "quarantine"),
    }
    done, after = repair(data.folder)
    assert (len(done), after.findings) == (4, [])
    assert read_contents(data) == before
    (away,) = (data.folder / "quarantine").iterdir()
    kept = away / place(data, stable)
    assert (kept / "by hand").read_text() == "mine"
    assert (kept / "models" / "folder" / "file").read_text() == "mine too"
    assert (kept / "link").is_symlink()
    assert (outside / "file").read_text() == "untouched"


def read_contents(data: Data) -> dict[str, bytes]:
    with closing(sqlite3.connect(data.first / "canister.db")) as connection:
        names = [row[0] for row in connection.execute("SELECT path FROM files WHERE kind = 'file'")]
    return {name: (data.first / "stable" / name).read_bytes() for name in names}


def test_what_a_crash_left_is_a_note_and_repair_does_it_as_a_start_would(data: Data) -> None:
    before = reopened(data.folder)
    (data.first / "staging" / "0123").write_bytes(b"never committed")
    with (data.first / "stable" / "big.bin").open("ab") as file:
        file.write(b"never committed either")
    sql(data.first, "INSERT INTO redo (kind, path, \"offset\", data) VALUES ('append', 'old.log', 0, X'23')")
    assert problems(data) == []
    assert len(examine(data.folder).findings) == 3
    done, after = repair(data.folder)
    assert (len(done), after.findings) == (1, [])
    assert read(data.folder) == before


def test_keys_are_for_their_owner_alone(data: Data) -> None:
    (data.folder / "root.key").chmod(0o644)
    data.folder.chmod(0o755)
    assert {found.place for found in problems(data)} == {".", "root.key"}
    _, after = repair(data.folder)
    assert after.findings == []
    assert (data.folder / "root.key").stat().st_mode & 0o777 == 0o600


def test_a_note_of_an_upload_without_its_file_is_removed(data: Data) -> None:
    sql(data.first, "INSERT INTO uploads VALUES ('gone', 1, '00', 0)")
    (found,) = problems(data)
    assert found.mend == "upload note"
    _, after = repair(data.folder)
    assert after.findings == []


def test_repair_refuses_while_a_server_runs_and_looking_does_not(data: Data) -> None:
    async def look() -> None:
        async with running(data.folder) as rig:
            await rig.ok("file_upload_chunk", {"filename": "x", "chunk": b"x", "chunksize": 1, "offset": 0})
            found = await asyncio.to_thread(examine, data.folder)
            assert (found.is_running, found.findings) == (True, [])
            with pytest.raises(Conflict, match="another server uses the data folder"):
                repair(data.folder)

    asyncio.run(look())


def test_the_command(canister: Command, data: Data, tmp_path: Path) -> None:
    done = canister("doctor", "--data-dir", data.folder)
    assert (done.code, done.out) == (0, "")
    assert "0 problems\n" in done.err
    assert "confine a server" in done.err
    spoil(data.chat, -20)
    done = canister("doctor", "--data-dir", data.folder)
    assert done.code == 1
    assert "chat.cache: 1 records have damaged KV rows" in done.out
    assert "[--repair mends it]" in done.out
    assert canister("doctor", "--data-dir", data.folder, "--repair").code == 0
    assert canister("doctor", "--data-dir", tmp_path / "nothing").code == 1
    assert canister("backup", tmp_path / "backup.tar", "--data-dir", data.folder).code == 0
    assert canister("restore", tmp_path / "backup.tar", "--data-dir", data.folder).code == 1
    assert canister("restore", tmp_path / "backup.tar", "--data-dir", tmp_path / "restored").code == 0
    assert canister("doctor", "--data-dir", tmp_path / "restored").code == 0


def test_a_folder_that_no_server_has_run_with(canister: Command, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for folder in (tmp_path / "nowhere", empty):
        done = canister("doctor", "--data-dir", folder)
        assert done.code == 1
        assert done.out.startswith(f"problem  no server has run with {folder}; ")
        assert re.search(r"; 1 problem\n", done.err)
