"""What a program may do: Lua 5.3 as it is written down, values that cross as they are, the same draws in every run."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("lupa", reason="Lua programs need lupa, of the extra `ao`")

from canister.ao.lua import values
from canister.ao.lua.sandbox import HostError, Limits, NotKept, Outcome, Sandbox
from canister.ao.lua.values import BadValue, Value

SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.binary(max_size=20),
)
KEYS = st.one_of(st.binary(max_size=8), st.integers(-5, 5))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return Sandbox()


def evaluated(sandbox: Sandbox, source: str) -> tuple[Value, ...]:
    found = sandbox.evaluate(source.encode())
    assert found.error is None, found.error
    return found.values


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("1 + 1, 7 // 2, 7 / 2, 2^53, 1 << 62", (2, 3, 3.5, 2.0**53, 1 << 62)),
        ("'a' .. 1 .. 2.0", (b"a12.0",)),
        ("select('#', nil, nil), select(2, 'a', 'b')", (2, b"b")),
        ("pcall(error, {code = 1})", (False, {b"code": 1})),
        ("select(2, pcall(error, 'text', 0))", (b"text",)),
        ("xpcall(error, function(e) return 'handled ' .. e end, 'it')", (False, b"handled it")),
        ("(('a,b,,c'):gsub(',', ';'))", (b"a;b;;c",)),
        ("('key = value'):match('^(%w+)%s*=%s*(%w+)$')", (b"key", b"value")),
        ("('x'):rep(3, '-'), ('abc'):sub(-2), ('abc'):byte(1, -1)", (b"x-x-x", b"bc", 97, 98, 99)),
        ("string.format('%5.2f|%-4s|%q|%x', 1.5, 'a', 'b\"', 255)", (b' 1.50|a   |"b\\""|ff',)),
        ("table.concat({1, 2, 3}, ','), #table.pack(1, nil, 3)", (b"1,2,3", 3)),
        ("local t = {3, 1, 2} table.sort(t, function(a, b) return a > b end) return t", ([3, 2, 1],)),
        ("local t = {1, 2, 3} table.insert(t, 2, 9) return table.remove(t), t", (3, [1, 9, 2])),
        (
            "local t = {1, 2, 3} return table.remove(t, 1), table.remove({}), table.remove({}, 0), t",
            (1, None, None, [2, 3]),
        ),
        ("table.move({1, 2, 3}, 2, 3, 1)", ([2, 3, 3],)),
        ("table.unpack({1, 2, 3}, 2)", (2, 3)),
        ("math.type(1), math.type(1.0), math.maxinteger + 1 == math.mininteger", (b"integer", b"float", True)),
        ("utf8.char(233, 8364), utf8.len('é€'), utf8.codepoint('é')", ("é€".encode(), 2, 233)),
        ("local f = load('return x', 'chunk', 't', {x = 5}) return f()", (5,)),
        ("local n = 0 return load(function() n = n + 1 return ({'return ', '7'})[n] end)()", (7,)),
        ("load('return')() == nil, load('+')", (True, None, b"[string \"+\"]:1: unexpected symbol near '+'")),
        (
            "n = 1 for i = 1, 3 do if i == 2 then goto next end n = n + i ::next:: end return n",
            (5,),
        ),
        ("os.date('!%Y-%m-%d', 86400), os.difftime(3, 1), tostring(os.getenv('HOME'))", (b"1970-01-02", 2, b"nil")),
    ],
)
def test_lua_is_as_it_is_written_down(sandbox: Sandbox, source: str, expected: tuple[Value, ...]) -> None:
    assert evaluated(sandbox, source) == expected


def test_tables_with_metatables_are_worked_on_through_them(sandbox: Sandbox) -> None:
    proxy = """local real = {3, 1, 2}
        local t = setmetatable({}, {__len = function() return #real end, __index = real,
                                    __newindex = function(_, k, v) real[k] = v end})
        """
    assert evaluated(sandbox, proxy + "table.sort(t) return real") == ([1, 2, 3],)
    assert evaluated(sandbox, proxy + "table.insert(t, 4) table.insert(t, 1, 0) return real") == ([0, 3, 1, 2, 4],)
    assert evaluated(sandbox, proxy + "return table.remove(t), table.remove(t, 1), real") == (2, 3, [1])
    assert evaluated(sandbox, proxy + "return table.concat(t, '-'), table.unpack(t)") == (b"3-1-2", 3, 1, 2)
    assert evaluated(sandbox, proxy + "return table.move(t, 1, 3, 2, {0})") == ([0, 3, 1, 2],)


def test_coroutines(sandbox: Sandbox) -> None:
    source = """local co = coroutine.create(function(a) local b = coroutine.yield(a + 1) error('end ' .. b, 0) end)
        local r = {coroutine.resume(co, 1)}
        local s = {coroutine.resume(co, 'x')}
        return r, s, coroutine.status(co), {coroutine.resume(co)}"""
    dead = [False, b"cannot resume dead coroutine"]
    assert evaluated(sandbox, source) == ([True, 2], [False, b"end x"], b"dead", dead)


@settings(max_examples=60, deadline=None)
@given(given=st.lists(VALUES, max_size=4))
def test_values_cross_as_they_are(sandbox: Sandbox, given: list[Value]) -> None:
    sandbox.load(b"function echo(...) return ... end")
    expected = values.decode(values.encode(*given))
    assert list(sandbox.call("echo", *given).values) == expected


@given(st.binary(max_size=60))
def test_bytes_that_are_no_values_are_refused(data: bytes) -> None:
    try:
        found = values.decode(data)
    except BadValue:
        return
    assert values.decode(values.encode(*found)) == found or b"dnan" in data.lower()


def test_state_stays_and_time_and_draws_are_the_hosts() -> None:
    first, second = Sandbox(), Sandbox()
    drawn = []
    for sandbox in (first, second):
        sandbox.seed(42)
        sandbox.at(1_700_000_000_000)
        sandbox.load(b"n = 0 function step() n = n + math.random(1000) return n, os.time(), tostring({}) end")
        drawn.append([sandbox.call("step").values for _ in range(3)])
    assert drawn[0] == drawn[1]
    assert drawn[0][0][1] == 1_700_000_000_000
    assert len({row[0] for row in drawn[0]}) == 3


def test_keys_have_one_order_in_every_state() -> None:
    """C's order of texts depends on addresses and the clock: two states would differ."""
    source = b"""local t = {} for i = 1, 300 do t['key' .. i * 7919 % 1000] = i end t[1.5], t[3], t[true] = 1, 2, 3
        local by_pairs, by_next, seen = {}, {}, 0
        for k in pairs(t) do by_pairs[#by_pairs + 1] = tostring(k) end
        for k, v in next, t do by_next[#by_next + 1] = tostring(k) end
        return by_pairs, by_next, {b = 1, a = 2, [3] = 3}"""
    first, second = Sandbox().evaluate(source).values, Sandbox().evaluate(source).values
    assert first == second
    keys = first[0]
    assert isinstance(keys, list)
    assert keys[:2] == [b"1.5", b"3"]
    assert keys[2:-1] == sorted(keys[2:-1])  # type: ignore[type-var]
    assert (len(keys), keys[-1]) == (303, b"true")
    assert first[1] == keys
    assert list(first[2]) == [3, b"a", b"b"]  # type: ignore[arg-type]


