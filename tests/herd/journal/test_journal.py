"""Jobs, chats, control log and leaders, the same on both databases."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools

import pytest
from sqlalchemy import Connection, select, update

from canister.api.herd_wire import Saved
from canister.errors import BadRequest, Conflict, InsufficientBalance, LeadershipLost, StoreDamaged
from canister.herd.journal import OPERATOR, Answer, Balance, Journal, SettleOutcome, Supply
from canister.herd.journal.chats import MERGED
from canister.herd.journal.databases import connect_to
from canister.herd.journal.forgetting import DELETED
from canister.herd.journal.tables import chat, chat_record
from canister.metering.fees import INITIAL_CYCLES
from tests.herd.journal.parts import CALLER, CANISTER, CHARGE, OK, Talk, job_id, new_job, path_of, settled

pytestmark = pytest.mark.anyio

REFUSED = Answer(None, 2, "no worker could run it", "IC0202", 503)


async def leading(journal: Journal) -> int:
    epoch = await journal.lead("test", "http://127.0.0.1:1")
    assert epoch is not None
    return epoch


# -- one job


async def test_a_job_is_accepted_assigned_settled_and_found(journal: Journal) -> None:
    epoch = await leading(journal)
    accepted = await journal.accept(new_job(1, chats=("a", "b"), multiplier=1.25, due_ns=5, kept_until_ns=9))
    assert accepted.is_new
    assert await journal.find(job_id(1)) == accepted.job
    assert [row.id for row in await journal.waiting()] == [job_id(1)]
    assert await journal.assign(job_id(1), "w1", 7, epoch)
    running = await journal.find(job_id(1))
    assert running is not None
    assert (running.state, running.worker, running.fence, running.tries) == ("running", "w1", 7, 1)
    assert (running.chats, running.multiplier, running.due_ns, running.kept_until_ns) == (("a", "b"), 1.25, 5, 9)
    outcome = await journal.settle(settled(1, epoch=epoch, fence=7))
    assert (outcome.outcome, outcome.answer) == ("done", OK)
    done = await journal.find(job_id(1))
    assert done is not None
    assert (done.state, done.answer, done.ended_ns) == ("done", OK, 2)
    assert await journal.waiting() == []
    assert await journal.find(job_id(2)) is None


async def test_a_known_job_is_told_and_not_accepted_again(journal: Journal) -> None:
    epoch = await leading(journal)
    first, second = await asyncio.gather(journal.accept(new_job(1)), journal.accept(new_job(1)))
    assert sorted([first.is_new, second.is_new]) == [False, True]
    assert first.job == second.job
    await journal.assign(job_id(1), "w1", 1, epoch)
    await journal.settle(settled(1, epoch=epoch, fence=1))
    known = await journal.accept(new_job(1))
    assert (known.is_new, known.job.answer) == (False, OK)
    with pytest.raises(Conflict, match="idempotency key"):
        await journal.accept(new_job(1, arg=b"other"))


async def test_a_job_that_was_not_accepted_is_inserted_when_it_ends(journal: Journal) -> None:
    epoch = await leading(journal)
    ended = settled(1, epoch=epoch, fence=1, new=new_job(1))
    assert (await journal.settle(ended)).outcome == "done"
    again = await journal.settle(dataclasses.replace(ended, answer=REFUSED))
    assert (again.outcome, again.answer) == ("known", OK)
    found = await journal.find(job_id(1))
    assert found is not None
    assert (found.state, found.answer, found.made_ns, found.worker) == ("done", OK, 1, "w1")
    with pytest.raises(BadRequest, match="accepted before"):
        await journal.settle(settled(2, epoch=epoch, fence=1, new=new_job(2, hold=1, payer="p")))


async def test_a_reject_is_an_answer_too(journal: Journal) -> None:
    epoch = await leading(journal)
    await journal.settle(settled(1, epoch=epoch, fence=1, new=new_job(1), answer=REFUSED, outcome="trap"))
    found = await journal.find(job_id(1))
    assert found is not None
    assert found.answer == REFUSED


# -- fences


async def test_a_stale_fence_settles_nothing(journal: Journal) -> None:
    epoch = await leading(journal)
    await journal.accept(new_job(1))
    assert await journal.assign(job_id(1), "w1", 1, epoch)
    assert await journal.requeue(job_id(1), 1, epoch, max_tries=2) == "queued"
    late = await journal.settle(settled(1, epoch=epoch, fence=1))
    assert (late.outcome, late.why) == ("stale", "fence")
    assert not await journal.assign(job_id(1), "w2", 1, epoch)
    assert await journal.assign(job_id(1), "w2", 2, epoch)
    assert not await journal.assign(job_id(1), "w3", 3, epoch)
    assert await journal.requeue(job_id(1), 1, epoch, max_tries=9) == "stale"
    late = await journal.settle(settled(1, epoch=epoch, fence=1))
    assert (late.outcome, late.why) == ("stale", "fence")
    assert (await journal.settle(settled(1, epoch=epoch, fence=2))).outcome == "done"
    assert (await journal.settle(settled(1, epoch=epoch, fence=1))).outcome == "known"
    unknown = await journal.settle(settled(3, epoch=epoch, fence=1))
    assert (unknown.outcome, unknown.why) == ("stale", "fence")


async def test_an_assignment_need_not_be_waited_for(journal: Journal) -> None:
    epoch = await leading(journal)
    await journal.accept(new_job(1))
    assert (await journal.settle(settled(1, epoch=epoch, fence=5))).outcome == "done"


async def test_an_old_epoch_changes_nothing(journal: Journal, journal_url: str) -> None:
    old = await leading(journal)
    await journal.accept(new_job(1))
    assert await journal.assign(job_id(1), "w1", 1, old)
    await journal.resign()
    other = await Journal.open(journal_url)
    try:
        new = await other.lead("other", "http://127.0.0.1:2")
        assert new == old + 1
        assert not await journal.renew(old)
        late = await journal.settle(settled(1, epoch=old, fence=1))
        assert (late.outcome, late.why) == ("stale", "epoch")
        assert await journal.requeue(job_id(1), 1, old, max_tries=2) == "stale"
        assert not await journal.refuse(job_id(1), old, REFUSED)
        assert not await journal.assign(job_id(1), "w1", 9, old)
        with pytest.raises(LeadershipLost):
            await journal.append_control(old, CANISTER, CALLER, "set_access", b"", 1)
        with pytest.raises(LeadershipLost):
            await journal.accept(new_job(2), epoch=old)
        assert (await other.accept(new_job(2), epoch=new)).is_new
        assert not (await journal.accept(new_job(2), epoch=old)).is_new
        assert (await other.settle(settled(1, epoch=new, fence=1))).outcome == "done"
    finally:
        await other.close()


async def test_one_leads_until_it_is_gone(journal: Journal, journal_url: str) -> None:
    assert await journal.leader() is None
    epoch = await leading(journal)
    leader = await journal.leader()
    assert leader is not None
    assert (leader.holder, leader.address, leader.epoch) == ("test", "http://127.0.0.1:1", epoch)
    assert await journal.renew(epoch)
    assert await leading(journal) == epoch + 1  # the same process may begin anew
    other = await Journal.open(journal_url)
    try:
        assert await other.lead("other", "http://127.0.0.1:2") is None
        assert not await other.renew(epoch + 1)
        await journal.close()
        assert await other.lead("other", "http://127.0.0.1:2") == epoch + 2
    finally:
        await other.close()


# -- tries


async def test_a_job_that_kills_its_workers_is_refused_and_refunded(journal: Journal) -> None:
    epoch = await leading(journal)
    await journal.mint("payer", 100)
    await journal.accept(new_job(1, hold=12, payer="payer"))
    assert await journal.assign(job_id(1), "w1", 1, epoch)
    assert await journal.requeue(job_id(1), 1, epoch, max_tries=2) == "queued"
    assert await journal.assign(job_id(1), "w2", 2, epoch)
    assert await journal.balance("payer") == Balance(88, 12)
    assert await journal.requeue(job_id(1), 2, epoch, max_tries=2) == "refused"
    assert await journal.balance("payer") == Balance(100, 0)
    found = await journal.find(job_id(1))
    assert found is not None
    assert found.state == "refused"
    assert found.answer is not None
    assert (found.answer.reply, found.answer.reject_code, found.answer.http_status) == (None, 2, 503)
    assert await journal.requeue(job_id(1), 2, epoch, max_tries=2) == "stale"


async def test_of_a_job_that_is_forgotten_nothing_is_left_but_that_it_was_deleted(journal: Journal) -> None:
    epoch = await leading(journal)
    await journal.accept(new_job(1))
    assert not await journal.forget(job_id(1), epoch)  # it has not ended
    await journal.settle(settled(1, epoch=epoch, fence=1))
    assert not await journal.forget(job_id(1), epoch - 1)
    assert not await journal.forget(job_id(2), epoch)
    assert await journal.forget(job_id(1), epoch)
    found = await journal.find(job_id(1))
    assert found is not None
    assert found.answer is not None
    assert (found.state, found.arg, found.answer.reply, found.answer.http_status) == ("done", b"", None, DELETED)


async def test_a_job_that_is_given_up_is_refunded_once(journal: Journal) -> None:
    epoch = await leading(journal)
    await journal.mint("payer", 100)
    await journal.accept(new_job(1, hold=12, payer="payer"))
    done = await asyncio.gather(*(journal.refuse(job_id(1), epoch, REFUSED) for _ in range(3)))
    assert sorted(done) == [False, False, True]
    assert await journal.balance("payer") == Balance(100, 0)
    late = await journal.settle(settled(1, epoch=epoch, fence=1))
    assert (late.outcome, late.answer) == ("known", REFUSED)


# -- chats


async def test_chats_go_on_from_their_head_alone(journal: Journal) -> None:
    epoch = await leading(journal)
    talk = Talk(path_of("a"))
    first = talk.change([1, 2, 3], marks=1)
    assert (await journal.settle(settled(1, epoch=epoch, fence=1, new=new_job(1), chats=(first,)))).outcome == "done"
    assert await journal.container(CANISTER, CALLER, talk.path) == (talk.head, talk.container())
    again = await journal.settle(settled(2, epoch=epoch, fence=2, new=new_job(2), chats=(first,)))
    assert (again.outcome, again.why, again.path) == ("stale", "head", talk.path)
    assert await journal.find(job_id(2)) is None
    second = talk.change([4, 5], keep=2, marks=2)
    assert (await journal.settle(settled(2, epoch=epoch, fence=2, new=new_job(2), chats=(second,)))).outcome == "done"
    assert talk.tokens == [1, 2, 4, 5]
    assert await journal.container(CANISTER, CALLER, talk.path) == (talk.head, talk.container())
    found = await journal.chat(CANISTER, CALLER, talk.path)
    assert found is not None
    assert (found.head, found.n_tokens, found.worker, found.stored_head) == (talk.head, 4, "w1", None)
    assert found.changed_ns == 2
    assert await journal.oldest_chats(CANISTER, 9) == [found]
    assert await journal.oldest_chats("other", 9) == []
    assert not await journal.stored(CANISTER, CALLER, talk.path, first.head)
    assert await journal.stored(CANISTER, CALLER, talk.path, talk.head)
    found = await journal.chat(CANISTER, CALLER, talk.path)
    assert found is not None
    assert found.stored_head == talk.head


async def test_a_chat_that_was_only_rolled_back_goes_on(journal: Journal, journal_url: str) -> None:
    """A prompt that the chat begins with takes the rest away and adds nothing."""
    epoch = await leading(journal)
    talk = Talk(path_of("a"))
    steps: list[tuple[list[int], int | None]] = [
        *[([1, 2, 3], None), ([4, 5], None), ([], 3), ([6], None), ([], 2)],
        *[([], 1), ([], None), ([7, 8], None), ([], 0), ([9], 0)],
    ]
    for number, (tokens, keep) in enumerate(steps):
        change = talk.change(tokens, keep=keep, marks=number)
        step = settled(number, epoch=epoch, fence=1, new=new_job(number), chats=(change,))
        assert (await journal.settle(step)).outcome == "done"
        other = await Journal.open(journal_url)
        assert await other.container(CANISTER, CALLER, talk.path) == (talk.head, talk.container())
        await other.close()


async def test_a_chat_is_removed_and_begins_anew(journal: Journal) -> None:
    epoch = await leading(journal)
    talk = Talk(path_of("a"))
    for number, change in enumerate([talk.change([1, 2]), talk.remove(), talk.change([3])]):
        done = await journal.settle(settled(number, epoch=epoch, fence=1, new=new_job(number), chats=(change,)))
        assert done.outcome == "done"
        head = change.head
        assert ((await journal.container(CANISTER, CALLER, talk.path)) or (b"",))[0] == head
    assert await journal.container(CANISTER, CALLER, talk.path) == (talk.head, talk.container())


async def test_a_change_that_is_not_what_it_says_is_refused(journal: Journal) -> None:
    epoch = await leading(journal)
    talk = Talk(path_of("a"))
    good = talk.change([1, 2, 3])
    for bad in (
        dataclasses.replace(good, head=bytes(16)),
        dataclasses.replace(good, keep=1),
        dataclasses.replace(good, container=good.container[:-3]),
        dataclasses.replace(good, container=b"nonsense"),
    ):
        done = await journal.settle(settled(1, epoch=epoch, fence=1, new=new_job(1), chats=(bad,)))
        assert (done.outcome, done.why, done.path) == ("stale", "chat", talk.path)
    twice = await journal.settle(settled(1, epoch=epoch, fence=1, new=new_job(1), chats=(good, good)))
    assert (twice.outcome, twice.why) == ("stale", "chat")
    assert await journal.find(job_id(1)) is None
    assert await journal.oldest_chats(CANISTER, 9) == []


async def test_one_stale_job_does_not_spoil_the_others(journal: Journal) -> None:
    epoch = await leading(journal)
    talks = [Talk(path_of(f"c{n}")) for n in range(6)]
    steps = []
    for n, talk in enumerate(talks):
        change = talk.change([n, n + 1])
        if n % 2:
            change = dataclasses.replace(change, head_before=bytes(16))
        steps.append(settled(n, epoch=epoch, fence=1, new=new_job(n), chats=(change,)))
    outcomes = await asyncio.gather(*map(journal.settle, steps))
    assert [outcome.outcome for outcome in outcomes] == ["done", "stale"] * 3
    assert [one.path for one in await journal.oldest_chats(CANISTER, 99)] == [talk.path for talk in talks[::2]]


async def test_calls_of_one_chat_may_be_settled_together(journal: Journal) -> None:
    epoch = await leading(journal)
    talk = Talk(path_of("a"))
    steps = [
        settled(n, epoch=epoch, fence=1, new=new_job(n), chats=(talk.change([n] * 3, marks=n),)) for n in range(40)
    ]
    outcomes = await asyncio.gather(*map(journal.settle, steps))
    assert {outcome.outcome for outcome in outcomes} == {"done"}
    assert await journal.container(CANISTER, CALLER, talk.path) == (talk.head, talk.container())


async def test_the_records_of_a_long_chat_stay_few(journal: Journal) -> None:
    """And are not written anew with each call: most stay where they are, for many calls."""
    epoch = await leading(journal)
    talk = Talk(path_of("a"))
    seen: list[set[tuple[int, int]]] = []
    for n in range(400):
        step = settled(n, epoch=epoch, fence=1, new=new_job(n), chats=(talk.change([n] * 3),))
        assert (await journal.settle(step)).outcome == "done"
        seen.append(await journal._read(records_of))
    assert max(map(len, seen)) <= 3 * MERGED
    n_written = sum(n for before, after in itertools.pairwise(seen) for _, n in after - before)
    assert n_written <= 4 * len(talk.tokens)


def records_of(connection: Connection) -> set[tuple[int, int]]:
    """Of the only chat: first and number of tokens of each."""
    return {
        (row.first, row.n_tokens) for row in connection.execute(select(chat_record.c.first, chat_record.c.n_tokens))
    }


async def test_a_long_chat_is_read_by_who_has_not_seen_it(journal: Journal, journal_url: str) -> None:
    """With records that were merged, cut and merged again."""
    epoch = await leading(journal)
    talk = Talk(path_of("a"))
    for n in range(150):
        keep = len(talk.tokens) - 5 if n % 7 == 6 else 10 if n == 100 else None
        change = talk.change([n] * (1 + n % 3), keep=keep, marks=n)
        assert (
            await journal.settle(settled(n, epoch=epoch, fence=1, new=new_job(n), chats=(change,)))
        ).outcome == "done"
        if n % 10 == 9:
            other = await Journal.open(journal_url)
            assert await other.container(CANISTER, CALLER, talk.path) == (talk.head, talk.container())
            await other.close()


@pytest.mark.parametrize(("column", "value"), [("tokens", bytes(12)), ("marks", b""), ("tokens", b"1")])
async def test_a_chat_that_is_damaged_in_the_database_is_told_and_spoils_no_other(
    journal: Journal, journal_url: str, column: str, value: bytes
) -> None:
    epoch = await leading(journal)
    bad, good = Talk(path_of("bad")), Talk(path_of("good"))
    for n, talk in enumerate((bad, good)):
        await journal.settle(settled(n, epoch=epoch, fence=1, new=new_job(n), chats=(talk.change([1, 2, 3]),)))
    await journal.close()
    pair = connect_to(journal_url)
    with pair.writers.begin() as connection:
        of_bad = select(chat.c.id).where(chat.c.path == bad.path).scalar_subquery()
        connection.execute(update(chat_record).where(chat_record.c.chat == of_bad).values({column: value}))
    pair.dispose()
    again = await Journal.open(journal_url)
    epoch = await leading(again)
    with pytest.raises(StoreDamaged, match="start the chat anew"):
        await again.container(CANISTER, CALLER, bad.path)
    steps = [
        settled(10 + n, epoch=epoch, fence=1, new=new_job(10 + n), chats=(talk.change([4]),))
        for n, talk in enumerate((bad, good))
    ]
    told, outcome = await asyncio.gather(*map(again.settle, steps), return_exceptions=True)
    assert isinstance(told, StoreDamaged)
    assert isinstance(outcome, SettleOutcome)
    assert outcome.outcome == "done"
    bad.undo()
    removed = await again.settle(settled(20, epoch=epoch, fence=1, new=new_job(20), chats=(bad.remove(),)))
    assert removed.outcome == "done"
    await again.close()


# -- what callers see of a canister


async def test_calls_are_charged_and_logged_with_their_jobs(journal: Journal) -> None:
    epoch = await leading(journal)
    assert await journal.cycles(CANISTER) is None
    assert await journal.found(CANISTER) == INITIAL_CYCLES
    assert await journal.found(CANISTER, 5) == INITIAL_CYCLES
    for n in range(3):
        await journal.settle(settled(n, epoch=epoch, fence=1, new=new_job(n)))
    await journal.settle(settled(0, epoch=epoch, fence=1))
    await journal.log(CANISTER, "aaaaa-aa", "set_access", 9, "err", CHARGE)
    await journal.log(CANISTER, "aaaaa-aa", "deposit_cycles", 10, cycles_added=100)
    assert await journal.cycles(CANISTER) == INITIAL_CYCLES - 4 * CHARGE.cycles + 100
    logged = await journal.call_log(CANISTER, None, None, 10)
    assert [(call.caller, call.method, call.outcome) for call in logged] == [
        ("aaaaa-aa", "set_access", "err"),
        *[(CALLER, "run_update", "ok")] * 3,
    ]
    assert all(dataclasses.asdict(call.charge) == dataclasses.asdict(CHARGE) for call in logged)
    assert await journal.call_log(CANISTER, CALLER, logged[1].id, 1) == [logged[2]]
    assert await journal.call_log("other", None, None, 10) == []


async def test_the_chats_of_a_caller_come_by_pages(journal: Journal) -> None:
    epoch = await leading(journal)
    talks = [Talk(path_of(f"c{n}")) for n in range(5)]
    for n, talk in enumerate(talks):
        step = settled(n, epoch=epoch, fence=1, new=new_job(n), chats=(talk.change([n]),))
        assert (await journal.settle(step)).outcome == "done"
    found: list[str] = []
    before = None
    for n_there in (2, 2, 1, 0):
        page, n_all = await journal.newest_chats(CANISTER, CALLER, before, 2)
        assert (len(page), n_all) == (n_there, 5)
        found += [chat.path for _, chat in page]
        if page:
            before = page[-1][1].changed_ns, page[-1][0]
    assert found == [talk.path for talk in reversed(talks)]
    assert await journal.newest_chats(CANISTER, "aaaaa-aa", None, None) == ([], 0)


async def test_the_newest_chats_of_a_caller_are_saved(journal: Journal) -> None:
    epoch = await leading(journal)
    hour = 3600 * 10**9
    for n in range(5):
        saved = Saved(True, f"chat {n}")
        step = settled(n, epoch=epoch, fence=1, new=new_job(n), saved=saved, ended_ns=n * hour)
        await journal.settle(step)
    step = settled(5, epoch=epoch, fence=1, new=new_job(5), saved=Saved(False, "chat 4, longer"), ended_ns=9 * hour)
    await journal.settle(step)
    found = [(saved.timestamp, saved.chat) for saved in await journal.saved_chats(CANISTER, CALLER)]
    assert found == [
        ("1970-01-01_04-00-00", "chat 4, longer"),
        ("1970-01-01_03-00-00", "chat 3"),
        ("1970-01-01_02-00-00", "chat 2"),
    ]
    await journal.log(CANISTER, "aaaaa-aa", "run_update", hour, saved=Saved(False, "begun by its text"))
    assert [saved.chat for saved in await journal.saved_chats(CANISTER, "aaaaa-aa")] == ["begun by its text"]


async def test_the_control_log_has_no_gaps(journal: Journal) -> None:
    epoch = await leading(journal)
    assert await journal.control_rev(CANISTER) == 0
    revs = await asyncio.gather(
        *(journal.append_control(epoch, CANISTER, CALLER, "set_access", b"%d" % n, n) for n in range(10))
    )
    assert sorted(revs) == list(range(1, 11))
    assert await journal.append_control(epoch, "other", CALLER, "set_access", None, 1, object=bytes(32)) == 1
    found = await journal.control_since(CANISTER, 3)
    assert [(entry.rev, entry.arg) for entry in found] == [
        (rev, b"%d" % n) for rev, n in sorted(zip(revs, range(10), strict=True)) if rev > 3
    ]
    assert [entry.rev for entry in await journal.control_since(CANISTER, 3, 2)] == [4, 5]
    assert await journal.control_rev(CANISTER) == 10
    assert await journal.append_control(epoch, CANISTER, CALLER, "set_access", b"", 1, job=b"j" * 32) == 11
    made = await journal.control_of(CANISTER, b"j" * 32)
    assert made is not None
    assert (made.rev, made.method) == (11, "set_access")
    assert await journal.control_of("other", b"j" * 32) is None
    assert (await journal.control_since("other", 0))[0].object == bytes(32)
    with pytest.raises(BadRequest):
        await journal.append_control(epoch, CANISTER, CALLER, "set_access", None, 1)


async def test_what_need_not_be_kept_is_dropped(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("canister.herd.journal.canisters.KEPT_CALLS", 3)
    epoch = await leading(journal)
    for n in range(6):
        await journal.settle(settled(n, epoch=epoch, fence=1, new=new_job(n, kept_until_ns=n)))
    await journal.accept(new_job("waits"))
    assert await journal.purge(4) == 4
    assert [await journal.find(job_id(n)) is None for n in range(6)] == [True] * 4 + [False] * 2
    assert await journal.find(job_id("waits")) is not None
    assert len(await journal.call_log(CANISTER, None, None, 10)) == 3


# -- money


async def test_money_is_held_and_goes_to_the_operator(journal: Journal) -> None:
    epoch = await leading(journal)
    large = 10**50 + 1
    assert await journal.mint("payer", large, note="welcome")
    with pytest.raises(InsufficientBalance, match=f"payer has {large} units free"):
        await journal.accept(new_job(1, hold=large + 1, payer="payer"))
    assert await journal.find(job_id(1)) is None
    await journal.accept(new_job(1, hold=large - 1, payer="payer"))
    await journal.accept(new_job(1, hold=large - 1, payer="payer"))
    assert await journal.balance("payer") == Balance(1, large - 1)
    await journal.settle(settled(1, epoch=epoch, fence=1))
    await journal.settle(settled(1, epoch=epoch, fence=1))
    assert await journal.balances() == {OPERATOR: Balance(large - 1, 0), "payer": Balance(1, 0)}
    assert await journal.supply() == Supply(large, large, 0)
    found = await journal.payments()
    assert [(payment.kind, payment.source, payment.target, payment.amount) for payment in found] == [
        ("settle", "payer", OPERATOR, large - 1),
        ("hold", "payer", "payer", large - 1),
        ("mint", None, "payer", large),
    ]
    assert (found[0].job, found[2].note) == (job_id(1), "welcome")
    assert await journal.payments("payer", found[1].id, 1) == [found[2]]
    assert await journal.payments("nobody") == []


async def test_a_call_that_did_not_do_what_was_paid_for_is_refunded(journal: Journal) -> None:
    epoch = await leading(journal)
    await journal.mint("payer", 100)
    await journal.accept(new_job(1, hold=12, payer="payer"))
    await journal.settle(settled(1, epoch=epoch, fence=1, answer=REFUSED, is_refunded=True))
    assert await journal.balance("payer") == Balance(100, 0)
    assert [payment.kind for payment in await journal.payments()] == ["refund", "hold", "mint"]


async def test_money_is_moved_once_a_key(journal: Journal) -> None:
    assert await journal.balance("a") == Balance(0, 0)
    assert await journal.mint("a", 100, key=b"1")
    assert not await journal.mint("a", 100, key=b"1")
    with pytest.raises(Conflict, match="same key"):
        await journal.mint("a", 99, key=b"1")
    done = await asyncio.gather(*(journal.transfer("a", "b", 30, key=b"2") for _ in range(3)))
    assert sorted(done) == [False, False, True]
    assert await journal.transfer("a", "a", 70)
    with pytest.raises(InsufficientBalance, match="a has 70 units free, and 71 are needed"):
        await journal.transfer("a", "b", 71)
    with pytest.raises(InsufficientBalance):
        await journal.transfer("nobody", "b", 1)
    assert await journal.balances() == {"a": Balance(70, 0), "b": Balance(30, 0)}
    for amount in (0, -1, 10**60 + 1):
        with pytest.raises(BadRequest, match="an amount is from 1"):
            await journal.mint("a", amount)
    for name in ("", " ", "a\nb", "x" * 257):
        with pytest.raises(BadRequest, match="an account is named"):
            await journal.mint(name, 1)


async def test_of_what_is_spent_twice_at_once_one_goes_through(journal: Journal) -> None:
    await journal.mint("a", 100)
    done = await asyncio.gather(
        *(journal.accept(new_job(n, hold=60, payer="a")) for n in range(3)),
        journal.transfer("a", "b", 60),
        return_exceptions=True,
    )
    assert sum(isinstance(result, InsufficientBalance) for result in done) == 3
    balances = await journal.balances()
    assert sum(balance.free + balance.held for balance in balances.values()) == 100
    assert balances["a"].free == 40
