"""Failures as OpenAI's own client types them, and what it repeats by itself."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from canister import errors as canister_errors
from canister.engine.llama import Model
from canister.engine.load.loaded import LoadParams
from canister.engine.load.loader import load_models
from canister.ic.principal import ANONYMOUS
from canister.server import preload
from canister.server.doors.openai import door, errors
from tests.harness import CHAT_MODEL
from tests.server.doors.openai.conftest import connected
from tests.server.served import Served, served
from tests.traces import SECONDS, until

pytestmark = pytest.mark.anyio

ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Who are you?"}]


class Watched(httpx.AsyncHTTPTransport):
    """Notes the statuses of all answers, those that the client repeats by itself too."""

    def __init__(self) -> None:
        super().__init__()
        self.statuses: list[int] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        self.statuses.append(response.status_code)
        return response


def watched(server: Served, name: str, **options: Any) -> tuple[openai.AsyncOpenAI, list[int]]:
    transport = Watched()
    http = httpx.AsyncClient(transport=transport, timeout=60)
    return connected(server, name, http_client=http, **options), transport.statuses


# -- requests that can never succeed


async def test_a_field_that_does_not_fit(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as told:
        await client.chat.completions.create(model="x", messages=ASK, top_logprobs=3)
    assert (told.value.type, told.value.param) == ("invalid_request_error", "top_logprobs")
    assert told.value.message.count("top_logprobs: it needs logprobs")


async def test_the_same_for_streams_with_its_status(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        await client.chat.completions.create(model="x", messages=ASK, n=5, stream=True)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_that_does_not_fit(client: openai.AsyncOpenAI, stream: bool) -> None:
    long: Any = [{"role": "user", "content": "canister " * 2000}]
    with pytest.raises(openai.BadRequestError) as told:
        await client.chat.completions.create(model="x", messages=long, stream=stream)
    assert told.value.code == "context_length_exceeded"
    assert told.value.type == "exceed_context_size_error"
    body: Any = told.value.body
    assert body["n_ctx"] == 1024
    assert body["n_prompt_tokens"] > 1024
    assert f"request ({body['n_prompt_tokens']} tokens) exceeds the available context size" in told.value.message


async def test_nothing_of_it_is_repeated(server: Served) -> None:
    client, statuses = watched(server, "alice", max_retries=2)
    async with client:
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(model="x", messages=[])
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("gpt-4o")
    assert statuses == [400, 404]


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"", "Invalid JSON"), (b"[]", "JSON object"), (b"{", "Invalid JSON"), (b'"x"', "JSON object")],
)
async def test_what_is_no_object(server: Served, content: bytes, told: str) -> None:
    async with server.client("bob") as bob:
        answer = await bob.post("/v1/chat/completions", content=content)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert told in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/v1/v1/chat/completions", "one /v1"),
        ("/v1/chat/completion", "docs/openai.md"),
    ],
)
async def test_what_is_not_here_says_what_to_do_instead(server: Served, path: str, told: str) -> None:
    async with server.client("bob") as bob:
        answer = await bob.post(path, json={})
    error = answer.json()["error"]
    assert answer.status_code == 404
    assert told in error["message"]


@pytest.mark.parametrize("verb", ["GET", "PUT", "DELETE", "OPTIONS"])
async def test_a_wrong_verb(server: Served, verb: str) -> None:
    async with server.client("bob") as bob:
        answer = await bob.request(verb, "/v1/chat/completions")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json()["error"]["message"] == f"/v1/chat/completions takes POST, not {verb}"


async def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    async with served(tmp_path, with_model=True, canister=["llama_cpp", "empty"]) as server:
        client = connected(server, "alice")
        async with client:
            for name in ("llama_cpp", "llama-canister-tiny"):
                answer = await client.chat.completions.create(model=name, messages=ASK, max_tokens=1)
                assert answer.model == "llama_cpp"
            with pytest.raises(openai.NotFoundError) as unknown:  # there are two canisters, so which is meant?
                await client.chat.completions.create(model="gpt-4o", messages=ASK)
            assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
            assert "there are llama_cpp" in unknown.value.message
        async with server.client() as controller:
            empty = await controller.post("/v1/chat/completions", json={"model": "empty", "messages": ASK})
            assert (empty.status_code, empty.json()["error"]["code"]) == (404, "model_not_found")
            assert "no model is loaded in canister empty" in empty.json()["error"]["message"]
            assert (await controller.get("/canisters/empty/v1/models")).json() == {"object": "list", "data": []}
            elsewhere = await controller.post("/canisters/nowhere/v1/chat/completions", json={"messages": ASK})
            assert (elsewhere.status_code, elsewhere.json()["error"]["type"]) == (404, "not_found_error")


async def test_who_has_a_key_but_may_not_chat(tmp_path: Path) -> None:
    async with served(tmp_path, with_model=True) as server:
        async with server.client() as controller:
            await controller.post("/set_access", json={"level": 0})
        client = connected(server, "alice")
        async with client:
            for asked in (client.models.list(), client.chat.completions.create(model="x", messages=ASK)):
                with pytest.raises(openai.PermissionDeniedError) as told:
                    await asked
                assert told.value.type == "permission_error"
                assert "set_access" in told.value.message


# -- requests that are worth repeating


async def test_a_busy_caller_is_told_when_to_come_again_and_does(tmp_path: Path) -> None:
    limits = {"max_calls_per_caller": 1, "max_queue_per_caller": 0}
    async with served(tmp_path, with_model=True, **limits) as server:
        client, statuses = watched(server, "alice", max_retries=3)
        alice = server.host.keys.get("alice")
        assert alice is not None
        place = server.host.default.admission.enter(alice.principal)  # as a call of hers that goes on has it
        async with client:
            once = client.with_options(max_retries=0)
            for asked in (
                once.chat.completions.create(model="x", messages=ASK),
                once.chat.completions.create(model="x", messages=ASK, stream=True),
                once.completions.create(model="x", prompt="Hello", stream=True),  # its first call tells it
            ):
                with pytest.raises(openai.RateLimitError) as told:
                    await asked
                assert told.value.response.headers["retry-after"] == "2"
                assert told.value.response.headers["retry-after-ms"] == "2000"
                assert told.value.type == "rate_limit_error"
            again = asyncio.create_task(client.chat.completions.create(model="x", messages=ASK, max_tokens=1))
            await until(lambda: len(statuses) == 4)
            place.leave()
            assert (await again).choices
        assert statuses == [429, 429, 429, 429, 200]


async def test_a_model_that_is_being_loaded_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_load = threading.Event()

    def held(params: LoadParams) -> tuple[Model, Model | None]:
        assert may_load.wait(SECONDS)
        return load_models(params)

    monkeypatch.setattr("canister.engine.engine.load_models", held)
    async with served(tmp_path) as server:
        key = server.host.key_path.read_text().strip()
        transport = Watched()
        http = httpx.AsyncClient(transport=transport, timeout=60)
        async with openai.AsyncOpenAI(
            base_url=f"{server.url}/v1", api_key=key, max_retries=200, http_client=http
        ) as client:
            loading = preload.begin(server.host, CHAT_MODEL)
            answer = asyncio.create_task(client.chat.completions.create(model="x", messages=ASK, max_tokens=1))
            await until(lambda: bool(transport.statuses))
            may_load.set()
            assert (await answer).choices
            await loading
    assert set(transport.statuses[:-1]) == {503}
    assert transport.statuses[-1] == 200


async def test_a_model_that_could_not_be_loaded_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF, but for the rest")
    async with served(tmp_path / "server") as server:
        await preload.begin(server.host, tmp_path / "broken.gguf")
        async with server.client() as controller:
            answer = await controller.post("/v1/chat/completions", json={"messages": ASK})
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
            told = (await controller.get("/readyz")).json()["canisters"]["llama_cpp"]
            assert "broken.gguf could not be loaded" in told


async def test_a_server_that_stops_says_so(tmp_path: Path) -> None:
    async with served(tmp_path, with_model=True) as server:
        client = connected(server, "alice")
        async with client:
            server.host.is_draining = True
            with pytest.raises(openai.InternalServerError) as told:
                await client.chat.completions.create(model="x", messages=ASK)
            server.host.is_draining = False
            assert told.value.status_code == 503
            assert told.value.response.headers["retry-after"] == "2"
            assert told.value.type == "unavailable_error"


async def test_a_call_that_takes_too_long(tmp_path: Path) -> None:
    async with served(tmp_path, with_model=True) as server:
        canister = server.host.default
        canister.settings = canister.settings.model_copy(update={"call_timeout": 1e-6})
        async with server.client("bob") as bob:
            answer = await bob.post("/v1/chat/completions", json={"messages": ASK})
        assert (answer.status_code, answer.json()["error"]["type"]) == (504, "timeout_error")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_canister_without_cycles(tmp_path: Path, stream: bool) -> None:
    async with served(tmp_path, with_model=True, balance_policy="enforce") as server:
        ledger = server.host.default.ledger
        ledger.committed(-ledger.cycles + 1000)
        async with server.client("bob") as bob:
            answer = await bob.post("/v1/chat/completions", json={"messages": ASK, "stream": stream})
    assert (answer.status_code, answer.json()["error"]["type"]) == (402, "insufficient_quota")
    assert answer.json()["error"]["code"] == "IC0207"


async def test_a_trap_at_the_instruction_limit_is_not_repeated(tmp_path: Path) -> None:
    async with served(tmp_path, with_model=True) as server:
        canister, limits = server.host.default, {"instruction_limit": 1_000_000, "budget_policy": "trap"}
        canister.settings = canister.settings.model_copy(update=limits)
        async with server.client() as controller:
            answer = await controller.post("/v1/chat/completions", json={"messages": ASK})
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "IC0522")
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers


async def test_a_body_that_is_too_large(tmp_path: Path) -> None:
    async with served(tmp_path, with_model=True, max_body_bytes=2000) as server:
        client = connected(server, "alice")
        async with client:
            with pytest.raises(openai.APIStatusError) as told:
                await client.chat.completions.create(model="x", messages=[{"role": "user", "content": "x" * 3000}])
    assert (told.value.status_code, told.value.type) == (413, "request_too_large")


# -- in the forms of the dialects

EVERY: list[canister_errors.CanisterError | canister_errors.Trap] = [
    canister_errors.AccessDenied(),
    canister_errors.BadRequest("b"),
    canister_errors.NotFound("n"),
    canister_errors.Conflict("c"),
    canister_errors.ModelUnloaded("m"),
    canister_errors.TooLarge("t"),
    canister_errors.Busy("b"),
    canister_errors.StorageFull("s"),
    canister_errors.StoreDamaged("s"),
    canister_errors.BadArgument("b"),
    canister_errors.Unauthenticated("u"),
    canister_errors.CanisterNotFound("c"),
    canister_errors.MessageTooLarge("m"),
    canister_errors.UnsupportedEncoding("u"),
    canister_errors.Forbidden("f"),
    canister_errors.InstructionLimit("c", 5),
    canister_errors.OutOfCycles("c", 5),
    canister_errors.CallerBusy("c"),
    canister_errors.CanisterBusy("c"),
    canister_errors.CanisterStopping("c"),
    canister_errors.CanisterStopped("c"),
    canister_errors.CanisterUnavailable("c"),
    canister_errors.CallTimeout("c", "m", 1.0),
    canister_errors.CanisterTrapped("c"),
    canister_errors.Trap("t"),
]


@pytest.mark.parametrize("error", EVERY, ids=lambda error: type(error).__name__)
def test_every_error_has_a_status_a_type_and_says_whether_to_come_again(
    error: canister_errors.CanisterError | canister_errors.Trap,
) -> None:
    told = errors.of(error)
    answer = errors.response(told, errors.openai_form, "r")
    assert answer.status_code != 409
    assert told.type
    helps = answer.status_code in (429, 503, 504) and told.may_retry is not False
    if answer.status_code == 429 or answer.status_code >= 500:  # SDKs repeat it by themselves
        assert helps or answer.headers.get("x-should-retry") == "false" or type(error) is canister_errors.Trap
    assert ("retry-after" in answer.headers) == (helps and answer.status_code != 504)
    assert set(errors.anthropic_form(told, "r")) == {"type", "error", "request_id"}
    assert errors.ollama_form(told, "r") == {"error": str(told)}


def test_who_loses_the_model_is_told_to_come_again() -> None:
    told = errors.of(canister_errors.ModelUnloaded("m"))
    assert (told.status, told.type) == (503, "unavailable_error")
    assert errors.headers(told)["Retry-After"]


def test_who_has_no_key_is_told_to_send_one() -> None:
    denied = canister_errors.AccessDenied()
    assert door.failure(denied, ANONYMOUS).status == 401
    assert door.failure(denied, "somebody").status == 403
