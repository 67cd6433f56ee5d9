"""Logs and the worlds that they were made in: a changed world gives the same state, or no message is run in it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("lupa", reason="Lua programs need lupa, of the extra `ao`")

from canister.ao.lua.calls import LogDamaged, version_of
from canister.ao.processes.program import WORLD
from canister.ao.units import running
from tests.ao.units.world import message, opened

pytestmark = pytest.mark.anyio
COUNT = """
N = 0
Handlers.add('count', 'Count', function(m)
  N = N + 1
  m.reply({ Data = tostring(N) })
end)"""


def changed(folder: Path, file: str, before: str, after: str) -> tuple[Path, ...]:
    """A world in which this stands in one of its files."""
    folder.mkdir()
    for path in WORLD:
        text = path.read_text()
        if path.stem == file:
            assert before in text
            text = text.replace(before, after)
        (folder / path.name).write_text(text)
    return tuple(folder / path.name for path in WORLD)


async def counted(folder: Path, n: int, process: str = "") -> tuple[str, list[bytes]]:
    async with opened(folder) as driven:
        process = process or await driven.program(COUNT)
        found = [(await driven.send(process, "Count")).result.messages[0].data for _ in range(n)]
    return process, found


async def test_a_world_that_does_the_same_goes_on_with_old_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, _ = await counted(tmp_path / "data", 3)
    async with opened(tmp_path / "data") as driven:  # an error of the world's own, which names a line of it
        told = await driven.send(process, "Eval", "ao.isTrusted(nil)")
        assert "ao:" in str(told.result.error)
    lines = "\n" * 1000 + "-- What"
    monkeypatch.setattr(running, "WORLD", changed(tmp_path / "world", "ao", "-- What", lines))
    assert version_of(running.WORLD) != version_of(WORLD)
    assert (await counted(tmp_path / "data", 2, process))[1] == [b"4", b"5"]


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("ao", "ao.reference = ao.reference + 1", "ao.reference = ao.reference + 2"),
        ("handlers", "handled = true", "handled = true print('handled')"),
        ("process", "Handlers.evaluate(msg, ao.env)", "__host.package('none')"),
    ],
)
async def test_a_world_that_does_otherwise_runs_nothing_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, before: str, after: str
) -> None:
    process, _ = await counted(tmp_path / "data", 3)
    other = changed(tmp_path / "world", file, before, after)
    with monkeypatch.context() as patched:
        patched.setattr(running, "WORLD", other)
        async with opened(tmp_path / "data") as driven:
            place = await driven.units.send(message(process, "Count"))
            for ask in (
                driven.units.result(process, place.slot, wait_seconds=300),
                driven.units.dry_run(process, message(process, "Count")),
                driven.units.result(process, place.message, wait_seconds=300),
            ):
                with pytest.raises(LogDamaged) as told:
                    await ask
                assert version_of(WORLD) in str(told.value)
                assert version_of(other) in str(told.value)
            fresh = await driven.program(COUNT)  # other processes live
            await driven.send(fresh, "Count")
    async with opened(tmp_path / "data") as driven:
        assert (await driven.done(place)).result.messages[0].data == b"4"
