"""Whole answers from a real server: piece by piece, however few tokens a call may take."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import httpx
import pytest

from canister.api.chain import Chain
from canister.api.records import InputRecord, MaxTokensRecord
from canister.client import Canister
from canister.client.answer import CallStep, run
from canister.client.errors import Refused, Unreachable
from tests.server.served import CHAT, Served, served
from tests.traces import until

pytestmark = pytest.mark.anyio

QUESTION = "Who are you?"
GREEDY = ("--temp", "0.0")
N_BATCH = 4  # every fourth call of one token begins with a cache whose last batch is one token long
ENDLESS = ("--temp", "0.0", "--ignore-eos")


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    limits = {"instruction_limit": None, "query_instruction_limit": None}
    async with served(tmp_path_factory.mktemp("answers"), with_model=True, **limits) as found:
        async with canister_of(found) as canister:
            path = (await canister.models())["models"][0]["path"]
            await canister.load_model(InputRecord(args=["--model", path, "--batch-size", str(N_BATCH)]))
        yield found


def canister_of(server: Served) -> Canister:
    return Canister(server.url, "llama_cpp", server.host.key_path.read_text().strip())


@pytest.fixture
async def canister(server: Served) -> AsyncIterator[Canister]:
    async with canister_of(server) as made:
        yield made
        await take(made, 0)


async def take(canister: Canister, n_tokens: int) -> None:
    """So many tokens a call; 0: as many as it wants."""
    await canister.set_max_tokens(MaxTokensRecord(max_tokens_update=n_tokens, max_tokens_query=n_tokens))


async def whole(canister: Canister, n_tokens: int) -> str:
    """What one call answers."""
    await take(canister, 0)
    args = ["-p", CHAT.format(QUESTION), "-n", str(n_tokens), *GREEDY]
    record = (await canister.run_query(InputRecord(args=args))).value
    assert record.n_prompt_tokens is not None
    assert record.n_prompt_tokens % N_BATCH != 1  # nothing is echoed
    return record.output


@pytest.mark.parametrize(("n_tokens_a_call", "answer_tokens"), [(0, 24), (1, 25), (3, 25)])
async def test_an_answer_is_what_one_call_would_give(
    canister: Canister, n_tokens_a_call: int, answer_tokens: int
) -> None:
    expected = await whole(canister, 24)
    await take(canister, n_tokens_a_call)
    pieces = [text async for text in canister.ask(QUESTION, flags=GREEDY, answer_tokens=answer_tokens)]
    assert "".join(pieces) == expected
    assert len(pieces) > (5 if n_tokens_a_call else 0)  # tokens that come at once are told together


async def test_calls_that_echo_a_token_do_echo_it_and_the_answer_has_it_once(canister: Canister) -> None:
    expected = await whole(canister, 24)
    for streams in (True, False):
        await take(canister, 1)
        chain = Chain(CHAT.format(QUESTION), f"echo-{streams}", 25, GREEDY)
        parts = [part async for part in run(canister, chain, streams=streams)]
        steps = [part for part in parts if isinstance(part, CallStep)]
        assert "".join(part for part in parts if isinstance(part, str)) == expected == chain.answer
        assert [step.text for step in steps if step.text and step.text != step.record.output]
        assert all(step.instructions for step in steps)  # streams have the cost in their last line


async def test_a_conversation_goes_on_from_its_cache(canister: Canister) -> None:
    said = [{"role": "user", "content": QUESTION}]
    first = "".join([text async for text in canister.ask(said, cache="goes-on", flags=GREEDY, answer_tokens=8)])
    said += [{"role": "assistant", "content": first}, {"role": "user", "content": "And I?"}]
    assert [text async for text in canister.ask(said, cache="goes-on", flags=GREEDY, answer_tokens=8)]
    prompt = (await canister.document("POST", "apply-template", {"messages": said}))["prompt"]
    args = ["--prompt-cache", "goes-on", "--prompt-cache-all", "-p", prompt, "-n", "0"]
    record = (await canister.run_query(InputRecord(args=args))).value
    assert record.n_prompt_tokens_cached == record.n_prompt_tokens


async def test_text_comes_while_the_call_runs_and_who_has_enough_ends_it(server: Served, canister: Canister) -> None:
    engine = server.host.default.model.engine
    assert engine is not None
    async with aclosing(canister.ask(QUESTION, flags=ENDLESS, answer_tokens=100_000)) as pieces:
        await anext(pieces)
        assert engine.stats().n_running == 1
    await until(lambda: engine.stats().n_running == 0)
    sessions = server.host.data_dir.glob("canisters/*/stable/.canister_cache/*/sessions/ask-*")
    assert list(sessions) == []


async def test_a_stop_string_ends_an_answer(canister: Canister) -> None:
    expected = await whole(canister, 24)
    stop = expected.split()[3]
    answer = "".join([text async for text in canister.ask(QUESTION, flags=GREEDY, answer_tokens=24, stops=[stop])])
    assert stop in answer
    assert len(answer) < len(expected)
    assert expected.startswith(answer)


async def test_what_is_refused_says_why(canister: Canister) -> None:
    with pytest.raises(Refused, match="Cannot parse args"):
        async for _ in canister.ask(QUESTION, flags=["--nonsense"]):
            pass


async def test_a_stream_that_ends_without_a_record_is_no_answer() -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=b'{"text": "Hel"}\n', headers={"Content-Type": "application/x-ndjson"})

    async with Canister("http://127.0.0.1:1", "llama_cpp", transport=httpx.MockTransport(answer)) as canister:
        with pytest.raises(Unreachable, match="broke off"):
            async for _ in canister.stream("run_update", InputRecord(args=["-p", "x"])):
                pass
