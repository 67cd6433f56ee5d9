"""Programs that mean harm: by name, what they do and how that must end. Run one: `python -m tests.ao.lua.attacks NAME`.

The end is a pattern of the error, or `= value` for what must be returned. Each is run in a process of its own.
"""

from __future__ import annotations

import json
import resource
import sys
import time

LIMIT = "(instruction|time|memory) limit reached"
INSTRUCTIONS, SECONDS = 5_000_000, 1.0
HUGE = "local s = ('x'):rep(20000000) "

ATTACKS: dict[str, tuple[str, str]] = {
    # loops
    "loop": ("while true do end", LIMIT),
    "loop_in_pcall": ("while true do pcall(function() while true do end end) end", LIMIT),
    "loop_in_xpcall_handler": ("xpcall(error, function() while true do end end)", LIMIT),
    "nested_handlers": ("local function f() xpcall(error, f) f() end f()", LIMIT + "|nested|overflow"),
    "loop_in_coroutine": ("coroutine.wrap(function() while true do end end)()", LIMIT),
    "loop_in_coroutine_in_pcall": (
        "while true do pcall(coroutine.wrap(function() while true do pcall(error) end end)) end",
        LIMIT,
    ),
    "coroutines_for_ever": ("while true do coroutine.wrap(function() coroutine.yield() end)() end", LIMIT),
    "coroutines_in_coroutines": (
        "local function f() return coroutine.wrap(f)() end return pcall(f)",
        "= false|overflow|" + LIMIT,
    ),
    "recursion": ("local function f() return 1 + f() end f()", "overflow|" + LIMIT),
    "recursion_in_pcall": ("local function f() pcall(f) end while true do f() end", LIMIT + "|nested"),
    "pcall_in_every_coroutine": (
        "local function f() return pcall(f) end while true do coroutine.wrap(f)() end",
        LIMIT,
    ),
    "tostring_loops": ("tostring(setmetatable({}, {__tostring = function() while true do end end}))", LIMIT),
    "index_loops": (
        "local t = setmetatable({}, {__index = function(t, k) return t[k] end}) return t.x",
        "overflow|" + LIMIT,
    ),
    "index_of_itself": ("local t = {} t.__index = t setmetatable(t, t) return t.x", "loop|" + LIMIT + "|= None"),
    "concat_of_itself": (
        "local t t = setmetatable({}, {__concat = function(a, b) return t .. b end}) return t .. 'x'",
        "overflow|" + LIMIT,
    ),
    "sort_that_never_agrees": (
        "local t = {} for i = 1, 50000 do t[i] = i end table.sort(t, function() return true end)",
        "invalid order|" + LIMIT,
    ),
    "sort_that_loops": ("table.sort({1, 2, 3}, function() while true do end end)", LIMIT),
    "gsub_that_loops": ("('x'):gsub('x', function() while true do end end)", LIMIT),
    "load_that_reads_for_ever": (
        "load(function() return ' ' end) while true do load(function() return ' ' end) end",
        LIMIT,
    ),
    "goto_loops": ("::a:: goto a", LIMIT),
    "error_for_ever": ("while true do pcall(error, setmetatable({}, {__tostring = error})) end", LIMIT),
    # finalizers, which run unseen
    "finalizer": ("setmetatable({}, {__gc = function() while true do end end})", "__gc is not available"),
    "finalizer_later": (
        "local m = {} for i = 1, 1000 do setmetatable({}, m) end m.__gc = function() while true do end end "
        "for i = 1, 1e4 do local t = {} end collectgarbage() return 1",
        "= 1",
    ),
    "finalizer_by_getmetatable": ("getmetatable('').__gc = error", "attempt to index|boolean"),
    # memory
    "memory": ("local t = {} while true do t[#t + 1] = {} end", LIMIT),
    "memory_in_pcall": (
        "local t = {} while true do pcall(function() while true do t[#t + 1] = ('x'):rep(1e6) .. #t end end) end",
        LIMIT,
    ),
    "doubling": ("local s = 'x' while true do s = s .. s end", LIMIT),
    "rep": ("return ('x'):rep(1e15)", LIMIT),
    "rep_of_nothing": ("return #(''):rep(1e15)", "= 0"),
    "rep_with_separator": ("return (''):rep(1e12, 'x')", LIMIT),
    "pack_padding": ("while true do pcall(string.pack, 'c2000000000', '') end", LIMIT),
    "format_of_huge": (HUGE + "while true do local _ = ('%s%s'):format(s, s) end", LIMIT),
    "concat_of_huge": (HUGE + "local t = {} for i = 1, 1000 do t[i] = s end return table.concat(t)", LIMIT),
    "upper_of_huge": (HUGE + "while true do local _ = s:upper() end", LIMIT),
    "join_huge": (HUGE + "while true do local _ = s .. 'y' end", LIMIT),
    "compare_huge": (HUGE + "local r = s .. 'y' local q = s .. 'z' while true do local _ = r < q end", LIMIT),
    "equal_huge": (HUGE + "local a, b = s .. 'y', s .. 'y' while true do local _ = a == b end", LIMIT),
    "utf8_of_huge": (HUGE + "while true do utf8.len(s) end", LIMIT),
    "number_of_huge": ("local s = ('1'):rep(20000000) while true do tonumber(s) end", LIMIT),
    "print_for_ever": ("while true do print(('x'):rep(10000)) end", LIMIT),
    "deep_source": ("return load(('{'):rep(100000))", "= None"),
    "long_source": ("local s = ('a = 1 '):rep(1e5) while true do load(s) end", LIMIT),
    # patterns
    "pattern": ("return (('a'):rep(3000) .. 'b'):find(('.-'):rep(8) .. 'c')", LIMIT),
    "pattern_in_pcall": ("while true do pcall(string.find, ('a'):rep(3000), ('a-'):rep(9) .. 'b') end", LIMIT),
    "pattern_with_gmatch": ("for _ in (('a'):rep(9000)):gmatch('.-.-.-.-b') do end", LIMIT),
    "pattern_with_gsub": ("(('a'):rep(9000)):gsub('a*a*a*a*b', '')", LIMIT),
    "pattern_balanced": ("while true do (('('):rep(20000)):find('%b()') end", LIMIT),
    "pattern_back_reference": ("(('a'):rep(20000)):find('(a*)%1b')", LIMIT),
    "pattern_set": (
        "while true do (('a'):rep(100000)):find('[' .. ('b-c'):rep(600) .. ']') end",
        LIMIT,
    ),
    "plain_find": ("local s = ('a'):rep(1e7) while true do s:find(('a'):rep(4e6) .. 'b', 1, true) end", LIMIT),
    # tables whose length lies, and ranges without end
    "move": ("table.move({}, 1, 2^52, 2)", "range too long"),
    "move_backwards": ("return #table.move({}, math.mininteger, math.maxinteger, 1)", "range too long"),
    "unpack": ("table.unpack({}, 1, 1e9)", "range too long"),
    "unpack_without_begin": ("table.unpack({}, nil, 1e9)", "range too long"),
    "concat_without_begin": ("table.concat(setmetatable({}, {__index = type}), '', nil, 1e15)", "range too long"),
    "insert_by_length": ("table.insert(setmetatable({}, {__len = function() return 2^53 | 0 end}), 1, 1)", LIMIT),
    "insert_by_changing_length": (
        "local n = 0 local t = setmetatable({}, {__len = function() n = n + 1 return n == 1 and 0 or 1 << 52 end}) "
        "for i = 1, 9 do pcall(table.insert, t, 1, 1) end return 1",
        "= 1|" + LIMIT,
    ),
    "remove_by_length": ("table.remove(setmetatable({}, {__len = function() return 1 << 53 end}), 1)", LIMIT),
    "sort_by_length": ("table.sort(setmetatable({}, {__len = function() return 1 << 40 end}))", "range too long"),
    "sort_by_changing_length": (
        "local n = 0 table.sort(setmetatable({}, {__len = function() n = n + 1 return n == 1 and 1 or 1 << 30 end}))",
        "= |range|" + LIMIT,
    ),
    "ipairs_without_end": ("for _ in ipairs(setmetatable({}, {__index = type})) do end", LIMIT),
    "insert_in_front": ("local t = {} for i = 1, 1e5 do t[i] = i end while true do table.insert(t, 1, 1) end", LIMIT),
    "next_over_a_hole": (
        "local t = {} for i = 1, 3e5 do t[i] = i end for i = 1, 3e5 do t[i] = nil end while true do next(t) end",
        LIMIT,
    ),
    "select_without_end": (
        "local t = {} for i = 1, 2e5 do t[i] = i end while true do select(-1, table.unpack(t)) end",
        LIMIT,
    ),
    "pairs_for_ever": (
        "local t = {} for i = 1, 2e4 do t['k' .. i] = i end while true do pairs(t) next(t) end",
        LIMIT,
    ),
    # ways out
    "libraries": (
        "return tostring(io.open), tostring(os.execute), tostring(require), tostring(dofile), tostring(package)",
        "= nil nil nil nil nil",
    ),
    "python": ("return tostring(python), tostring(_G.python), tostring(load('return python')())", "= nil nil nil"),
    "globals_by_load": ("return load('return _G')() == _G, load('return pcall')() == pcall", "= True True"),
    "bytecode": ("return load(('\\27Lua') .. ('x'):rep(100))", "= None attempt to load a binary chunk"),
    "bytecode_by_reader": (
        "local n = 0 return load(function() n = n + 1 return ({'\\27', 'Lua'})[n] end)",
        "= None attempt to load a binary chunk",
    ),
    "bytecode_by_mode": ("return load('return 1', 'x', 'b')", "= None attempt to load a text chunk"),
    "dump": ("return string.dump(function() end)", "attempt to call a nil value"),
    "upvalues": (
        "return tostring(debug.getupvalue), tostring(debug.sethook), tostring(debug.getregistry)",
        "= nil nil nil",
    ),
    "metatable_of_strings": ("return getmetatable('')", "= False"),
    "changed_strings": ("string.rep = nil string.format = error return tostring(1), ('x'):len()", "= 1 1"),
    "exception_object": ("local ok, e = pcall(host.fails) return type(e), e", "= string the host failed"),
    "host_gets_a_function": ("return pcall(host.echo, print)", "= True None"),
    "host_gets_itself": ("local t = {} t.t = t return pcall(host.echo, t)", "= False a table is nested too deeply"),
    "host_gets_a_liar": (
        "local function f() while true do end end "
        "return host.echo(setmetatable({a = 1}, {__pairs = f, __index = error, __len = f}))['a']",
        "= 1",
    ),
    "result_is_endless": ("local t = {} for i = 1, 1e6 do t[i] = {} end return t", LIMIT + "|too many entries"),
    "addresses": (
        "return tostring({}):match('0x0000000%x') ~= nil, ('%s'):format(print):match('0x0000000%x') ~= nil",
        "= True True",
    ),
    "memory_differs_from_run_to_run": ("return collectgarbage('count')", "= 0.0"),
    "yield_out": ("coroutine.yield(1)", "outside a coroutine"),
    "environment_of_the_guard": ("_ENV = nil return 1", "= 1"),
    "no_environment": ("return pcall(load('return x', 'x', 't', nil))", "= False"),
    "date": ("return os.date(('%c'):rep(1e7))", LIMIT),
    "seed": (
        "math.randomseed(1/0) while true do math.random(math.mininteger, math.maxinteger) end",
        "no integer|NaN|interval too large|" + LIMIT,
    ),
}


def main(name: str) -> None:
    from canister.ao.lua.sandbox import HostError, Limits, Sandbox

    sandbox = Sandbox(memory_bytes=64 << 20)

    def fails() -> None:
        raise ZeroDivisionError("a secret of the host")

    def echo(value: object = None) -> object:
        if callable(value):
            raise HostError("a function crossed")
        return value

    sandbox.define("host.fails", fails)
    sandbox.define("host.echo", echo)  # type: ignore[arg-type]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    found = sandbox.evaluate(ATTACKS[name][0].encode(), Limits(INSTRUCTIONS, SECONDS))
    seconds = time.process_time() - start
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    after = sandbox.evaluate(b"1 + 1") if found.error != "memory limit reached" else None
    shown = " ".join(value.decode() if isinstance(value, bytes) else str(value) for value in found.values)
    told = f"= {shown}" if found.values or found.error is None else str(found.error)
    lives = after is None or after.values == (2,)
    print(json.dumps({"told": told, "seconds": seconds, "grown_kib": grown, "lives": lives, "error": str(after)}))


if __name__ == "__main__":
    main(sys.argv[1])