def test_tables_may_change_while_they_are_walked(sandbox: Sandbox) -> None:
    source = """local t, n = {a = 1, b = 2, c = 3, d = 4, 5}, 0
        for k in pairs(t) do t[k] = nil n = n + 1 if k == 'a' then t.b = nil end end
        return n, next(t)"""
    assert evaluated(sandbox, source) == (4, None)
    by_next = """local t, k, n = {a = 1, b = 2, c = 3}, nil, 0
        repeat k = next(t, k) n = n + 1 if k then t[k] = 0 end until not k
        return n"""
    assert evaluated(sandbox, by_next) == (4,)
    assert evaluated(sandbox, "pcall(next, {a = 1}, 'none')")[0] is False
    proxied = """local r, meta = {}, {__pairs = function() return next, {x = 7} end}
        for k, v in pairs(setmetatable({}, meta)) do r[k] = v end
        return r"""
    assert evaluated(sandbox, proxied) == ({b"x": 7},)


def test_draws_are_even_and_within_their_bounds(sandbox: Sandbox) -> None:
    source = """local n, low, high = {0, 0, 0, 0}, 1, 0
        for i = 1, 4000 do local k = math.random(4) n[k] = n[k] + 1
            local f = math.random() low, high = math.min(low, f), math.max(high, f) end
        return n, low, high, math.random(5, 5)"""
    counts, low, high, only = evaluated(sandbox, source)
    assert isinstance(counts, list)
    assert all(850 < count < 1150 for count in counts)  # type: ignore[operator]
    assert 0 <= low < 0.01  # type: ignore[operator]
    assert 0.99 < high < 1  # type: ignore[operator]
    assert only == 5


