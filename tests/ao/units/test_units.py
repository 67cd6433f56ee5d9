"""Durable processes: messages once and in order, their results, timers, and all of it back after a restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

pytest.importorskip("lupa", reason="Lua programs need lupa, of the extra `ao`")

from canister.ao.journal import messages
from canister.ao.lua.sandbox import Limits
from canister.ao.processes.messages import Incoming
from canister.ao.units.timers import interval_ms
from canister.errors import AccessDenied, BadRequest, NotFound, StorageFull
from tests.ao.units.world import MODEL, NODE, OWNER, Driven, Shelf, message, opened, tags
from tests.traces import until_so

pytestmark = pytest.mark.anyio
COUNTER = "N = 0 Handlers.add('Step', function(m) N = N + 1 m.reply({ Data = tostring(N) }) end)"


@pytest.fixture
async def driven(tmp_path: Path) -> AsyncIterator[Driven]:
    async with opened(tmp_path, Shelf()) as made:
        yield made


async def test_messages_run_once_and_in_order(driven: Driven) -> None:
    process = await driven.program(COUNTER)
    steps = [message(process, "Step") for _ in range(20)]
    places = [await driven.units.send(step) for step in (*steps, *steps)]
    assert [place.slot for place in places] == [*range(1, 21)] * 2
    done = [await driven.done(place) for place in places]
    assert [each.result.messages[0].data for each in done[:20]] == [b"%d" % n for n in range(1, 21)]
    assert await driven.eval(process, "N") == "20"
    assert await driven.units.current_slot(process) == 21
    by_id = await driven.units.result(process, steps[3].id)
    assert by_id == done[3]


async def test_processes_talk_and_make_others(driven: Driven) -> None:
    child = "Handlers.add('Ask', function(m) m.reply({ Data = 'from ' .. ao.id, Action = 'Answer' }) end)"
    parent = await driven.program(f"""
      Handlers.add('Spawned', function(m) Child = m.Process Send({{ Target = Child, Action = 'Ask' }}) end)
      Handlers.add('Answer', function(m) Answer = m.Data == 'from ' .. m.From and m.From == Child end)
      Spawn('m', {{ Data = [[{child}]], ['On-Boot'] = 'Data' }})
    """)
    await driven.heard(parent, 2)
    assert await driven.eval(parent, "Answer") == "true"
    made = await driven.units.info(await driven.eval(parent, "Child"))
    assert (made.owner, made.kind) == (parent, "lua")


async def test_nobody_speaks_for_a_process(driven: Driven) -> None:
    process = await driven.program("Handlers.add('Pay', function(m) print(m.From, m['From-Process']) end)")
    forged = await driven.send(process, "Pay", from_process="token", From_Process="token", PUSHED_FOR="x")
    assert forged.result.output.decode() == f"{OWNER}\tnil"


async def test_results_are_read_in_pages(driven: Driven) -> None:
    process = await driven.program(COUNTER)
    for _ in range(5):
        await driven.send(process, "Step")
    page = await driven.units.results(process, limit=4)
    assert [done.place.slot for done in page.done] == [0, 1, 2, 3]
    assert page.has_next
    page = await driven.units.results(process, after=3, limit=4)
    assert ([done.place.slot for done in page.done], page.has_next) == ([4, 5], False)
    page = await driven.units.results(process, newest_first=True, after=4, before=1)
    assert [done.place.slot for done in page.done] == [3, 2]


async def test_dry_runs_change_nothing_and_get_no_model(driven: Driven) -> None:
    process = await driven.program(COUNTER + " Handlers.add('L', function() Llama.load('x') end)")
    for _ in range(2):
        assert (await driven.units.dry_run(process, message(process, "Step"))).messages[0].data == b"1"
    assert "dry run" in str((await driven.units.dry_run(process, message(process, "L"))).error)
    assert await driven.eval(process, "N") == "0"


async def test_what_is_published(driven: Driven) -> None:
    process = await driven.program("Send({ device = 'patch@1.0', Info = { Names = { 'a', 'b' } }, n = 1 })")
    await driven.eval(process, "Send({ device = 'patch@1.0', info = { more = true } })")
    assert await driven.units.published(process, ["INFO", "names", "2"]) == b"b"
    assert await driven.units.published(process, ["info", "more"]) is True
    for path in (["nothing"], ["Info", "Names", "3"], ["n", "x"]):
        with pytest.raises(NotFound):
            await driven.units.published(process, path)


async def test_what_is_not_there(driven: Driven) -> None:
    process = await driven.program()
    for wanted in (
        driven.units.send(message("x" * 43)),
        driven.units.info("x"),
        driven.units.result(process, 7),
        driven.units.result(process, "x"),
        driven.units.assign(process, "x"),
        driven.units.results("x"),
    ):
        with pytest.raises(NotFound):
            await wanted
    place = await driven.units.spawn(message("", Module="m", On_Boot="y" * 43))
    assert "not stored here" in str((await driven.done(place)).result.error)


async def test_messages_are_assigned_to_others(driven: Driven) -> None:
    first = await driven.program()
    takes = "ao.addAssignable({ Action = 'News' }) Handlers.add('News', function(m) print(m.Data) end)"
    second = await driven.program(takes)
    news = message(first, "News", "hear")
    await driven.done(await driven.units.send(news))
    assert (await driven.done(await driven.units.assign(second, news.id))).result.output == b"hear"


async def test_an_assigned_message_is_from_whoever_sent_it(driven: Driven) -> None:
    """And not from the node, which signs what processes send."""
    tells = "ao.addAssignable({ Action = 'News' }) Handlers.add('News', function(m) print(m.From) end)"
    reader, first = await driven.program(tells), await driven.program()
    await driven.eval(first, "Send({ Target = ao.id, Action = 'News' })")
    news = (await driven.heard(first, 2)).place.message
    assert (await driven.done(await driven.units.assign(reader, news))).result.output.decode() == first
    other = await driven.program(tells)
    await driven.eval(first, f"Assign({{ Processes = {{ '{other}' }}, Message = '{news}' }})")
    assert (await driven.heard(other, 1)).result.output.decode() == first


async def test_what_is_stored_for_nobody_is_no_message_of_its_signer(tmp_path: Path) -> None:
    class Stored:
        async def get(self, id: str) -> Incoming | None:
            return Incoming(id, OWNER, "", b"Taken = true", ((b"Action", b"Eval"), (b"From-Process", b"x")))

    async with opened(tmp_path, items=Stored()) as driven:
        process = await driven.program()
        done = await driven.done(await driven.units.assign(process, "i" * 43))
        assert b"not trusted" in done.result.output
        assert await driven.eval(process, "return tostring(Taken)") == "nil"


async def test_all_is_back_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path, Shelf()) as driven:
        process = await driven.program(COUNTER, Cron_Interval="1-hour", Cron_Tag_Action="Tick")
        await driven.units.monitor(process, True, OWNER)
        place = await driven.units.send(message(process, "Step"))
        await driven.send(process, "Unknown", "kept")
        before = await driven.done(place)
    async with opened(tmp_path, Shelf()) as driven:
        assert await driven.done(place) == before
        assert await driven.eval(process, "N .. Inbox[1].Data .. #Handlers.list") == "1kept3"
        assert (await driven.units.info(process)).is_monitored
        assert (await driven.send(process, "Step")).result.messages[0].data == b"2"


async def test_more_processes_than_cages_keep_their_states(tmp_path: Path) -> None:
    async with opened(tmp_path, n_cages=2) as driven:
        processes = [await driven.program(COUNTER) for _ in range(6)]
        for _ in range(2):
            done = await asyncio.gather(*(driven.send(process, "Step") for process in processes))
        assert [each.result.messages[0].data for each in done] == [b"2"] * 6
        assert driven.units.n_running <= 2


async def test_hostile_programs_end_and_others_go_on(tmp_path: Path) -> None:
    async with opened(tmp_path, limits=Limits(10**6, 1.0)) as driven:
        hostile, other = await driven.program(), await driven.program(COUNTER)
        place = await driven.units.send(message(hostile, "Eval", "while true do pcall(error) end"))
        assert (await driven.send(other, "Step")).result.messages[0].data == b"1"
        assert (await driven.done(place)).result.error == "instruction limit reached"
        assert await driven.eval(hostile, "1") == "1"
        assert (await driven.send(other, "Step")).result.messages[0].data == b"2"


async def test_what_programs_send_each_other_for_ever_ends(tmp_path: Path) -> None:
    async with opened(tmp_path) as driven:
        twice = "Handlers.add('Go', function(m) for i = 1, 2 do Send({ Target = ao.id, Action = 'Go' }) end end)"
        endless = await driven.program(twice)
        first = message(endless, "Go")
        await driven.units._journal.write(  # as the last but 30 of a client's
            lambda connection: messages.deliver(connection, endless, first, OWNER, 1, 30)
        )
        await driven.eval(endless, "1")
        last = 2 + (2 + 4 + 8 + 16)  # slots: its making, `first`, the Eval, and the generations that 30 allow
        done = await driven.heard(endless, last)
        assert b"not sent" not in (await driven.heard(endless, 1)).result.output
        assert b"not sent" in done.result.output
        assert await driven.units.current_slot(endless) == last


async def test_what_programs_send_each_other_is_bounded_by_its_bytes_too(tmp_path: Path) -> None:
    async with opened(tmp_path) as driven:
        large = "Handlers.add('Go', function(m) Send({ Target = ao.id, Action = 'Go', Data = ('x'):rep(2 << 20) }) end)"
        endless = await driven.program(large)
        first = message(endless, "Go")
        await driven.units._journal.write(  # as the last but 100 of a client's, of which each takes 33
            lambda connection: messages.deliver(connection, endless, first, OWNER, 1, 100)
        )
        await driven.eval(endless, "1")
        assert b"not sent" not in (await driven.heard(endless, 4)).result.output
        assert b"not sent" in (await driven.heard(endless, 5)).result.output


async def test_a_full_node_takes_nothing_more_and_keeps_what_it_has(tmp_path: Path) -> None:
    grows = "Handlers.add('Go', function(m) Send({ Target = ao.id, Action = 'Go', Data = ('x'):rep(60000) }) end)"
    async with opened(tmp_path, most_bytes=8 << 20) as driven:
        program = await driven.program(grows)
        await driven.send(program, "Go")

        async def full() -> bool | None:
            page = await driven.units.results(program, newest_first=True)
            return any(b"may store no more" in done.result.output for done in page.done) or None

        assert await until_so(full)
        for refused in (message(program, "Go"), message("", Module="m")):
            with pytest.raises(StorageFull, match="ao-storage"):
                await (driven.units.send(refused) if refused.target else driven.units.spawn(refused))
        assert (await driven.units.dry_run(program, message(program, "Eval", "1"))).error is None
    async with opened(tmp_path) as driven:
        assert await driven.eval(program, "2") == "2"


async def test_timers(driven: Driven) -> None:
    process = await driven.program(
        "T = 0 Handlers.add('Tick', function() T = T + 1 end)", Cron_Interval="1-second", Cron_Tag_Action="Tick"
    )
    with pytest.raises(AccessDenied):
        await driven.units.monitor(process, True, "somebody")
    await driven.units.monitor(process, True, OWNER)
    await driven.heard(process, 2)
    await driven.units.monitor(process, False, OWNER)
    assert int(await driven.eval(process, "T")) >= 2
    with pytest.raises(BadRequest, match="Cron-Interval"):
        await driven.units.monitor(await driven.program(), True, OWNER)


@pytest.mark.parametrize(
    ("text", "ms"), [("5-minutes", 300_000), ("1-hour", 3_600_000), ("1-Day", 86_400_000), ("10-seconds", 10_000)]
)
def test_intervals(text: str, ms: int) -> None:
    assert interval_ms(text) == ms


@pytest.mark.parametrize("text", [None, "", "5", "minutes", "0-minutes", "-1-minute", "5-fortnights", "5 minutes"])
def test_what_is_no_interval(text: str | None) -> None:
    with pytest.raises(BadRequest, match="such as 5-minutes"):
        interval_ms(text)


async def test_a_model_is_kept_with_its_process_and_paid_by_it(tmp_path: Path) -> None:
    shelf = Shelf()
    async with opened(tmp_path, shelf) as driven:
        process = await driven.program()
        begin = f"Llama.load('/data/{MODEL}') Llama.setPrompt('ka') Llama.saveState()"
        assert await driven.eval(process, f"{begin} return Llama.run(3)") == "bcd"
        assert await driven.eval(process, "Llama.next()") == "e"
        long = await driven.send(process, "Eval", "for i = 1, 9 do Llama.setPrompt(('x'):rep(500)) end")
        assert "may read and say" in str(long.result.error)
        used = await driven.units.used(process)
        assert used.instructions == 400
    async with opened(tmp_path, Shelf()) as driven:
        assert await driven.eval(process, "Llama.loadState() return Llama.next() .. Llama.next()") == "bc"
        assert await driven.eval(process, "Llama.add('wx') return Llama.run(9) .. '.' .. Llama.next() .. '.'") == "y.."
        assert await driven.eval(process, "Llama.endOfText = false return Llama.next()") == "nil"
        for code, told in {
            "Llama.load('other')": "no model other",
            "Llama.setPrompt(('x'):rep(3000))": "do not fit",
            "Llama.run(-1)": "not negative",
            "Llama.run('x')": "whole number",
            "Llama.stop() Llama.next()": "no model is loaded",
        }.items():
            assert told in str((await driven.send(process, "Eval", code)).result.error), code


async def test_a_message_that_the_model_could_not_finish_is_run_again_after_a_restart(tmp_path: Path) -> None:
    shelf = Shelf()
    async with opened(tmp_path, shelf) as driven:
        process = await driven.program(f"Llama.load('{MODEL}') Llama.setPrompt('a') N = 0")
        shelf.model.is_stopped = True
        place = await driven.units.send(message(process, "Eval", "N = N + 1 return Llama.next() .. N"))
        assert await driven.units.result(process, place.slot) is None
    async with opened(tmp_path, Shelf()) as driven:
        assert (await driven.done(place)).result.output == b"b1"
        assert await driven.eval(process, "N .. Llama.next()") == "1c"


async def test_messages_are_found_by_their_ids(driven: Driven) -> None:
    other = await driven.program()
    process = await driven.program()
    sent = await driven.send(process, "Eval", f"Send({{ Target = '{other}', Action = 'Hello' }})")
    heard = await driven.heard(other, 1)
    found = await driven.units.message(heard.place.message)
    assert found is not None
    assert (found.owner, tags(found)["From-Process"], found.anchor) == (NODE, process, sent.result.messages[0].anchor)
