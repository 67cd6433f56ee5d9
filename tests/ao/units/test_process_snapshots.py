"""Processes start from their snapshots, and without them, or with damaged ones, are what they were all the same."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("lupa", reason="Lua programs need lupa, of the extra `ao`")

from canister.ao.journal import processes
from canister.ao.lua.calls import version_of
from canister.ao.processes.program import WORLD
from canister.ao.units import running
from canister.system.data_dir import AO_DATABASE
from tests.ao.units.test_worlds import changed
from tests.ao.units.world import Shelf, message, opened

pytestmark = pytest.mark.anyio
PROGRAM = """
local sqlite = require('lsqlite3')
db, N, Seen = sqlite.open_memory(), 0, {}
db:exec('CREATE TABLE seen (n INTEGER)')
local function next_number() N = N + 1 return N end
Handlers.add('step', 'Step', function(m)
  local n = next_number()
  Seen[n] = m
  db:exec('INSERT INTO seen VALUES (' .. n .. ')')
  m.reply({ Data = n .. ' ' .. #Seen .. ' ' .. db:total_changes() })
end)
Handlers.add('ask', 'Ask', function(m)
  Llama.load('spelling')
  Llama.setPrompt(m.Data)
  m.reply({ Data = Llama.run(3) })
end)
"""
EVERY = 4


def change(folder: Path, statement: str) -> None:
    with closing(sqlite3.connect(folder / AO_DATABASE)) as connection, connection:
        assert connection.execute(statement).rowcount == 1


def none(_: Path) -> None: ...


@pytest.mark.parametrize(
    ("harm", "every"),
    [
        (none, EVERY),
        (none, 0),
        (lambda folder: change(folder, "DELETE FROM ao_snapshots"), EVERY),
        (lambda folder: change(folder, "UPDATE ao_snapshots SET data = x'00'"), EVERY),
        (lambda folder: change(folder, "UPDATE ao_snapshots SET data = substr(data, 1, 200)"), EVERY),
        (
            lambda folder: change(folder, "UPDATE ao_snapshots SET data = data || x'ff'"),
            EVERY,
        ),
        (lambda folder: change(folder, "UPDATE ao_snapshots SET n_calls = 2"), EVERY),
        (lambda folder: change(folder, "UPDATE ao_snapshots SET world = 'another'"), EVERY),
    ],
    ids=["whole", "off", "gone", "damaged", "cut", "a text", "misplaced", "of another world"],
)
async def test_a_process_goes_on_after_a_restart(tmp_path: Path, harm: Callable[[Path], None], every: int) -> None:
    async with opened(tmp_path, Shelf(), snapshot_every=EVERY) as driven:
        process = await driven.program(PROGRAM)
        asked = await driven.send(process, "Ask", "a")
        for _ in range(9):
            last = await driven.send(process, "Step")
        assert await driven.units._journal.read(lambda each: processes.snapshot(each, process)) is not None
    harm(tmp_path)
    shelf = Shelf()
    async with opened(tmp_path, shelf, snapshot_every=every) as driven:
        dry = await driven.units.dry_run(process, message(process, "Step", ""))
        assert dry.messages[0].data == b"10 10 10"
        assert (await driven.send(process, "Step")).result.messages[0].data == b"10 10 10"
        code = "return #Inbox .. #Seen .. Seen[3].Nonce .. Seen[3].Tags.action"
        assert await driven.eval(process, code) == "0104Step"
        assert not shelf.model.n_said
        answered = await driven.send(process, "Ask", "a")
        assert answered.result.messages[0].data == asked.result.messages[0].data == b"bcd"
    assert last.result.messages[0].data == b"9 9 9"


async def test_a_changed_world_runs_the_log_once_and_has_snapshots_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path / "data", snapshot_every=EVERY) as driven:
        process = await driven.program(PROGRAM)
        for _ in range(9):
            await driven.send(process, "Step")
        before = await driven.units._journal.read(lambda each: processes.snapshot(each, process))
    monkeypatch.setattr(running, "WORLD", changed(tmp_path / "world", "ao", "-- What", "\n-- What"))
    for n in (10, 11):
        async with opened(tmp_path / "data", snapshot_every=EVERY) as driven:
            assert (await driven.send(process, "Step")).result.messages[0].data == b"%d %d %d" % (n, n, n)
            kept = await driven.units._journal.read(lambda each: processes.snapshot(each, process))
        assert before is not None
        assert kept is not None
        assert kept.n_calls >= before.n_calls
        assert kept.world == version_of(running.WORLD) != before.world
    monkeypatch.setattr(running, "WORLD", WORLD)
    async with opened(tmp_path / "data") as driven:
        assert (await driven.send(process, "Step")).result.messages[0].data == b"12 12 12"


async def test_a_start_runs_only_what_came_after_the_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path, snapshot_every=EVERY) as driven:
        process = await driven.program(PROGRAM)
        for _ in range(21):
            await driven.send(process, "Step")
    read: list[int] = []
    log = processes.log

    def counted(*given: object) -> object:
        found = log(*given)  # type: ignore[arg-type]
        read.append(len(found))
        return found

    monkeypatch.setattr(processes, "log", counted)
    async with opened(tmp_path, snapshot_every=EVERY) as driven:
        assert (await driven.send(process, "Step")).result.messages[0].data == b"22 22 22"
    assert len(read) == 1
    assert read[0] <= EVERY + 1
