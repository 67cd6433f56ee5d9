"""Methods over REST: paths, verbs, arguments, answers and their status."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import pytest

from canister import dispatch
from canister.api.methods import BY_NAME, METHODS
from canister.errors import BadArgument, Trap
from canister.ic.principal import ANONYMOUS
from canister.runtime.host import Host
from canister.server.doors.rest import decode

pytestmark = pytest.mark.anyio


def is_reject(response: httpx.Response, status: int, *words: str) -> None:
    content = response.json()
    assert response.status_code == status, content
    assert set(content) == {"reject_code", "error_code", "reject_message"}
    for word in words:
        assert word in content["reject_message"]


# -- answers


async def test_a_record_in_ok(anonymous: httpx.AsyncClient) -> None:
    response = await anonymous.post("/health")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {"Ok": {"status_code": 200}}


async def test_bare_values(anonymous: httpx.AsyncClient, controller: httpx.AsyncClient, host: Host) -> None:
    assert (await anonymous.post("/whoami")).json() == ANONYMOUS
    assert (await controller.get("/whoami")).json() == host.identity.principal
    assert (await anonymous.get("/get_max_tokens")).json() == {"max_tokens_update": 0, "max_tokens_query": 0}


async def test_an_api_error_has_the_set_tag_only(anonymous: httpx.AsyncClient) -> None:
    response = await anonymous.post("/ready")
    assert response.status_code == 404
    assert response.json() == {"Err": {"Other": "Model not yet loaded"}}


async def test_a_run_output_error_is_a_whole_record(anonymous: httpx.AsyncClient) -> None:
    response = await anonymous.post("/run_update", json={"args": []})
    assert response.status_code == 401
    record = response.json()["Err"]
    assert record["status_code"] == 401
    assert record["error"] == "Access Denied"
    assert record["n_prompt_tokens"] is None
    assert len(record) == 11


async def test_http_status_and_record_status_are_independent(controller: httpx.AsyncClient) -> None:
    response = await controller.post("/load_model", json={"args": []})
    assert response.status_code == 400
    assert response.json()["Err"]["status_code"] == 500


# -- Candid text


CANDID = {"Content-Type": "text/candid"}


async def test_candid_text_is_answered_in_kind(controller: httpx.AsyncClient) -> None:
    argument = "(record { max_tokens_query = 1 : nat64; max_tokens_update = 13 : nat64 })"
    response = await controller.post("/set_max_tokens", content=argument, headers=CANDID)
    assert response.headers["content-type"] == "text/candid; charset=utf-8"
    assert response.text == "(variant { Ok = record { status_code = 200 : nat16 } })\n"
    response = await controller.post("/get_max_tokens", headers={"Accept": "text/candid; q=1, */*"})
    assert response.text == "(record { max_tokens_query = 1 : nat64; max_tokens_update = 13 : nat64 })\n"
    await controller.post("/set_max_tokens", json={"max_tokens_update": 0, "max_tokens_query": 0})


async def test_either_form_can_be_asked_for(controller: httpx.AsyncClient) -> None:
    path, argument = "/filesystem_file_size", '(record { filename = "é" })'
    response = await controller.post(path, content=argument, headers={**CANDID, "Accept": "application/json"})
    assert response.status_code == 404
    assert response.json() == {"Err": {"Other": "File does not exist: é"}}
    response = await controller.post(path, json={"filename": "é"}, headers={"Accept": "text/candid"})
    assert response.status_code == 404
    assert response.text == '(variant { Err = variant { Other = "File does not exist: é" } })\n'


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"(record { filename = 7 })", "line 1, column 22: text expected, not 7"),
        (b'{"filename": "x"}', "record { filename : text } expected, not {"),
        (b'("\xff")', "not UTF-8"),
        (b"", "not the end"),
    ],
)
async def test_wrong_candid_text_is_a_reject(controller: httpx.AsyncClient, body: bytes, problem: str) -> None:
    response = await controller.post("/filesystem_file_size", content=body, headers=CANDID)
    is_reject(response, 400, "filesystem_file_size", problem)


async def test_lists_and_texts(controller: httpx.AsyncClient) -> None:
    given = {"principal": "anybody", "role": {"AdminQuery": None}, "note": "é"}
    made = (await controller.post("/assignAdminRole", json=given)).json()["Ok"]
    assert made["role"] == "AdminQuery"
    assert made["note"] == "é"
    assert isinstance(made["assignedAt"], int)
    assert (await controller.get("/getAdminRoles")).json() == {"Ok": [made]}
    revoked = await controller.post("/revokeAdminRole", content='"anybody"')
    assert revoked.json() == {"Ok": "Admin role revoked for anybody"}


async def test_blobs(controller: httpx.AsyncClient) -> None:
    chunk = base64.b64encode(b"\x00\xffbytes").decode()
    up = {"filename": "f", "chunk": chunk, "chunksize": 7, "offset": "0"}
    assert (await controller.post("/file_upload_chunk", json=up)).json()["Ok"]["filesize"] == 7
    down = await controller.post("/file_download_chunk", json={"filename": "f", "chunksize": 100, "offset": 0})
    assert down.json()["Ok"] == {"chunk": chunk, "chunksize": 7, "filesize": 7, "offset": 0, "done": True}


# -- paths and verbs


async def test_a_canister_by_name_and_by_id(controller: httpx.AsyncClient, host: Host) -> None:
    first, second = host.canisters
    await controller.post(f"/canisters/{first.id}/set_access", json={"level": 0})
    await controller.post(f"/canisters/{second.id}/set_access", json={"level": 1})
    levels = [
        (await controller.get(path)).json()["Ok"]["level"]
        for path in ("/get_access", f"/canisters/{first.name}/get_access", f"/canisters/{second.name}/get_access")
    ]
    assert levels == [0, 0, 1]


async def test_unknown_names_are_told_the_nearest(anonymous: httpx.AsyncClient, host: Host) -> None:
    is_reject(await anonymous.post("/run_updat"), 404, "run_update")
    is_reject(await anonymous.post("/canisters/lama_cpp/health"), 404, "Did you mean 'llama_cpp'?")
    is_reject(await anonymous.post("/canisters/xyz/health"), 404, "llama_cpp, second")
    is_reject(await anonymous.post("/canisters/llama_cpp/heath"), 404, "health")
    is_reject(await anonymous.post("/llama_cpp/run_update"), 404, "POST /canisters/llama_cpp/run_update")
    is_reject(await anonymous.get("/canisters/llama_cp"), 404, "Did you mean 'llama_cpp'?")
    is_reject(await anonymous.get("/a/b/c/d?x=1"), 404, "'/a/b/c/d'", "/docs")
    is_reject(await anonymous.get("/" + "x" * 5000), 404)
    is_reject(await anonymous.get("/a%0Ab/c%0A/d"), 404, "/docs")


async def test_json_ends_in_a_newline(anonymous: httpx.AsyncClient, controller: httpx.AsyncClient) -> None:
    """What curl prints does not glue the prompt to it."""
    for client, path in (
        (anonymous, "/health"),
        (anonymous, "/whoami"),
        (anonymous, "/"),
        (anonymous, "/openapi.json"),
        (anonymous, "/get_access"),
        (anonymous, "/nothing"),
        (anonymous, "/metrics"),
        (controller, "/canisters/llama_cpp/engine"),
        (controller, "/canisters/llama_cpp/files/"),
    ):
        assert (await client.get(path)).text.endswith("}\n" if path != "/whoami" else '"\n')


async def test_only_queries_without_argument_answer_get(controller: httpx.AsyncClient) -> None:
    for method in METHODS:
        for prefix in ("/", "/canisters/second/"):
            response = await controller.get(prefix + method.name)
            if method.mode == "query" and method.arg is None:
                assert response.status_code != 405
            else:
                is_reject(response, 405, f"{method.name} is called with POST, not GET")
                assert response.headers["allow"] == "POST"


@pytest.mark.parametrize("verb", ["PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_other_verbs(anonymous: httpx.AsyncClient, verb: str) -> None:
    response = await anonymous.request(verb, "/health")
    is_reject(response, 405, "GET or POST")
    assert response.headers["allow"] == "GET, HEAD, POST"


async def test_head(anonymous: httpx.AsyncClient) -> None:
    assert (await anonymous.head("/health")).status_code == 200


async def test_surplus_arguments_are_ignored(controller: httpx.AsyncClient) -> None:
    for body in (b"", b"{}", b"null", b'{"a": 1}', b"not JSON", b"\xff" * 2_000_000):
        response = await controller.post("/health", content=body)
        assert response.json() == {"Ok": {"status_code": 200}}
    assert (await controller.post("/set_access", json={"level": 0, "more": [1]})).status_code == 200


# -- arguments that do not decode


@pytest.mark.parametrize(
    ("method", "body", "words"),
    [
        ("set_access", "", ["set_access", "EOF", '{"level": 1}']),
        ("set_access", "{", ["EOF"]),
        ("set_access", b"\xff\xfe", ["set_access"]),
        ("set_access", "[]", ["an object", "given: []"]),
        ("set_access", "{}", ["field level: Field required", '{"level": 1}']),
        ("set_access", '{"level": "one"}', ["field level", 'given: "one"']),
        ("set_access", '{"level": true}', ["field level", "a natural number is wanted"]),
        ("set_access", '{"level": -1}', ["field level", "given: -1"]),
        ("set_access", '{"level": 65536}', ["field level", "given: 65536"]),
        ("run_update", '{"args": "-p x"}', ["field args", 'given: "-p x"', "--prompt-cache"]),
        ("run_update", '{"args": ["-p", 1]}', ["field args.1", "given: 1"]),
        ("run_update", '{"args": ["\\ud800"]}', ["run_update"]),
        ("revokeAdminRole", '{"principal": "x"}', ["string"]),
        ("assignAdminRole", '{"principal": "x", "role": "Admin", "note": ""}', ["field role", 'given: "Admin"']),
        ("file_upload_chunk", "{}", ["field filename", "field chunk", "field chunksize", "and 1 more"]),
        (
            "file_upload_chunk",
            json.dumps({"filename": "f", "chunk": "?" * 10_000, "chunksize": 1, "offset": 0}),
            ["field chunk: not base64", "???…"],
        ),
        ("copy_prompt_cache", '{"to": "x"}', ["field from"]),
    ],
)
async def test_bad_arguments(controller: httpx.AsyncClient, method: str, body: bytes | str, words: list[str]) -> None:
    response = await controller.post(f"/{method}", content=body)
    is_reject(response, 400, "does not decode", *words)
    assert len(response.json()["reject_message"]) < 600


async def test_the_role_is_checked_before_the_argument(anonymous: httpx.AsyncClient) -> None:
    response = await anonymous.post("/set_access", content=b"not JSON")
    assert response.status_code == 401
    assert response.json() == {"Err": {"Other": "Access Denied"}}


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(BadArgument):
        decode(BY_NAME["set_access"], b"[" * 1_000_000)


async def test_the_body_has_a_limit(controller: httpx.AsyncClient) -> None:
    is_reject(await controller.post("/set_access", content=b" " * 1_000_001), 413, "1000001", "1000000", "PUT")

    async def endless() -> Any:
        while True:
            yield b" " * 100_000

    is_reject(await controller.post("/set_access", content=endless()), 413, "more than 1000000")
    assert (await controller.post("/set_access", content=b'{"level": 1}' + b" " * 999_988)).status_code == 200


# -- whole-call failures


async def test_a_bug_is_a_reject_and_names_no_internals(
    anonymous: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object, **_named: object) -> dispatch.Reply:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(dispatch.requests, "execute", broken)
    response = await anonymous.post("/health", headers={"X-Request-Id": "abc-1"})
    is_reject(response, 500, "internal error", "abc-1")
    assert "secret" not in response.text
    assert any(record.levelname == "ERROR" for record in caplog.records)


async def test_a_trap_is_a_reject(anonymous: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    async def trapped(*_: object, **_named: object) -> dispatch.Reply:
        raise Trap("it went wrong")

    monkeypatch.setattr(dispatch.requests, "execute", trapped)
    response = await anonymous.post("/health")
    assert response.status_code == 500
    assert response.json() == {"reject_code": 5, "error_code": "IC0502", "reject_message": "it went wrong"}
