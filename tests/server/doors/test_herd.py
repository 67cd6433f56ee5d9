"""The private door of a worker, on a real socket: calls that run once, chats that come and go, and nothing unsigned."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from canister.api import codec, herd_requests, herd_wire
from canister.api.herd_frames import Body, Broken, FrameReader
from canister.api.herd_requests import AnswerTry, HerdKey
from canister.api.herd_wire import ChatAt, Conflict
from canister.api.methods import BY_NAME
from canister.store.container import CacheFile
from canister.store.heads import NO_CHAT, head_of, tokens_alone
from tests.server.doors.herd_leader import SECRET, Leader, Ran, WorkerClient
from tests.server.served import CHAT, Served, served
from tests.traces import until

pytestmark = pytest.mark.anyio

PROMPT = CHAT.format("Who are you?")
WARM = ("--temp", "0.9", "--seed", "7")
ENDLESS = ("-n", "-1", "--temp", "0.0", "--ignore-eos", "--context-shift")


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    folder = tmp_path_factory.mktemp("worker")
    secret = folder / "secret"
    secret.write_text(SECRET.hex())
    limits = {"instruction_limit": None, "query_instruction_limit": None}
    herd = {"herd_worker": "w1", "herd_generation": 1, "herd_secret_file": secret}
    async with served(folder, with_model=True, **limits, **herd) as found:
        yield found


@pytest.fixture
async def worker(server: Served) -> AsyncIterator[WorkerClient]:
    async with WorkerClient(server.url, HerdKey("w1", 1, SECRET)) as client:
        yield client


@pytest.fixture
def leader(server: Served) -> Leader:
    """Of the server's own identity, with an empty journal; each test names its own chats."""
    marks = server.host.default.herd.marks
    return Leader(server.host.identity.principal, epoch=max(1, marks.epoch), rev=marks.rev)


