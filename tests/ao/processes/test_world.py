"""The world of a process, as programs of AO know it: each name of the specification, in a real cage."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("lupa", reason="Lua programs need lupa, of the extra `ao`")

from canister.ao.lua.keeper import Nursery
from canister.ao.lua.sandbox import Limits
from canister.ao.processes.program import WORLD
from tests.ao.processes.programs import ID, NODE, OWNER, Driven, driven, tags


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery(WORLD)
    yield made
    made.close()


@pytest.fixture
def process(nursery: Nursery) -> Iterator[Driven]:
    made = driven(nursery, Name="Bob", Authority="trusted, other")
    yield made
    made.program.stop()


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("1 + 1", "2"),
        ("N = 5", ""),
        ("nil", "nil"),
        ("print('a', 1) return 7", "a\t1\n7"),
        ("ao.id .. Owner .. Name", f"{ID}{OWNER}Bob"),
        ("os.time()", "1700000000001"),
        ("type(io) .. type(os.execute) .. type(__native) .. type(python)", "tablenilnilnil"),
        ("require('json').encode({ a = { 1, 2 }, b = {}, c = 'x\"\\n' })", '{"a":[1,2],"b":[],"c":"x\\"\\n"}'),
        ("require('json').decode('{\"a\": [1, 2,], \"b\": null, }').a[2]", "2"),
        ("require('json').decode('[1,null,3]')[3]", "3"),
        ("#require('json').decode('\"\\\\u00e9\\\\ud83d\\\\ude00\"')", "6"),
        ("tostring(require('.bint')(256)('9007199254740993') * 3 // 2)", "13510798882111489"),
        ("tostring(require('.bint')(64).maxinteger() + 1)", "-9223372036854775808"),
        ("tostring(require('.bint')(256)(-7) // 2) .. tostring(require('.bint')(256).tdiv(-7, 2))", "-4-3"),
        ("tostring(require('.bint')(8)(100) + 100)", "-56"),
        ("require('.crypto').digest.sha2_256('abc').asHex():sub(1, 8)", "ba7816bf"),
        ("require('.base64').decode(require('.base64').encode('h\\0i')) == 'h\\0i'", "true"),
        ("bit32.bxor(0xffffffff, 1) .. ' ' .. bit32.lrotate(0x80000001, 1)", "4294967294 3"),
        ("require('.utils').map(function(v) return v * 2 end, { 1, 2 })[2]", "4"),
        ("require('.utils').map(function(v) return v * 2 end)({ 1, 2 })[1]", "2"),
        ("require('.stringify').format({ 1, 2 })", "{ 1, 2 }"),
        ("package.loaded['.handlers'] == Handlers and require('ao') == ao", "true"),
        ("({ pcall(require, 'socket') })[2]:match('not found') ", "not found"),
        ("(function() local s = require('lsqlite3').open_memory() s:exec[[create table t (a, b);"
         "insert into t values (1, 'x'), (2, null);]] local n = 0 "
         "for r in s:nrows('select * from t') do n = n + r.a end return n .. s:errmsg() end)()", "3not an error"),
    ],
)  # fmt: skip
def test_eval_shows_the_value(process: Driven, code: str, shown: str) -> None:
    assert process.eval(code) == shown


def test_eval_is_for_the_owner_and_its_errors_send_nothing(process: Driven) -> None:
    assert process.send("Eval", "X = 1", sender="somebody").error is None
    assert process.eval("tostring(X) .. #Inbox") == "nil1"
    assert process.send("Eval", "return nil, 'bad luck'").error == "bad luck"
    failed = process.send("Eval", "Send({ Target = 'x' }) error('boom')")
    assert "boom" in str(failed.error)
    assert failed.messages == ()
    assert "unexpected symbol" in str(process.send("Eval", "return return").error)
    assert process.eval("#Errors") == "2"


def test_a_value_is_no_print_and_a_handlers_words_are_one(process: Driven) -> None:
    assert not process.send("Eval", "return 1").prints
    process.eval("Handlers.add('Talk', function() print('hello') end)")
    told = process.send("Talk")
    assert (told.prints, told.output) == (True, b"hello")
    assert b"Bob" in told.prompt


def test_names_ignore_case_but_the_exact_one_comes_first(process: Driven) -> None:
    process.eval(
        "Handlers.add('T', 'T', function(m) print(m['X-JokeTopic'], m.Tags['x-joketopic'], m['Model-ID'], m.From) end)"
    )
    assert process.send("T", X_Joketopic="cats", model_id="m").output == b"cats\tcats\tm\towner"
    assert process.send("t", **{"X-JokeTopic": "dogs", "x-joketopic": "mice"}).output == b"dogs\tmice\tnil\towner"


@pytest.mark.parametrize(
    ("pattern", "is_for"),
    [
        ("'Ping'", True),
        ("'ping'", True),
        ("{ Action = 'Ping' }", True),
        ("{ Action = 'P.ng' }", True),
        ("{ Action = { 'Pong', 'Ping' } }", True),
        ("{ Action = '_' }", True),
        ("{ Missing = '_' }", False),
        ("{ Action = 'Pong' }", False),
        ("{ Action = function(v) return v == 'Ping' end }", True),
        ("{ Action = 'Ping', From = 'owner' }", True),
        ("{ Action = 'Ping', From = 'other' }", False),
        ("function() return true end", True),
        ("function() return false end", False),
        ("function() return 'skip' end", False),
        ("function() return -1 end", True),
        ("function() return 1 end", True),
        ("function() return 0 end", False),
        ("function() return nil end", False),
        ("Handlers.utils.hasMatchingTag('Action', 'Ping')", True),
        ("Handlers.utils.hasMatchingTagOf('Action', { 'A', 'Ping' })", True),
        ("Handlers.utils.hasMatchingData('body')", True),
        ("Handlers.utils.hasMatchingData('else')", False),
        ("Handlers.utils.continue('Ping')", True),
    ],
)
def test_patterns(process: Driven, pattern: str, is_for: bool) -> None:
    process.eval(f"Handlers.add('h', {pattern}, function() print('yes') end)")
    told = process.send("Ping", "body")
    assert told.error is None
    assert (told.output == b"yes") is is_for
    assert process.eval("#Inbox") == ("0" if is_for else "1")


def test_who_comes_first_who_stops_and_who_goes_on(process: Driven) -> None:
    process.eval("""
      function say(word) return function() print(word) end end
      Handlers.add('b', function() return 'continue' end, say('b'))
      Handlers.append('c', function() return 'break' end, say('c'))
      Handlers.add('d', function() return true end, say('d'))
      Handlers.prepend('a', function() return 1 end, say('a'))
      Handlers.before('b').add('ab', function() return 1 end, say('ab'))
      Handlers.after('b').add('bc', function() return 1 end, say('bc'))
    """)
    assert process.send("X").output == b"a\nab\nb\nbc\nc"
    process.eval("Handlers.remove('c') Handlers.add('b', function() return 'skip' end, say('new'))")
    assert process.send("X").output == b"a\nab\nbc\nd"


def test_a_handler_of_some_runs_is_gone_afterwards(process: Driven) -> None:
    process.eval(
        "Handlers.add('twice', 'X', function() print('x') end, 2) Handlers.once('Y', function() print('y') end)"
    )
    assert [process.send("X").output for _ in range(3)] == [b"x", b"x", b""]
    assert [process.send("Y").output for _ in range(2)] == [b"y", b""]
    assert process.eval("#Inbox") == "2"


def test_a_table_of_handlers_resolves(process: Driven) -> None:
    process.eval("""Handlers.add('r', 'R', {
      [{ Kind = 'a' }] = function() print('one') end,
      [function(m) return m.Kind == 'b' end] = { [{ Data = 'x' }] = function() print('two') end },
    })""")
    assert process.send("R", Kind="a").output == b"one"
    assert process.send("R", "x", Kind="b").output == b"two"


def test_what_is_sent(process: Driven) -> None:
    sent = process.send("Eval", "Send({ Target = 'T', Action = 'Go', N = 5, Data = { a = 1 }, Tags = { Deep = 'x' } })")
    (message,) = sent.messages
    assert (message.target, message.data, message.anchor) == ("T", b'{"a":1}', b"1".rjust(32, b"0"))
    found = tags(message)
    assert (found["Data-Protocol"], found["Variant"], found["Type"], found["Reference"]) == (
        "ao",
        "ao.TN.1",
        "Message",
        "1",
    )
    assert (found["Action"], found["N"], found["Deep"], found["Content-Type"]) == ("Go", "5", "x", "application/json")
    assert "Target" in str(process.send("Eval", "Send({ Action = 'x' })").error)
    assert process.eval("Send({ Target = 'T' })") == "Message added to outbox"


def test_a_reply_says_what_it_answers(process: Driven) -> None:
    process.eval("Handlers.add('Ask', function(m) m.reply({ Data = 'a' }) end)")
    process.eval("Handlers.add('Pass', function(m) m.forward('next', { Extra = '1' }) end)")
    (answer,) = process.send("Ask", Reference="9", sender="asker").messages
    assert (answer.target, tags(answer)["X-Reference"]) == ("asker", "9")
    (answer,) = process.send("Ask", Reference="9", X_Reference="8", Reply_To="else", sender="asker").messages
    assert (answer.target, tags(answer)["X-Reference"]) == ("else", "8")
    (passed,) = process.send("Pass", "body", Reference="9", sender="asker").messages
    found = tags(passed)
    assert (passed.target, passed.data, found["Reply-To"], found["Extra"]) == ("next", b"body", "asker", "1")
    assert found["X-Reference"] == "9"


def test_a_handler_waits_for_its_answer(process: Driven) -> None:
    first = process.send("Eval", "local m = Send({ Target = 'Q', Action = 'Get' }).receive() return 'got ' .. m.Data")
    reference = tags(first.messages[0])["Reference"]
    assert process.send("", "wrong", sender="Q", X_Reference="77", owner=NODE).output == b""
    assert process.send("", "right", sender="Q", X_Reference=reference, owner=NODE).output == b"got right"
    process.eval("Send({ Target = 'Q' }).onReply(function(m) print('reply ' .. m.Data) end)")
    assert process.send("", "later", sender="Q", X_Reference="2", owner=NODE).output == b"reply later"
    process.send("Eval", "Receive({ Action = 'Wake' }) error('after waking')")
    assert "after waking" in str(process.send("Wake").error)


def test_others_speak_for_a_process_only_when_trusted(process: Driven) -> None:
    process.eval("Handlers.add('Pay', function(m) print('paid by ' .. m.From) end)")
    assert b"not trusted" in process.send("Pay", sender="token", owner="thief").output
    for authority in ("trusted", "other", NODE):
        assert process.send("Pay", sender="token", owner=authority).output == b"paid by token"


def test_messages_to_others_count_where_they_may_be_assigned(process: Driven) -> None:
    process.eval("Handlers.add('A', function() print('seen') end)")
    assert b"not trusted" in process.send("A", target="elsewhere").output
    process.eval("ao.addAssignable('mine', { Action = 'A' })")
    assert process.send("A", target="elsewhere").output == b"seen"


def test_spawns_and_assignments(process: Driven) -> None:
    made = process.send(
        "Eval", "Spawn('module', { Data = 'code', Name = 'child' }) Assign({ Processes = { 'a', 'b' }, Message = 'm' })"
    )
    (spawn,) = made.spawns
    found = tags(spawn)
    assert (spawn.data, found["Module"], found["Name"], found["Type"]) == (b"code", "module", "child", "Process")
    (assigned,) = made.assignments
    assert (assigned.processes, assigned.message) == (("a", "b"), "m")


def test_what_is_patched_is_published_and_not_sent(process: Driven) -> None:
    fields = ("cache = { n = 1 }, list = { 'x' }", "cache = { m = 2 }")
    result = process.send("Eval", " ".join(f"Send({{ device = 'patch@1.0', {each} }})" for each in fields))
    assert result.messages == ()
    assert result.patch == {b"cache": {b"n": 1, b"m": 2}, b"list": [b"x"]}


def test_the_inbox_is_bounded(process: Driven) -> None:
    process.eval("for i = 1, 10005 do Handlers.unhandled({ Data = i }) end")
    assert process.eval("#Inbox .. ' ' .. Inbox[1].Data") == "10000 6"


def test_a_process_comes_back_by_its_log(nursery: Nursery) -> None:
    again = driven(nursery)
    again.eval("N = (N or 0) + 1 Handlers.add('Count', function(m) N = N + 1 m.reply({ Data = tostring(N) }) end)")
    values = [again.send("Count").messages[0].data for _ in range(3)]
    again.program.stop()
    assert [*values, again.send("Count").messages[0].data] == [b"2", b"3", b"4", b"5"]
    assert again.send("Count", dry=True).messages[0].data == b"6"
    assert again.send("Count").messages[0].data == b"6"
    again.program.stop()


def test_packages_are_the_operators(nursery: Nursery, tmp_path: Path) -> None:
    (tmp_path / "@me").mkdir()
    (tmp_path / "@me" / "tool.lua").write_text("return { twice = function(n) return n * 2 end }")
    made = driven(nursery, packages=tmp_path)
    assert made.eval("APM.install('@me/tool') return require('@me/tool').twice(4)") == "Installed @me/tool\n8"
    for name in ("@me/other", "../secret", "@me/../../x", "/etc/passwd"):
        assert "no package" in str(made.send("Eval", f"apm.install('{name}')").error)
    assert made.eval("apm.install('@rakis/DbAdmin') return type(require('DbAdmin').new)").endswith("function")
    made.program.stop()


def test_databases_are_bounded_and_have_no_way_out(process: Driven) -> None:
    process.eval("db = require('lsqlite3').open_memory()")
    for sql, told in {
        "ATTACH 'x.db' AS y": "not authorized",
        "VACUUM INTO 'x.db'": "authorization denied",
        "PRAGMA page_count": "not authorized",
        "SELECT load_extension('x')": "not authorized",
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c": "interrupted",
        "SELEC 1": "syntax",
    }.items():
        assert told in process.eval(f"db:exec([[{sql}]]) return db:errmsg()"), sql
    assert process.eval("for i = 1, 20 do L = require('lsqlite3').open_memory() end return tostring(L)") == "nil"
    assert (
        process.eval("""
      db:exec('CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT)')
      local s = db:prepare('INSERT INTO t (name) VALUES (:name)')
      for _, n in ipairs{ 'a', 'b' } do s:bind_names({ name = n }) s:step() s:reset() end
      local found = {}
      for id, name in db:urows('SELECT id, name FROM t ORDER BY id') do found[#found + 1] = id .. name end
      return table.concat(found, ' ') .. ' ' .. db:last_insert_rowid()
    """)
        == "1a 2b 2"
    )


def test_databases_see_the_time_of_the_program(process: Driven) -> None:
    times = "datetime('now'), datetime(), CURRENT_TIMESTAMP, strftime('%Y', 'now'), date('2000-01-31', '+1 day')"
    code = f"""
      local db = require('lsqlite3').open_memory()
      for a, b, c, d, e in db:urows([[SELECT {times}]]) do return a .. '|' .. b .. '|' .. c .. '|' .. d .. '|' .. e end
    """
    assert process.eval(code) == "|".join(["2023-11-14 22:13:20"] * 3 + ["2023", "2000-02-01"])
    assert "not authorized" in process.eval(
        "db = require('lsqlite3').open_memory() db:exec('SELECT random()') return db:errmsg()"
    )


# What the world adds to a program's means of doing harm: natives, modules, the host's calls.
ATTACKS = {
    "json": "for i = 1, 1e9 do pcall(require('json').decode, ('['):rep(1e6)) end",
    "json escapes": "require('json').decode(('\\\\\"'):rep(400000))",
    "json encode": "local t = {} t[1] = t require('json').encode(t)",
    "bint": "local B = require('.bint')(4096) local x = B(3) while true do x = x * x + 1 end",
    "bint bits": "require('.bint')(1e9)(1)",
    "sql": "local db = require('lsqlite3').open_memory() while true do db:exec('WITH RECURSIVE c(x) AS "
    "(SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c') end",
    "sql rows": "local db = require('lsqlite3').open_memory() for _ in db:nrows('WITH RECURSIVE c(x) AS "
    "(SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 900000) SELECT x FROM c') do end",
    "sql memory": "local db = require('lsqlite3').open_memory() db:exec('CREATE TABLE t (x)') while true do "
    "if db:exec('INSERT INTO t VALUES (zeroblob(1000000))') ~= 0 then error(db:errmsg()) end end",
    "digests": "while true do require('.crypto').digest.sha2_512(('x'):rep(1e7)) end",
    "handlers": "Handlers.add('x', function() while true do end end, print) Handlers.evaluate({ Tags = {} }, {})",
    "outbox": "while true do Send({ Target = 'x', Data = ('x'):rep(1e5) }) end",
    "many messages": "for i = 1, 2000 do Send({ Target = 'x' }) end",
    "spawns": "for i = 1, 100 do Spawn('m', {}) end",
    "metatables": "ao.outbox.Messages = setmetatable({}, { __index = function() while true do end end, "
    "__pairs = function() while true do end end, __len = function() return 1e18 end }) while true do end",
    "prompt": "Prompt = function() while true do end end",
    "stringify": "local t = {} for i = 1, 200 do t = { t, t } end return t",
    "receive for ever": "while true do Handlers.once({ Action = 'x' }, print) end",
    "host": "while true do pcall(__host.llama, 'x') end",
    "package": "while true do pcall(__host.package, ('x'):rep(1e5)) end",
    "the world": "for k in pairs(_G) do _G[k] = nil end",
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_on_the_world_end_and_the_process_goes_on(process: Driven, name: str) -> None:
    process.send("Eval", "N = 1")
    process.send("Eval", ATTACKS[name], limits=Limits(3_000_000, 0.3))
    if name == "the world":  # only its own is lost
        assert process.send("Eval", "return N").error is not None
        return
    process.eval("Prompt = nil")
    assert process.eval("N") == "1"


def test_json_refuses_what_is_none(process: Driven) -> None:
    for text in ("{", "nope", "[1 2]", "NaN", "[" * 200 + "]" * 200):
        assert "no JSON" in process.eval(f"return ({{ pcall(require('json').decode, '{text}') }})[2]")
    for value in ("print", "{ 1, x = 2 }", "0/0"):
        assert process.eval(f"return tostring(pcall(require('json').encode, {value}))") == "false"
