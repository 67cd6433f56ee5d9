"""The metered matcher answers as C's does: random patterns on random texts, and what the manual tells."""

from __future__ import annotations

import random
from typing import Any

import pytest

lua53 = pytest.importorskip("lupa.lua53", reason="Lua programs need lupa, of the extra `ao`")

from canister.ao.lua import sandbox  # noqa: E402

N_CASES = 6000
PARTS = "a b . %a %d %w %S [ab] [^a] [a-c1] [%d_] %. %1 () (a) (. ) %b() %f[%w] $ ^ 1 _ [] [^] [a %"
ITEMS = PARTS.split()
REPEATS = ["", "", "", "*", "+", "-", "?"]


@pytest.fixture(scope="module")
def both() -> tuple[Any, Any]:
    runtime = lua53.LuaRuntime(encoding=None, unpack_returned_tuples=True)
    source = (sandbox.HERE / "patterns.lua").read_bytes()
    compare = runtime.execute(
        b"""local ours, theirs = (...), string
        local function run(lib, name, ...)
            local r = table.pack(pcall(lib[name], ...))
            if name == 'gmatch' and r[1] then
                local all, next_one = {}, r[2]
                local ok, e = pcall(function()
                    for i = 1, 50 do
                        local one = table.pack(next_one())
                        if one[1] == nil then break end
                        for k = 1, one.n do all[#all + 1] = tostring(one[k]) end
                    end
                end)
                r = {ok, ok and table.concat(all, ';') or e, n = 2}
            end
            if not r[1] then return 'error' end
            local parts = {}
            for i = 1, r.n do parts[i] = math.type(r[i]) and tostring(r[i]) or type(r[i]) .. tostring(r[i]) end
            return table.concat(parts, ',')
        end
        return function(name, ...) return run(theirs, name, ...), run(ours, name, ...) end""",
        runtime.execute(source),
    )
    return runtime, compare


def test_random_patterns_match_as_in_c(both: tuple[Any, Any]) -> None:
    draw = random.Random(11)
    _, compare = both
    n_found = 0
    for _ in range(N_CASES):
        pattern = "".join(draw.choice(ITEMS) + draw.choice(REPEATS) for _ in range(draw.randint(1, 5)))
        text = "".join(draw.choice("aabbc1_ .()") for _ in range(draw.randint(0, 12)))
        name = draw.choice(["find", "match", "gmatch", "gsub"])
        more = {"gsub": [b"<%0>"], "gmatch": []}.get(name, [draw.randint(-3, 4)])
        theirs, ours = compare(name.encode(), text.encode(), pattern.encode(), *more)
        n_found += theirs not in (b"error", b"nilnil")
        assert ours == theirs, (name, text, pattern, more)
    assert n_found > N_CASES / 4


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("gsub", (b"hello world", b"(%w+)", b"%1 %1")),
        ("gsub", (b"hello world", b"%w+", b"%0 %0", 1)),
        ("gsub", (b"x = $(y)", b"%$%((%w+)%)", b"[%1]")),
        ("gsub", (b"abc", b"", b"-")),
        ("gsub", (b"abc", b"b", b"%2")),
        ("gsub", (b"abc", b"b", b"%%")),
        ("find", (b"a\0b\0c", b"%z", 3)),
        ("find", (b"THE (quick) fox", b"%((%a+)%)")),
        ("match", (b"  trim  ", b"^%s*(.-)%s*$")),
        ("gmatch", (b"key=value, x=y", b"(%w+)=(%w+)")),
        ("find", (b"abc", b"[a-", 1)),
        ("find", (b"abc", b"%", 1)),
        ("find", (b"abc", b"(a", 1)),
        ("find", (b"abc", b"a)", 1)),
        ("find", (b"abc", b"b", 10)),
        ("match", (b"2026-11-30", b"(%d+)-(%d+)-(%d+)")),
    ],
)
def test_examples_match_as_in_c(both: tuple[Any, Any], name: str, arguments: tuple[object, ...]) -> None:
    theirs, ours = both[1](name.encode(), *arguments)
    assert ours == theirs
