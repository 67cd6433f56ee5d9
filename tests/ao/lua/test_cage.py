"""A cage: killed at its deadline, its state back by its log, confined by the kernel, and no harm to its neighbours."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("lupa", reason="Lua programs need lupa, of the extra `ao`")

from canister.ao.lua import values
from canister.ao.lua.cage import ENDED, SPARE_EVERY, Cage
from canister.ao.lua.calls import Call, Entry, LogDamaged
from canister.ao.lua.keeper import Nursery
from canister.ao.lua.sandbox import HostError, Limits
from canister.ao.lua.values import Value
from tests.processes import is_there

COUNTER = b"n = 0 function step() n = n + 1 return n end"
LONG = Limits(instructions=10**15, seconds=1e6)  # so that only the cage ends it
# Work of C that no hook sees, each for longer than a test waits.
UNSEEN = {
    "labels": b"local t = {} for i = 1, 60000 do t[i] = 'goto a' .. i .. ' ::a' .. i .. '::' end "
    b"while true do load(table.concat(t, ' ')) end",
    "strings": b"local s = ('x'):rep(15e6) while true do local _ = s .. 'y' end",
    "comparisons": b"local s = ('x'):rep(12e6) local a, b = s .. 'y', s .. 'z' while true do local _ = a < b end",
    "loop": b"while true do end",
}


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    made.close()


@pytest.fixture
def cage(nursery: Nursery) -> Iterator[Cage]:
    made = Cage(nursery)
    yield made
    made.stop()


def test_calls_change_the_state_and_dry_runs_do_not(cage: Cage) -> None:
    assert cage.load(COUNTER).error is None
    assert cage.call("step").values == (1,)
    dry = Call("call", b"step")
    assert [cage.run(dry, dry=True).values for _ in range(3)] == [(2,)] * 3
    assert cage.call("step").values == (2,)
    assert len(cage.log) == 3


@pytest.mark.parametrize("name", UNSEEN)
@pytest.mark.parametrize("dry", [False, True])
def test_what_no_hook_sees_ends_at_the_deadline_and_the_state_comes_back(cage: Cage, name: str, dry: bool) -> None:
    cage.load(COUNTER)
    cage.call("step")
    found = cage.run(Call("evaluate", b"n = 100 " + UNSEEN[name], limits=LONG), dry=dry, deadline_seconds=0.5)
    assert found.error in ("time limit reached", "memory limit reached")
    assert cage.call("step").values == (2,)
    assert [entry.call.kind for entry in cage.log] == ["load", "call", "call"]


def test_a_call_over_its_limits_changes_nothing(cage: Cage) -> None:
    cage.load(COUNTER)
    over = [
        Call("evaluate", b"n = 100 while true do end", limits=Limits(100_000)),
        Call("evaluate", b"n = 100 while true do end", limits=Limits(10**12, 0.1)),
        Call("evaluate", b"n = 100 local t = {} while true do t[#t + 1] = {} end"),
    ]
    errors = [cage.run(call).error for call in over]
    assert errors == ["instruction limit reached", "time limit reached", "memory limit reached"]
    assert cage.call("step").values == (1,)


def test_an_error_keeps_what_was_done_before_it(cage: Cage) -> None:
    cage.load(COUNTER)
    assert "boom" in str(cage.evaluate(b"n = 7 error('boom')").error)
    cage.stop()
    assert cage.call("step").values == (8,)


def test_a_neighbour_answers_meanwhile(nursery: Nursery, cage: Cage) -> None:
    other = Cage(nursery)
    other.load(COUNTER)
    hostile = Call("evaluate", UNSEEN["loop"], limits=LONG)
    thread = threading.Thread(target=cage.run, args=(hostile,), kwargs={"deadline_seconds": 300.0})
    thread.start()
    while cage.pid is None:
        time.sleep(0.01)
    values_ = [other.call("step").values for _ in range(20)]
    is_busy = thread.is_alive()
    os.kill(cage.pid, signal.SIGKILL)
    thread.join()
    other.stop()
    assert values_ == [(i,) for i in range(1, 21)]
    assert is_busy


def test_the_log_makes_the_same_state_without_asking_the_host_again(nursery: Nursery) -> None:
    asked: list[Value] = []

    def llama(prompt: Value) -> Value:
        asked.append(prompt)
        if prompt == b"bad":
            raise HostError("no model")
        return {b"text": b"answer %d" % len(asked)}

    first = Cage(nursery, {"host.llama": llama})
    source = b"""told = {}
        function ask(p) local ok, r = pcall(host.llama, p) told[#told + 1] = ok and r.text or r return told end"""
    first.load(source)
    for prompt in (b"one", b"bad", b"two"):
        first.call("ask", prompt)
    first.run(Call("evaluate", b"told[#told + 1] = math.random(1000) .. ' at ' .. os.time()", now_ms=1234, seed=9))
    expected = first.evaluate(b"told").values
    assert expected[0][:3] == [b"answer 1", b"no model", b"answer 3"]  # type: ignore[index]
    first.stop()
    second = Cage(nursery, {"host.llama": llama}, log=list(first.log))
    assert second.evaluate(b"told").values == expected
    assert asked == [b"one", b"bad", b"two"]
    second.stop()


def test_a_spare_has_most_of_the_state_ready(nursery: Nursery) -> None:
    asked: list[Value] = []
    cage = Cage(nursery, {"host.note": asked.append})
    cage.load(COUNTER)
    for _ in range(SPARE_EVERY + 10):
        cage.call("step")
    pids = [cage.pid]
    for i in range(3):
        hostile = Call("evaluate", b"n = 0 while true do end", limits=LONG)
        assert cage.run(hostile, deadline_seconds=0.3).error == "time limit reached"
        assert cage.call("step").values == (SPARE_EVERY + 11 + i,)
        pids.append(cage.pid)
    assert len(set(pids)) == 4
    assert cage.evaluate(b"host.note('here') return n").values == (SPARE_EVERY + 13,)
    assert asked == [b"here"]
    status = Path(f"/proc/{cage.pid}/status").read_text()
    assert f"PPid:\t{nursery.pid}\n" in status
    assert "Seccomp:\t2" in status
    log = list(cage.log)
    cage.stop()
    again = Cage(nursery, {"host.note": asked.append}, log=log)
    assert again.evaluate(b"n").values == (SPARE_EVERY + 13,)
    again.stop()


def test_spares_end_with_their_keeper_and_their_nursery() -> None:
    nursery = Nursery()
    cage = Cage(nursery)
    cage.load(COUNTER)
    for _ in range(SPARE_EVERY + 5):
        cage.call("step")
    spare = cage._spare
    assert spare is not None
    nursery.close()
    assert cage.call("step").error == ENDED
    assert cage.call("step").values == (SPARE_EVERY + 6,)
    _gone(spare.pid)
    spare = cage._spare
    assert spare is not None
    cage.stop()
    _gone(spare.pid)
    nursery.close()


def _gone(pid: int) -> None:
    while is_there(pid):
        time.sleep(0.01)


def test_a_log_of_another_program_is_told(nursery: Nursery) -> None:
    log = [Entry(Call("evaluate", b"return host.f()"), ((b"host.g", b"ok", values.encode(1)),))]
    damaged = Cage(nursery, {"host.f": lambda: 1}, log=log)
    with pytest.raises(LogDamaged, match=r"host\.f"):
        damaged.evaluate(b"1")


def test_the_hosts_time_is_not_the_programs(nursery: Nursery) -> None:
    slow = Cage(nursery, {"wait": lambda: time.sleep(2.1)})
    found = slow.run(Call("evaluate", b"wait() return 1"), deadline_seconds=2.0)
    slow.stop()
    assert found.values == (1,)


def test_a_host_that_fails_in_the_midst_of_a_call_leaves_the_state_as_before(nursery: Nursery) -> None:
    def fails() -> Value:
        raise OSError("the host's disk is full")

    cage = Cage(nursery, {"host.save": fails})
    cage.load(COUNTER)
    with pytest.raises(OSError, match="disk is full"):
        cage.evaluate(b"n = 100 host.save()")
    assert cage.call("step").values == (1,)
    cage.stop()


def test_a_process_that_dies_is_made_again(cage: Cage) -> None:
    cage.load(COUNTER)
    cage.call("step")
    assert cage.pid is not None
    os.kill(cage.pid, signal.SIGKILL)
    assert cage.call("step").error == ENDED
    assert cage.call("step").values == (2,)


def test_cages_end_with_their_nursery_and_come_back(tmp_path: Path) -> None:
    nursery = Nursery()
    cage = Cage(nursery)
    cage.load(COUNTER)
    pid = cage.pid
    nursery.close()
    assert pid is not None
    _gone(pid)
    assert cage.call("step").error == ENDED
    assert cage.call("step").values == (1,)
    cage.stop()
    nursery.close()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells how a process is confined")
def test_the_kernel_confines_it(cage: Cage) -> None:
    cage.load(COUNTER)
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{cage.pid}/status").read_text().splitlines())
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    folder = f"/proc/{cage.pid}/fd"
    opened = {os.readlink(f"{folder}/{number}") for number in os.listdir(folder) if number != "2"}
    assert sorted(name.split(":")[0] for name in opened) == ["/dev/null", "socket"]
    limits = Path(f"/proc/{cage.pid}/limits").read_text()
    for name in ("Max file size", "Max core file size"):
        assert any(line.startswith(name) and line.split()[-3:-1] == ["0", "0"] for line in limits.splitlines())


def test_values_that_are_too_long_are_told(cage: Cage) -> None:
    found = cage.run(Call("evaluate", b"return ('x'):rep(20e6), ('x'):rep(20e6)"))
    assert found.error is not None or len(found.values) == 2
    assert cage.evaluate(b"1").values == (1,)
