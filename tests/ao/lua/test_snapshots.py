"""Snapshots: a state that comes back from one is the state, in whatever way it is made again, and whatever it holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("lupa", reason="Lua programs need lupa, of the extra `ao`")

from canister.ao.lua.cage import Cage
from canister.ao.lua.calls import SNAPSHOT, Call, LogDamaged, Snapshot
from canister.ao.lua.keeper import CagesUnavailable, Nursery
from canister.ao.lua.sandbox import Limits, NotKept, Outcome, Sandbox
from canister.ao.processes.program import WORLD

PROGRAM = b"""
N, T, F, H, Log = 0, {}, {}, {1, 2, 3, 4, 5}, {}
M = { __index = function(t, k) return tostring(k) .. N end, __len = function() return 77 end }
Weak = setmetatable({}, { __mode = 'v' })
db = require('lsqlite3').open_memory()
db:exec('CREATE TABLE told (id INTEGER PRIMARY KEY, word TEXT)')
function make(k)
  local count, own = k, { k }
  return function(d) count = count + d own[#own + 1] = d return count, #own end, function() return count, own end
end
function walked(t) local r = {} for k, v in pairs(t) do r[#r + 1] = tostring(k) .. type(v) end return r end
"""
KEYS = ("1", "2", "3", "7", "-4", "2.5", "true", "false", "'a'", "'b c'", "''")
VALUES = (
    "1",
    "2^53|0",
    "-0.0",
    "0/0",
    "1e300",
    "math.huge",
    "true",
    "'text'",
    "('\\0\\255'):rep(40)",
    "nil",
    "{}",
    "T",
    "{T}",
    "M",
    "print",
    "string.format",
    "__host.note",
    "coroutine.yield",
    "make(3)",
    "function(...) return N, ... end",
    "load('local n = ... return function() return n end')(N)",
    "setmetatable({ 1, nil, 3 }, M)",
)
# What is done with a key, a value and a small number.
STEPS = (
    "N = N + <i>",
    "T[<k>] = <v>",
    "T[<k>] = { back = T, own = <v> }",
    "F[<i>], F[<i> + 1] = make(<i>)",
    "local f = F[<i>] if f then return f(<i>) end",
    "return walked(T)",
    "local r = {} local k repeat k = next(T, k) r[#r + 1] = tostring(k) until k == nil return r",
    "return tostring(T[<k>]), tostring(F[<i>]), tostring(make)",
    "if type(T[<k>]) == 'table' then setmetatable(T[<k>], M) return T[<k>].nothing end",
    "local f = T[<k>] if type(f) == 'function' and f ~= coroutine.yield then return pcall(f, 'n', <i>) end",
    "H[#H + 1] = <i>",
    "return table.remove(H, 1)",
    "M.__call = function(_, d) return d + N end local t = T[<k>] return getmetatable(t) == M and t(<i>)",
    "string.twice = function(s) return s .. s .. N end return ('x'):twice()",
    "Handlers.add('h<i>', 'Act<i>', function(m) N = N + <i> return m end) return #Handlers.list",
    "db:exec('INSERT INTO told (word) VALUES (<i>)') return db:total_changes(), db:last_insert_rowid()",
    "local r = {} for row in db:nrows('SELECT *, total_changes() AS n FROM told') do r[#r + 1] = row end return r",
    "db:exec('DELETE FROM told WHERE id = <i>') return db:changes()",
    "Log[#Log + 1] = __host.note(<i>) return #Log, Log[#Log]",
    "Log[#Log + 1] = math.random(1000) .. ' at ' .. os.time() return Log[#Log]",
    "Waiting = coroutine.wrap(function() coroutine.yield(N) end) return Waiting()",
    "Waiting = nil",
    "N = N + 1 error('told ' .. N)",
    "local b = require('.bint')(128) T[<k>] = b(<i>) + 1 return tostring(T[<k>])",
    "Weak.kept, Weak.gone = T, {} return Weak.kept == T",
    "Inbox[#Inbox + 1] = { Id = 'm<i>' } return #Inbox",
)
# Lua leaves the length of a list with holes open, so a snapshot may change what this tells; never how runs agree.
OPEN_STEPS = ("H[<i>] = nil return #H", "H[<i> + 4] = <i> return #H", "return #H, #T")


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery(WORLD)
    yield made
    made.close()


def cage_of(nursery: Nursery, every: int, asked: list[object] | None = None) -> Cage:
    def note(value: object) -> bytes:
        if asked is not None:
            asked.append(value)
        return b"noted"

    return Cage(nursery, {"__host.note": note}, snapshot_every=every)


def told(outcome: Outcome) -> tuple[object, ...]:
    """Of an outcome, with what is no number as its text."""
    return repr(outcome.values), outcome.error, outcome.printed


def step(source: str, key: str, value: str, number: int, at: int) -> Call:
    for name, given_ in (("<k>", key), ("<v>", value), ("<i>", str(number))):
        source = source.replace(name, given_)
    return Call("evaluate", source.encode(), now_ms=1000 * at, seed=at)


def probes() -> list[Call]:
    sources = ("return N, walked(T), walked(F)", "return #H, H", "return Log, #Inbox, #Handlers.list", "return T, F")
    return [Call("evaluate", source.encode()) for source in sources]


Step = tuple[str, str, str, int]
steps = st.lists(
    st.builds(
        lambda source, key, value, number: (source, key, value, number),
        st.sampled_from((*STEPS, *OPEN_STEPS)),
        st.sampled_from(KEYS),
        st.sampled_from(VALUES),
        st.integers(1, 4),
    ),
    max_size=30,
)


@given(steps=steps, every=st.integers(1, 5))
@settings(max_examples=8, deadline=None)
def test_random_programs_do_the_same_with_and_without(nursery: Nursery, steps: list[Step], every: int) -> None:
    check_random_program(nursery, steps, every)


@pytest.mark.nightly
@given(steps=steps, every=st.integers(1, 5))
@settings(max_examples=400, deadline=None)
def test_many_random_programs_do_the_same(nursery: Nursery, steps: list[Step], every: int) -> None:
    check_random_program(nursery, steps, every)


def check_random_program(nursery: Nursery, steps: list[Step], every: int) -> None:
    lives, plain, asked = cage_of(nursery, every), cage_of(nursery, 0), list[object]()
    again: list[Cage] = []
    try:
        for cage in (lives, plain):
            assert cage.load(PROGRAM).error is None
        is_open = False
        for at, (source, key, value, number) in enumerate(steps):
            call = step(source, key, value, number, at)
            is_open |= source in OPEN_STEPS
            found, expected = told(lives.run(call)), told(plain.run(call))
            assert is_open or found == expected
        n_calls, log, snapshot = lives.n_calls, list(lives.log), lives.snapshot
        expected_at_last = [told(lives.run(call, dry=True)) for call in probes()]
        if not is_open:
            assert [told(plain.run(call, dry=True)) for call in probes()] == expected_at_last
        by_log, by_snapshot, by_end = (cage_of(nursery, every, asked) for _ in range(3))
        again = [by_log, by_snapshot, by_end]
        by_log.log = list(log)
        by_snapshot.log, by_snapshot.snapshot = list(log), snapshot
        if snapshot is not None:  # with no more of the log than is needed
            first = snapshot.n_calls - 1
            by_end.log, by_end.snapshot, by_end.n_earlier = log[first:], snapshot, first
            by_end.earlier = lambda: pytest.fail("the log before the snapshot was read")
        else:
            by_end.log = list(log)
        for cage in again:
            assert [told(cage.run(call, dry=True)) for call in probes()] == expected_at_last
            assert cage.n_calls == n_calls
        assert not asked
        for call in probes():  # and they go on alike, with the next snapshots
            assert len({told(cage.run(call)) for cage in (lives, *again)}) == 1
        assert len({digests(cage) for cage in (lives, by_log)}) == 1
    finally:
        for cage in (lives, plain, *again):
            cage.stop()


def digests(cage: Cage) -> tuple[bytes, ...]:
    return tuple(entry.digest for entry in cage.log if entry.call.kind == SNAPSHOT)


def counted(nursery: Nursery, n: int = 7) -> Cage:
    cage = cage_of(nursery, 3)
    cage.load(PROGRAM)
    for _ in range(n - 1):
        cage.evaluate(b"N = N + 1")
    return cage


def test_a_snapshot_takes_the_place_of_the_calls_before_it(nursery: Nursery) -> None:
    cage = counted(nursery)
    cage.stop()
    assert [entry.call.kind for entry in cage.log].count(SNAPSHOT) == 2
    snapshot = cage.snapshot
    assert snapshot is not None
    short = cage_of(nursery, 3)
    short.snapshot, short.n_earlier = snapshot, snapshot.n_calls - 1
    short.log = cage.log[snapshot.n_calls - 1 :]
    assert short.evaluate(b"N").values == (6,)
    assert list(short.since(cage.n_calls)) == short.log[-1:]
    short.stop()


@pytest.mark.parametrize(
    "damaged",
    [
        lambda good: replace(good, data=good.data[:-1]),
        lambda good: replace(good, data=b""),
        lambda good: replace(good, data=b"nonsense"),
        lambda good: Snapshot.of(b"s5:nonse", good.n_calls, good.world),
        lambda good: replace(good, digest=bytes(16)),
        lambda good: replace(good, n_calls=good.n_calls - 1),
        lambda good: replace(good, n_calls=10**9),
        lambda good: replace(good, world="another"),
        lambda good: None,
    ],
)
def test_without_it_or_with_a_damaged_one_the_whole_log_is_run(nursery: Nursery, damaged: object) -> None:
    cage = counted(nursery)
    cage.stop()
    good = cage.snapshot
    assert good is not None
    first = good.n_calls - 1
    again = cage_of(nursery, 3)
    again.snapshot, again.log, again.n_earlier = damaged(good), cage.log[first:], first  # type: ignore[operator]
    again.earlier = lambda: cage.log[:first]
    assert again.evaluate(b"N").values == (6,)
    assert again.n_calls == cage.n_calls + 1
    assert again.snapshot == good  # made again on the way
    assert list(again.since(cage.n_calls)) == again.log[-1:]
    again.stop()


def test_a_slower_machine_runs_the_log_to_the_same_state(nursery: Nursery) -> None:
    cage = counted(nursery)
    cage.stop()
    no_time = [replace(each, call=replace(each.call, limits=Limits(seconds=0.0))) for each in cage.log]
    again = cage_of(nursery, 3)
    again.log = no_time
    assert again.evaluate(b"N").values == (6,)
    assert again.snapshot == cage.snapshot
    again.stop()


@pytest.mark.parametrize("has_snapshot", [True, False])
def test_a_state_that_takes_too_long_to_come_back_is_no_damage(
    nursery: Nursery, has_snapshot: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cage = counted(nursery)
    cage.stop()
    before = cage.snapshot
    if not has_snapshot:
        cage.snapshot = None
    with monkeypatch.context() as slow:
        slow.setattr("canister.ao.lua.cage.REPLAY_SECONDS", 0.0)
        for _ in range(2):
            with pytest.raises(CagesUnavailable, match="too long"):
                cage.evaluate(b"N")
    assert cage.evaluate(b"N").values == (6,)
    assert cage.snapshot == before
    cage.stop()


def test_a_log_that_gives_another_state_is_told(nursery: Nursery) -> None:
    cage = counted(nursery)
    cage.stop()
    cage.log[1] = replace(cage.log[1], call=Call("evaluate", b"N = N + 2"))
    cage.snapshot = None
    with pytest.raises(LogDamaged, match=r"run again: .* give another state.* backup"):
        cage.evaluate(b"N")


@pytest.mark.parametrize(
    ("held", "dropped"),
    [
        ("X = coroutine.create(print)", "X = nil"),
        ("X = coroutine.wrap(print)", "X = nil"),
        ("X = ('a'):gmatch('a')", "X = nil"),
        ("X = pairs({ a = 1 })", "X = nil"),
        ("X = { [{}] = 1, [{}] = 2 }", "X = nil"),
        ("X = {} for i = 1, 3e5 do X[i] = i end X[7] = nil", "X = nil"),
        ("db:exec('BEGIN')", "db:exec('COMMIT')"),
        ("db:exec('CREATE TEMP TABLE t (x)')", "db:exec('DROP TABLE temp.t')"),
        ("Handlers.add('w', 'W', function() Receive('A') end) coroutine.wrap(function() Receive('A') end)()", ""),
    ],
)
def test_what_cannot_be_kept_is_left_to_the_log(nursery: Nursery, held: str, dropped: str) -> None:
    cage = cage_of(nursery, 1)
    cage.load(PROGRAM)
    n = cage.n_calls
    assert cage.evaluate(held.encode()).error is None
    assert cage.n_calls == n + 1
    cage.stop()
    assert cage.evaluate(b"N").values == (0,)
    if dropped:
        assert cage.evaluate(dropped.encode()).error is None
        assert cage.log[-1].call.kind == SNAPSHOT
    cage.stop()


def test_a_large_state_is_written_down_less_often(nursery: Nursery) -> None:
    cage = cage_of(nursery, 1)
    cage.load(b"T = {} for i = 1, 3000 do T[i] = ('%064d'):format(i) end")  # some 200 kB
    cage.snapshot_every = 2
    for _ in range(30):
        cage.evaluate(b"N = (N or 0) + 1")
    kinds = [entry.call.kind for entry in cage.log]
    assert 1 <= kinds.count(SNAPSHOT) <= 3
    cage.stop()


def test_long_chains_of_tables_are_kept(nursery: Nursery) -> None:
    cage = cage_of(nursery, 1)
    source = b"""for i = 1, 400 do L = { L, i } end
        function depth() local n, l = 0, L while l do n, l = n + 1, l[1] end return n end"""
    cage.load(source)
    assert cage.log[-1].call.kind == SNAPSHOT
    cage.stop()
    assert cage.call("depth").values == (400,)
    cage.stop()


@pytest.mark.parametrize(
    "later",
    [
        "Meta.__gc = function() N = N + 1 end",
        "Meta.__gc = function() while true do end end",
        "Own = Meta setmetatable(string, Meta) Meta.__gc = function() while true do end end",
    ],
)
def test_no_finalizer_comes_back(nursery: Nursery, later: str) -> None:
    """One that a metatable gets after it was set counts for nothing in Lua; it would run without the meter."""
    cage = cage_of(nursery, 1)
    cage.load(b"N, Meta = 0, {} T = setmetatable({}, Meta)")
    cage.evaluate(later.encode())
    assert cage.evaluate(b"T = nil").error is None
    for _ in range(2):
        assert cage.evaluate(b"for i = 1, 100000 do local t = {} end").error is None
        assert cage.evaluate(b"return N, type(Meta.__gc)").values == (0, b"function")
    assert cage.log[-1].call.kind == SNAPSHOT
    cage.stop()


HOLES = "{" + "".join(f"[{1 << bit}] = 1," for bit in range(17)) + "}"  # its length is 65536


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (
            "local s = '--' .. ('x'):rep(1e6) .. '\\n return function() return N end' "
            "for i = 1, 40 do L[i] = load(s)() end",
            "its functions take more",
        ),
        ("local s = ('x'):rep(1e6) for i = 1, 40 do L[i] = s .. i end", "its state takes more"),
        (f"for i = 1, 3 do L[i] = {HOLES} end", "long tables have holes"),
    ],
)
def test_what_is_written_down_is_bounded(made: str, why: str) -> None:
    sandbox = Sandbox()
    sandbox.begin()
    assert sandbox.load(f"N, L = 1, {{}} {made}".encode(), limits=Limits(seconds=60)).error is None
    with pytest.raises(NotKept, match=why):
        sandbox.save()


def test_a_program_that_would_have_no_room_after_a_snapshot_goes_on_without(
    nursery: Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("canister.ao.lua.cage.SNAPSHOT_BYTES", 1 << 30)  # so that it is tried at once
    cage = Cage(nursery, memory_bytes=8 << 20, snapshot_every=1)
    cage.load(b"L = {} for i = 1, 60000 do L[i] = function() return i end end")  # of one text, which they share
    for _ in range(3):
        assert cage.evaluate(b"local s = ('x'):rep(1e5) return #s + L[7]()").values == (100007,)
    assert SNAPSHOT not in [entry.call.kind for entry in cage.log]
    cage.stop()


def test_what_is_not_kept_is_not_tried_again_after_each_kill(nursery: Nursery) -> None:
    tried: list[int] = []

    class Counted(Cage):
        def _take_snapshot(self, running: object) -> None:
            tried.append(self.n_calls)
            super()._take_snapshot(running)  # type: ignore[arg-type]

    cage = Counted(nursery, snapshot_every=10)
    cage.load(b"X = coroutine.create(print)")
    for _ in range(9):
        cage.evaluate(b"N = (N or 0) + 1")
    for _ in range(10):
        cage.stop()
        cage.evaluate(b"N = N + 1")
    cage.stop()
    assert (cage.evaluate(b"N").values, tried) == ((19,), [10, 20])
    cage.stop()