@pytest.fixture
async def rest(server: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with server.client() as client:
        yield client


def ran(answer: Ran | Conflict) -> Ran:
    assert isinstance(answer, Ran), answer
    return answer


def conflict(answer: Ran | Conflict) -> Conflict:
    assert isinstance(answer, Conflict), answer
    return answer


# -- a call


async def test_a_job_is_the_same_call_as_over_rest(
    leader: Leader, worker: WorkerClient, rest: httpx.AsyncClient, server: Served
) -> None:
    """Answer, costs, and the tokens in the cache."""
    prompt, n = PROMPT, 0
    while n < 3:
        args = ["-p", prompt, "--prompt-cache-all", *WARM]
        plain = await rest.post("/run_update", json={"args": [*args, "--prompt-cache", "plain"]})
        cycles = server.host.default.ledger.cycles
        job = leader.chat_job("herd", prompt, *WARM)
        done = (await leader.call(worker, job)).done
        assert done.reply is not None
        record = codec.decode_reply(BY_NAME["run_update"], done.reply).value
        assert json.loads(record.model_dump_json(by_alias=True)) == plain.json()["Ok"]
        assert done.charge is not None
        assert str(done.charge.instructions) == plain.headers["X-IC-Instructions"]
        # Their arguments differ by a letter, whose bytes are charged for.
        assert server.host.default.ledger.cycles == cycles - done.charge.cycles
        assert sum(done.charge.parts.values()) == done.charge.instructions
        assert done.charged
        assert not done.replayed
        n, prompt = n + bool(record.prompt_remaining == ""), "" if record.prompt_remaining == "" else prompt
    fetched = [await worker.get("llama_cpp", leader.caller, leader.path(name)) for name in ("plain", "herd")]
    assert fetched[0] is not None
    assert fetched[0] == fetched[1]
    assert fetched[0][1] == leader.head("herd")


async def test_texts_come_first(leader: Leader, worker: WorkerClient) -> None:
    quiet = await leader.call(worker, leader.chat_job("quiet", PROMPT, *WARM, "-n", "12"))
    while quiet.run.prompt_remaining:
        quiet = await leader.call(worker, leader.chat_job("quiet", PROMPT, *WARM, "-n", "12"))
    loud = await leader.call(worker, leader.chat_job("loud", PROMPT, *WARM, "-n", "12", stream=True))
    while loud.run.prompt_remaining:
        loud = await leader.call(worker, leader.chat_job("loud", PROMPT, *WARM, "-n", "12", stream=True))
    assert quiet.texts == []
    assert loud.run == quiet.run
    assert "".join(text.text for text in loud.texts) == loud.run.output
    assert leader.head("loud") == leader.head("quiet")


async def test_a_chat_without_a_seed_gets_the_leaders(leader: Leader, worker: WorkerClient) -> None:
    outputs = []
    for name, seed in (("a1", 5), ("a2", 5), ("a3", 6)):
        for _ in range(4):
            done = await leader.call(worker, leader.chat_job(name, "Hello", "--temp", "1.5", seed=seed, now_ns=10**18))
        outputs.append(done.run.conversation)
    assert outputs[0] == outputs[1] != outputs[2]
    assert leader.head("a1") == leader.head("a2")
    assert leader.chats[leader.path("a3")].header.seed == 6


async def test_a_job_that_comes_again_is_answered_from_the_record(leader: Leader, worker: WorkerClient) -> None:
    job = leader.chat_job("again", PROMPT, *WARM)
    first = await leader.call(worker, job)
    second = ran(await worker.run(job))
    assert second.done.replayed
    told = {"replayed": False, "chats": ()}
    assert dataclasses.replace(second.done, **told) == dataclasses.replace(first.done, **told)
    (change,) = second.done.chats
    assert (change.head_before, change.keep) == (NO_CHAT, 0)
    assert head_of(CacheFile.parse(change.container)) == change.head == leader.head("again")
    # Also when the leader who asks is an old one: it changes nothing.
    assert ran(await worker.run(dataclasses.replace(job, epoch=0))).done.replayed


async def test_a_job_that_the_journal_has_lost_is_run_anew(leader: Leader, worker: WorkerClient) -> None:
    """Others went on with its chat meanwhile, so that its record counts no more: nothing of theirs is undone by it."""
    await leader.call(worker, leader.chat_job("lost", PROMPT, *WARM))
    await leader.call(worker, leader.chat_job("lost", PROMPT, *WARM))
    before = leader.chats[leader.path("lost")]
    job = leader.chat_job("lost", "", *WARM, "-n", "3")
    lost = ran(await worker.run(job))  # and not settled

    # The same chat again: it is rolled back, and the job gives the same once more.
    await leader.bring(worker, leader.path("lost"))
    again = ran(await worker.run(job))
    assert (again.done.replayed, again.run, again.done.chats) == (False, lost.run, lost.done.chats)
    assert ran(await worker.run(job)).done.replayed

    # Another job has gone on from there, on this worker or on another one.
    await leader.call(worker, leader.chat_job("lost", "", *WARM, "-n", "2"))
    head = leader.head("lost")
    late = dataclasses.replace(job, chats=(ChatAt(leader.path("lost"), head),))
    found = await leader.call(worker, late)
    assert not found.done.replayed
    (change,) = found.done.chats
    assert (change.head_before, change.keep > len(before.tokens)) == (head, True)
    assert (await worker.get("llama_cpp", leader.caller, leader.path("lost")) or (b"", b""))[1] == leader.head("lost")


async def test_who_comes_while_it_runs_gets_all_of_it(leader: Leader, worker: WorkerClient) -> None:
    job = leader.chat_job("twice", PROMPT, *WARM, "-n", "12", stream=True)
    first, second = await asyncio.gather(worker.run(job), worker.run(job))
    assert ran(first).done.reply == ran(second).done.reply
    assert ran(first).texts == ran(second).texts or not ran(second).texts


async def test_what_a_call_was_not_allowed(leader: Leader, worker: WorkerClient) -> None:
    job = leader.chat_job("mine", PROMPT, caller="2vxsx-fae")
    done = ran(await worker.run(job)).done
    assert done.http_status == 401
    assert not done.chats
    answer = codec.decode_reply(BY_NAME["run_update"], done.reply or b"")
    assert answer.is_err
    assert answer.value.error == "Access Denied"
    assert ran(await worker.run(job)).done.replayed


async def test_a_call_that_fails_changes_no_chat(leader: Leader, worker: WorkerClient) -> None:
    await leader.call(worker, leader.chat_job("sound", PROMPT, *WARM))
    head = leader.head("sound")
    done = (await leader.call(worker, leader.chat_job("sound", PROMPT, "--no-such-flag"))).done
    assert done.http_status == 400
    assert not done.chats
    assert leader.head("sound") == head
    assert (await worker.get("llama_cpp", leader.caller, leader.path("sound")) or (b"", b""))[1] == head


async def test_a_method_that_is_not_there(leader: Leader, worker: WorkerClient) -> None:
    job = dataclasses.replace(leader.chat_job("x", PROMPT), method="run_updat")
    done = ran(await worker.run(job)).done
    assert (done.reply, done.error_code, done.charged) == (None, "IC0536", False)


async def test_queries_are_jobs_without_a_record(leader: Leader, worker: WorkerClient, server: Served) -> None:
    await leader.call(worker, leader.chat_job("asked", PROMPT, *WARM))
    job = leader.chat_job("asked", "", *WARM, "-n", "4", method="run_query", stream=True)
    first, second = ran(await worker.run(job)), ran(await worker.run(job))
    assert first.value("run_query") == second.value("run_query")
    assert "".join(text.text for text in first.texts) == first.value("run_query").output
    assert (first.done.chats, first.done.charged, second.done.replayed) == ((), False, False)
    assert server.host.default.ingress.find(job.job) is None
    estimate = leader.job("estimate_run", {"args": ["--prompt-cache", "asked", "-p", ""]}, "asked")
    assert ran(await worker.run(estimate)).value("estimate_run").max_generate > 0
    moved = dataclasses.replace(job, chats=(ChatAt(leader.path("asked"), bytes(16)),))
    assert conflict(await worker.run(moved)).why == "head"


# -- what must not run here now


async def test_another_head(leader: Leader, worker: WorkerClient, server: Served) -> None:
    """The call leaves nothing, and runs under the same id once the chat is the right one."""
    await leader.call(worker, leader.chat_job("moved", PROMPT, *WARM))
    canister = server.host.default
    cycles, head = canister.ledger.cycles, leader.head("moved")
    job = leader.chat_job("moved", PROMPT, *WARM)
    told = conflict(await worker.run(dataclasses.replace(job, chats=(ChatAt(leader.path("moved"), bytes(16)),))))
    assert (told.why, told.path, told.head) == ("head", leader.path("moved"), head)
    told = conflict(await worker.run(dataclasses.replace(job, chats=(ChatAt(leader.path("moved"), NO_CHAT),))))
    assert told.head == head
    assert canister.ledger.cycles == cycles
    assert canister.ingress.find(job.job) is None
    assert not (await leader.call(worker, job)).done.replayed


async def test_an_older_leader(leader: Leader, worker: WorkerClient) -> None:
    older = leader.chat_job("epochs", PROMPT)
    leader.epoch += 1
    await leader.call(worker, leader.chat_job("epochs", PROMPT))
    told = conflict(await worker.run(older))
    assert (told.why, told.epoch) == ("epoch", leader.epoch)
    assert (await worker.state()).epoch == leader.epoch
    entry = herd_wire.Control(
        leader.rev + 1, leader.epoch - 1, "llama_cpp", leader.caller, "chats_pause", b"DIDL\0\0", time.time_ns()
    )
    assert conflict(await worker.control(entry)).why == "epoch"


async def test_the_control_log_is_run_in_order(leader: Leader, worker: WorkerClient, server: Served) -> None:
    limits = {"max_tokens_update": 9, "max_tokens_query": 9}
    early = leader.chat_job("late", PROMPT, rev=leader.rev + 1)
    told = conflict(await worker.run(early))
    assert (told.why, told.rev) == ("rev", leader.rev)

    first = await leader.control(worker, "set_max_tokens", limits)
    assert first.value("set_max_tokens").status_code == 200
    assert server.host.default.state.max_tokens_update == 9
    assert isinstance(await worker.run(early), Ran)

    # An entry that fails is run too, everywhere in the same way.
    refused = await leader.control(worker, "set_access", {"level": 7, "explanation": ""})
    assert refused.done.http_status == 400
    leader.caller, own = "2vxsx-fae", leader.caller
    denied = await leader.control(worker, "set_access", {"level": 1, "explanation": ""})
    assert denied.done.http_status == 401
    leader.caller = own
    (state,) = (await worker.state()).canisters
    assert state.rev == leader.rev

    # A gap is refused, what was run is answered again.
    gap = herd_wire.Control(
        leader.rev + 2, leader.epoch, "llama_cpp", leader.caller, "chats_pause", b"DIDL\0\0", time.time_ns()
    )
    told = conflict(await worker.control(gap))
    assert (told.why, told.rev) == ("rev", leader.rev)
    again = await leader.control(worker, "set_max_tokens", {**limits, "max_tokens_update": 1}, rev=leader.rev - 2)
    assert again.done.replayed
    assert again.done.reply == first.done.reply
    assert server.host.default.state.max_tokens_update == 9
    await leader.control(worker, "set_max_tokens", {"max_tokens_update": 10, "max_tokens_query": 10})


async def test_entries_that_no_worker_runs(leader: Leader, worker: WorkerClient, server: Served) -> None:
    """The log goes on behind them."""
    leader.rev += 1
    entry = herd_wire.Control(leader.rev, leader.epoch, "llama_cpp", leader.caller, "no_such", b"", time.time_ns())
    assert (
        ran(await worker.control(entry)).done.error_code == "IC0515"
    )  # of the management canister, which has its rows here
    canister = server.host.default
    canister.state = dataclasses.replace(canister.state, is_stopped=True)
    try:
        stopped = await leader.control(worker, "chats_pause")
    finally:
        canister.state = dataclasses.replace(canister.state, is_stopped=False)
    assert stopped.done.error_code == "IC0508"
    assert (await leader.control(worker, "chats_pause", rev=leader.rev)).done == dataclasses.replace(
        stopped.done, replayed=True
    )
    assert (await leader.control(worker, "chats_pause")).done.http_status == 200


async def test_entries_that_come_twice_at_once(leader: Leader, worker: WorkerClient) -> None:
    leader.rev += 1
    entry = herd_wire.Control(
        leader.rev, leader.epoch, "llama_cpp", leader.caller, "cycle_balance_stop_timer", b"DIDL\0\0", time.time_ns()
    )
    both = await asyncio.gather(worker.control(entry), worker.control(entry))
    assert ran(both[0]).done.reply == ran(both[1]).done.reply
    assert (await worker.state()).canisters[0].rev == leader.rev


async def test_the_deadline_of_a_job(leader: Leader, worker: WorkerClient, server: Served) -> None:
    await leader.control(worker, "set_max_tokens", {"max_tokens_update": 0, "max_tokens_query": 0})
    try:
        for method in ("run_update", "run_query"):
            job = leader.chat_job("endless", "hello", *ENDLESS, method=method, due_ms=300, stream=True)
            answer = ran(await worker.run(job))
            assert answer.done.error_code == "IC0202"
            assert (answer.done.chats, answer.done.charged) == ((), False)
            assert server.host.default.ingress.find(job.job) is None
            assert await worker.get("llama_cpp", leader.caller, leader.path("endless")) is None
    finally:
        await leader.control(worker, "set_max_tokens", {"max_tokens_update": 10, "max_tokens_query": 10})


@pytest.mark.parametrize("detached", [True, False])
async def test_a_leader_that_goes_away(detached: bool, leader: Leader, worker: WorkerClient, server: Served) -> None:
    canister = server.host.default
    name = f"left-{detached}"
    await leader.control(worker, "set_max_tokens", {"max_tokens_update": 0, "max_tokens_query": 0})
    try:
        n = "200" if detached else "-1"
        flags = ("-n", n, "--temp", "0.0", "--ignore-eos", "--context-shift")
        job = leader.chat_job(name, "hello", *flags, stream=True, detached=detached)
        body = herd_wire.encode(job)
        headers = worker.headers("POST", herd_requests.RUN, body)
        async with worker.http.stream("POST", herd_requests.RUN, content=body, headers=headers) as response:
            async for _ in response.aiter_raw():
                break
        await until(lambda: not canister.herd.jobs)
        known = canister.ingress.find(job.job)
        if detached:
            assert known is not None
            done = ran(await worker.run(job))
            assert done.done.replayed
            assert (done.run.n_tokens_generated or 0) > 190  # the last ones are sampled, and not decoded
            leader.settle(done.done)
        else:
            assert known is None
            assert await worker.get("llama_cpp", leader.caller, leader.path(name)) is None
    finally:
        await leader.control(worker, "set_max_tokens", {"max_tokens_update": 10, "max_tokens_query": 10})


# -- what a call does to chats


async def test_copies_uploads_and_removals_are_told(leader: Leader, worker: WorkerClient) -> None:
    await leader.call(worker, leader.chat_job("source", PROMPT, *WARM))
    copied = await leader.call(
        worker, leader.job("copy_prompt_cache", {"from": "source", "to": "copy"}, "source", "copy")
    )
    (change,) = copied.done.chats
    assert (change.path, change.keep) == (leader.path("copy"), 0)
    assert leader.head("copy") == leader.head("source")

    fetched = await worker.get("llama_cpp", leader.caller, leader.path("source"), rows=True)
    assert fetched is not None
    chunk = {"promptcache": "uploaded", "chunk": fetched[0], "chunksize": len(fetched[0]), "offset": 0}
    await leader.call(worker, leader.job("upload_prompt_cache_chunk", chunk, "uploaded"))
    assert leader.head("uploaded") == leader.head("source")
    again = await leader.call(worker, leader.chat_job("uploaded", "", *WARM))
    assert again.run == (await leader.call(worker, leader.chat_job("source", "", *WARM))).run
    assert leader.head("uploaded") == leader.head("source")

    chunk["chunk"] = b"no container"
    await leader.call(worker, leader.job("upload_prompt_cache_chunk", chunk, "uploaded"))
    assert leader.head("uploaded") == NO_CHAT

    removed = await leader.call(worker, leader.job("remove_prompt_cache", {"args": ["--prompt-cache", "copy"]}, "copy"))
    (change,) = removed.done.chats
    assert (change.head, change.container) == (NO_CHAT, b"")
    assert leader.head("copy") == NO_CHAT


async def test_only_what_is_new_of_a_chat_is_told(leader: Leader, worker: WorkerClient) -> None:
    for _ in range(4):
        await leader.call(worker, leader.chat_job("grows", PROMPT, *WARM))
    n = len(leader.chats[leader.path("grows")].tokens)
    grown = await leader.call(worker, leader.chat_job("grows", "", *WARM, "-n", "3"))
    (change,) = grown.done.chats
    assert change.keep == n
    assert len(CacheFile.parse(change.container).tokens) == len(leader.chats[leader.path("grows")].tokens) - n > 0


async def test_saved_chats_are_told(leader: Leader, worker: WorkerClient) -> None:
    await leader.control(worker, "chats_resume")
    begun = await leader.call(worker, leader.job("new_chat", {"args": ["--prompt-cache", "saved"]}, "saved"))
    assert begun.done.saved == herd_wire.Saved(started=True, chat=None)
    run = await leader.call(worker, leader.chat_job("saved", PROMPT, *WARM))
    assert run.done.saved == herd_wire.Saved(started=False, chat=run.run.conversation)
    assert ran(await worker.run(leader.chat_job("saved", PROMPT, method="run_query"))).done.saved is None
    await leader.control(worker, "chats_pause")
    assert (await leader.call(worker, leader.chat_job("saved", "", *WARM))).done.saved is None


# -- chats that come and go


async def test_a_chat_that_is_not_there(leader: Leader, worker: WorkerClient) -> None:
    assert await worker.get("llama_cpp", leader.caller, leader.path("nothing")) is None
    assert await worker.put("llama_cpp", leader.caller, leader.path("nothing"), b"") == NO_CHAT


@pytest.mark.parametrize("path", ["models/model.gguf", "../x", ".canister_cache/2vxsx-fae/sessions/of-another"])
async def test_paths_that_are_no_chats_of_the_caller(path: str, leader: Leader, worker: WorkerClient) -> None:
    for method in ("GET", "PUT"):
        response = await worker.send(method, herd_requests.chat_target("llama_cpp", leader.caller, path))
        assert response.status_code == 400, response.text


async def test_bodies_that_are_no_chats(leader: Leader, worker: WorkerClient) -> None:
    await leader.call(worker, leader.chat_job("whole", PROMPT, *WARM))
    fetched = await worker.get("llama_cpp", leader.caller, leader.path("whole"))
    assert fetched is not None
    for body in (b"no container", fetched[0][:-1], fetched[0] + b"x"):
        target = herd_requests.chat_target("llama_cpp", leader.caller, leader.path("whole"))
        assert (await worker.send("PUT", target, body)).status_code == 400
    assert (await worker.get("llama_cpp", leader.caller, leader.path("whole"))) == fetched


async def test_a_chat_that_is_not_the_one_that_was_promised(leader: Leader, worker: WorkerClient) -> None:
    await leader.call(worker, leader.chat_job("promised", PROMPT, *WARM))
    target = herd_requests.chat_target("llama_cpp", leader.caller, leader.path("promised"))
    fetched = await worker.get("llama_cpp", leader.caller, leader.path("promised"))
    assert fetched is not None
    right = {herd_requests.HEAD_HEADER: fetched[1].hex()}
    assert (await worker.send("PUT", target, fetched[0], **right)).status_code == 204
    for body, head in ((fetched[0], bytes(16).hex()), (fetched[0], ""), (b"", fetched[1].hex()), (fetched[0], "x")):
        response = await worker.send("PUT", target, body, **{herd_requests.HEAD_HEADER: head})
        assert response.status_code == 400, (head, response.text)
    assert (await worker.get("llama_cpp", leader.caller, leader.path("promised"))) == fetched


async def test_ahead_behind_and_beside(leader: Leader, worker: WorkerClient, server: Served) -> None:
    """A worker whose copy is another is brought to the journal's by PUT, and decodes nothing that it has had before."""
    engine = server.host.default.model.engine
    assert engine is not None
    for _ in range(4):
        await leader.call(worker, leader.chat_job("spec", PROMPT, *WARM))
    here = leader.chats[leader.path("spec")]
    straight = [(await leader.call(worker, leader.chat_job("spec", "", *WARM, "-n", "5"))).run.output for _ in range(2)]
    after, head = leader.chats[leader.path("spec")], leader.head("spec")

    # Ahead: what it ran counts nowhere, and the journal's state is put.
    leader.chats[leader.path("spec")] = here
    prefilled = engine.stats().n_prompt_tokens
    repeated = [(await leader.call(worker, leader.chat_job("spec", "", *WARM, "-n", "5"))).run.output for _ in range(2)]
    assert (repeated, leader.head("spec"), leader.n_moved) == (straight, head, 1)
    assert engine.stats().n_prompt_tokens <= prefilled + 1  # the last token, for its logits

    # Beside: another prompt was taken up from there.
    other = CHAT.format("Who are you?") + "I"
    await leader.call(worker, leader.chat_job("spec", other, *WARM, "-n", "3"))
    leader.chats[leader.path("spec")] = here
    again = [(await leader.call(worker, leader.chat_job("spec", "", *WARM, "-n", "5"))).run.output for _ in range(2)]
    assert (again, leader.head("spec")) == (straight, head)

    # Behind: it has only the beginning of what others have made of the chat.
    cut, _ = CacheFile.parse(tokens_alone(after)).extended(len(here.tokens) - 4, (), ())
    fetched = await worker.get("llama_cpp", leader.caller, leader.path("spec"), rows=True)
    assert fetched is not None
    leader.chats[leader.path("spec")] = cut
    await leader.bring(worker, leader.path("spec"))
    leader.chats[leader.path("spec")] = here
    again = [(await leader.call(worker, leader.chat_job("spec", "", *WARM, "-n", "5"))).run.output for _ in range(2)]
    assert (again, leader.head("spec")) == (straight, head)


# -- signatures


async def test_nothing_unsigned(leader: Leader, worker: WorkerClient, rest: httpx.AsyncClient) -> None:
    target = herd_requests.chat_target("llama_cpp", leader.caller, leader.path("x"))
    asked = [("POST", herd_requests.RUN), ("POST", herd_requests.CONTROL), ("GET", target), ("PUT", target)]
    for method, place in [*asked, ("GET", herd_requests.STATE), ("POST", herd_requests.DRAIN)]:
        response = await rest.request(method, place, content=b"x")  # the controller's key counts nothing here
        assert response.status_code == 403, (place, response.text)
        assert "signed by the herd" in response.json()["reject_message"]


@pytest.mark.parametrize(
    ("key", "told"),
    [
        (HerdKey("w2", 1, SECRET), "this is worker w1"),
        (HerdKey("w1", 2, SECRET), "this is generation 1"),
        (HerdKey("w1", 1, bytes(32)), "not signed with the secret"),
    ],
)
async def test_forged_signatures(key: HerdKey, told: str, server: Served) -> None:
    async with WorkerClient(server.url, key) as forger:
        response = await forger.send("GET", herd_requests.STATE)
    assert response.status_code == 403
    assert told in response.json()["reject_message"]


async def test_changed_and_repeated_requests(leader: Leader, worker: WorkerClient) -> None:
    body = herd_wire.encode(leader.chat_job("signed", PROMPT))
    headers = worker.headers("POST", herd_requests.RUN, body)
    changed = await worker.http.post(herd_requests.RUN, content=body[:-1] + b"\0", headers=headers)
    assert (changed.status_code, "the body is not" in changed.text) == (403, True)
    headers = worker.headers("POST", herd_requests.RUN, body)
    assert (await worker.http.post(herd_requests.RUN, content=body, headers=headers)).status_code == 200
    again = await worker.http.post(herd_requests.RUN, content=body, headers=headers)
    assert (again.status_code, "came before" in again.text) == (403, True)
    elsewhere = await worker.http.post(herd_requests.CONTROL, content=body, headers=headers)
    assert elsewhere.status_code == 403
    late = herd_requests.sign(worker.key, "GET", herd_requests.STATE, b"", now_ns=time.time_ns() - 61 * 10**9)
    response = await worker.http.get(herd_requests.STATE, headers={herd_requests.SIGNATURE_HEADER: late})
    assert (response.status_code, "clocks" in response.text) == (403, True)


@pytest.mark.parametrize("body", [b"", b"\xa0", b"\xff", b"[]"])
async def test_hostile_bodies(body: bytes, worker: WorkerClient) -> None:
    for target in (herd_requests.RUN, herd_requests.CONTROL):
        response = await worker.send("POST", target, body)
        assert response.status_code == 400, response.text
    for target in (f"{herd_requests.CHATS}?path=%FF", herd_requests.CHATS):
        assert (await worker.send("GET", target)).status_code == 400


async def test_other_verbs_and_paths(worker: WorkerClient) -> None:
    assert (await worker.send("GET", herd_requests.RUN)).status_code == 405
    assert (await worker.send("POST", "/herd/2/run")).status_code == 404


async def test_a_canister_that_is_not_there(leader: Leader, worker: WorkerClient) -> None:
    job = leader.chat_job("x", PROMPT, canister="llama_ccp")
    response = await worker.send("POST", herd_requests.RUN, herd_wire.encode(job))
    assert (response.status_code, "llama_cpp" in response.text) == (404, True)


async def test_the_herd_vouches_for_a_caller(worker: WorkerClient, server: Served, rest: httpx.AsyncClient) -> None:
    """Requests to other doors are those of the caller that the herd names."""
    someone = "2chl6-4hpzw-vqaaa-aaaaa-c"
    response = await worker.send("POST", "/whoami", b"{}", caller=someone)
    assert (response.status_code, response.json()) == (200, someone)
    body = json.dumps({"model": "llama_cpp", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}).encode()
    answered = await worker.send("POST", "/v1/chat/completions", body, caller=server.host.identity.principal)
    assert answered.status_code == 200, answered.text
    for headers in (
        {herd_requests.CALLER_HEADER: someone},
        worker.headers("POST", "/whoami", b"{}", someone) | {herd_requests.CALLER_HEADER: "2vxsx-fae"},
        worker.headers("POST", "/whoami", b"", someone),
    ):
        refused = await rest.post("/whoami", content=b"{}", headers=headers)
        assert refused.status_code == 403, refused.text


# -- state


async def test_the_state(leader: Leader, worker: WorkerClient, server: Served) -> None:
    state = await worker.state()
    assert (state.worker, state.generation, state.draining, state.idle) == ("w1", 1, False, True)
    (canister,) = state.canisters
    engine = server.host.default.model.engine
    assert engine is not None
    assert (canister.name, canister.id, canister.rev) == ("llama_cpp", server.host.default.id, leader.rev)
    assert canister.model is not None
    assert (canister.model.sha256, canister.model.n_ctx) == (engine.info.model_id, engine.info.n_ctx)
    assert canister.model.kv_layout == engine.info.kv_layout
    assert (canister.slots, canister.running, canister.waiting, canister.loading) == (engine.info.n_slots, 0, 0, False)
    await leader.call(worker, leader.chat_job("speed", PROMPT))
    await leader.call(worker, leader.chat_job("speed", PROMPT))
    (canister,) = (await worker.state()).canisters
    assert canister.prefill_tps
    assert canister.decode_tps


async def test_a_worker_that_drains(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET.hex())
    herd = {"herd_worker": "w9", "herd_generation": 3, "herd_secret_file": secret}
    async with (
        served(tmp_path, **herd) as server,
        WorkerClient(server.url, HerdKey("w9", 3, SECRET)) as worker,
    ):
        leader = Leader(server.host.identity.principal)
        job = leader.job("new_chat", {"args": ["--prompt-cache", "a"]}, "a")
        assert isinstance(await worker.run(job), Ran)
        await leader.control(worker, "chats_pause")
        await worker.drain()
        state = await worker.state()
        assert (state.draining, state.idle, state.canisters[0].model) == (True, True, None)
        assert ran(await worker.run(job)).done.replayed
        assert (await leader.control(worker, "chats_pause", rev=1)).done.replayed
        fresh = leader.job("new_chat", {"args": ["--prompt-cache", "a"]}, "a")
        assert conflict(await worker.run(fresh)).why == "draining"
        body, caller = b"{}", server.host.identity.principal
        signature = worker.headers("POST", "/v1/completions", body, caller)[herd_requests.SIGNATURE_HEADER]
        header = herd_requests.sign_answer(worker.key, signature, AnswerTry(bytes(32), 1, time.time_ns()))
        named = {
            herd_requests.SIGNATURE_HEADER: signature,
            herd_requests.CALLER_HEADER: caller,
            herd_requests.ANSWER_HEADER: header,
        }
        refused = await worker.http.post("/v1/completions", content=body, headers=named)
        broken, end = FrameReader().feed(refused.content)
        assert (type(broken), end) == (Broken, Body(b"", True, True))


async def test_without_a_herd_there_is_no_such_door(tmp_path: Path) -> None:
    async with served(tmp_path) as server, WorkerClient(server.url, HerdKey("w1", 1, SECRET)) as worker:
        assert (await worker.send("GET", herd_requests.STATE)).status_code == 404
        response = await worker.send("POST", "/whoami", b"{}", caller="2chl6-4hpzw-vqaaa-aaaaa-c")
        assert response.json() == "2vxsx-fae"