def test_what_is_printed_is_kept_up_to_its_bound(sandbox: Sandbox) -> None:
    assert sandbox.evaluate(b"print('a', 1, nil, {1} ~= nil) io.write('b')").printed == b"a\t1\tnil\ttrue\nb"
    assert len(sandbox.evaluate(b"for i = 1, 300 do print(('x'):rep(10000)) end").printed) <= 1 << 20


def test_host_functions() -> None:
    sandbox = Sandbox()

    def add(a: Value, b: Value) -> Value:
        if not isinstance(a, int) or not isinstance(b, int):
            raise HostError("add takes two whole numbers")
        return a + b

    sandbox.define("host.add", add)
    assert sandbox.evaluate(b"host.add(1, 2)").values == (3,)
    assert sandbox.evaluate(b"pcall(host.add, 1, 'x')").values == (False, b"add takes two whole numbers")
    assert sandbox.evaluate(b"local ok, e = pcall(host.add) return type(e)").values == (b"string",)


def test_a_budget_is_what_a_call_may_take(sandbox: Sandbox) -> None:
    loop = b"for i = 1, 100000 do end return 1"
    assert sandbox.evaluate(loop, Limits(instructions=1_000_000)).values == (1,)
    found = sandbox.evaluate(loop, Limits(instructions=50_000))
    assert found == Outcome((), "instruction limit reached", found.used, b"")
    assert 50_000 <= found.used < 60_000
    assert sandbox.evaluate(b"1").values == (1,)


@pytest.mark.parametrize(
    ("source", "told"),
    [("error('plain', 0)", "plain"), ("error({})", "an error object"), ("error(5)", "5"), ("nothing()", "a nil value")],
)
def test_errors_are_texts(sandbox: Sandbox, source: str, told: str) -> None:
    found = sandbox.evaluate(source.encode())
    assert told in str(found.error)
    assert found.values == ()


def test_syntax_errors_and_bytecode_are_told() -> None:
    sandbox = Sandbox()
    assert "unexpected symbol" in str(sandbox.load(b"x = = 1").error)
    assert "binary chunk" in str(sandbox.load(b"\x1bLua").error)
    assert "no function" in str(sandbox.call("nothing.here").error)


def test_a_state_comes_back_from_its_snapshot_alone() -> None:
    """And only in a new state of the same world."""
    first, second = Sandbox(), Sandbox()
    for each in (first, second):
        each.begin()
    first.load(
        b"n = 0 local function next_one() n = n + 1 return n end function step() return next_one(), tostring(step) end"
    )
    first.call("step")
    snapshot = first.save()
    second.restore(snapshot)
    assert first.call("step").values == second.call("step").values
    assert first.save() == second.save() != snapshot
    for damaged in (b"", b"nonsense", b"N", snapshot[:-1], snapshot[20:]):
        fresh = Sandbox()
        fresh.begin()
        with pytest.raises(NotKept, match="no snapshot"):
            fresh.restore(damaged)
