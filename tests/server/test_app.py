"""What surrounds the methods: pages, probes, metrics, request ids, and the OpenAPI document."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import httpx
import pytest

from canister import dispatch
from canister.api.methods import METHODS
from canister.runtime.host import Host
from canister.server.pages import health, openapi
from canister.server.requests import PROBES

pytestmark = pytest.mark.anyio


async def test_the_start_page_shows_the_way(anonymous: httpx.AsyncClient) -> None:
    content = (await anonymous.get("/")).json()
    assert content["canisters"] == ["llama_cpp", "second"]
    assert (await anonymous.get(content["docs"])).status_code == 200
    assert (await anonymous.get(content["openapi"])).json()["openapi"] == "3.1.0"


async def test_the_list_of_canisters(anonymous: httpx.AsyncClient, host: Host) -> None:
    listed = (await anonymous.get("/canisters")).json()["canisters"]
    assert [(entry["id"], entry["name"]) for entry in listed] == [(c.id, c.name) for c in host.canisters]
    assert all(entry["status"] == "running" for entry in listed)


async def test_one_canister(anonymous: httpx.AsyncClient, host: Host) -> None:
    listed = (await anonymous.get("/canisters")).json()["canisters"]
    for entry in listed:
        for name in (entry["name"], entry["id"]):
            assert (await anonymous.get(f"/canisters/{name}")).json() == entry


@pytest.mark.parametrize(
    ("path", "to"),
    [
        ("/docs/", "/docs"),
        ("/docs///", "/docs"),
        ("/canisters/", "/canisters"),
        ("/canisters/llama_cpp/", "/canisters/llama_cpp"),
        ("/canisters/llama_cpp/health/", "/canisters/llama_cpp/health"),
        ("/health/?a=b%20c", "/health?a=b%20c"),
        ("/a%2Fb/", "/a%2Fb"),
    ],
)
async def test_a_slash_too_many_leads_to_the_page(anonymous: httpx.AsyncClient, path: str, to: str) -> None:
    response = await anonymous.get(path)
    assert response.status_code == 308
    assert not response.headers["location"].startswith(("/", "http")), "it leads out of the prefix of a proxy"
    assert response.next_request is not None
    assert response.next_request.url.raw_path.decode() == to


async def test_a_slash_too_many_does_not_matter_to_calls(
    anonymous: httpx.AsyncClient, controller: httpx.AsyncClient
) -> None:
    assert (await anonymous.post("/canisters/llama_cpp/health/")).json() == {"Ok": {"status_code": 200}}
    response = await controller.post("/get_access/", json={})
    assert response.status_code == 200
    # Of files it means a folder, and in the path itself it is as it was.
    assert (await controller.get("/canisters/llama_cpp/files/x/")).status_code == 404
    assert (await anonymous.get("/")).status_code == 200


async def test_what_browsers_and_robots_ask_for_by_themselves(
    anonymous: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    icon = await anonymous.get("/favicon.ico")
    assert (icon.status_code, icon.headers["content-type"]) == (200, "image/png")
    assert icon.content.startswith(b"\x89PNG")
    assert (await anonymous.get("/robots.txt")).text == "User-agent: *\nDisallow: /\n"
    assert {"/favicon.ico", "/robots.txt"} <= PROBES


async def test_the_engine_of_a_canister(anonymous: httpx.AsyncClient, controller: httpx.AsyncClient) -> None:
    told = await controller.get("/canisters/second/engine")
    assert told.status_code == 200
    assert (told.json()["model"], told.json()["reason"]) == (None, "none")
    refused = await anonymous.get("/canisters/second/engine")
    assert (refused.status_code, list(refused.json())) == (401, ["Err"])
    assert (await controller.get("/canisters/nobody/engine")).status_code == 404


@pytest.mark.parametrize("path", ["/", "/canisters", "/healthz", "/readyz", "/docs", "/openapi.json"])
async def test_pages_are_only_read(anonymous: httpx.AsyncClient, path: str) -> None:
    assert (await anonymous.head(path)).status_code == 200
    response = await anonymous.post(path)
    assert response.status_code == 405
    assert response.headers["allow"] == "GET, HEAD"
    assert "GET" in response.json()["reject_message"]


def test_no_method_hides_behind_a_page() -> None:
    pages = {route.path.strip("/").partition("/")[0] for route in [*health.routes(), *openapi.routes()]}
    assert not pages & {method.name for method in METHODS}


async def test_ready(
    anonymous: httpx.AsyncClient, controller: httpx.AsyncClient, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await anonymous.get("/healthz")).json() == {"status": "ok"}
    # Nothing was ever loaded, so there is nothing to wait for.
    assert (await anonymous.get("/readyz")).json() == {"status": "ready"}
    monkeypatch.setitem(host.pending, "second", "models/x.gguf is being put into it and loaded")
    response = await controller.get("/readyz")
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0
    assert response.json()["canisters"] == {"second": "models/x.gguf is being put into it and loaded"}
    response = await anonymous.get("/readyz")
    assert response.status_code == 503
    assert "models/x.gguf" not in response.text
    assert (await anonymous.get("/healthz")).status_code == 200


@pytest.mark.parametrize("query", ["", "?nonce=", "?nonce=aa", f"?nonce={'A' * 64}", f"?nonce={'g' * 64}"])
async def test_a_proof_takes_a_nonce_of_its_length(anonymous: httpx.AsyncClient, query: str) -> None:
    response = await anonymous.get(f"/proof{query}")
    assert response.status_code == 400
    assert "64 hex digits" in response.json()["reject_message"]
    assert (await anonymous.get(f"/proof?nonce={'a' * 64}")).json().keys() == {"proof"}


async def test_a_model_that_could_not_be_loaded_again(
    anonymous: httpx.AsyncClient, controller: httpx.AsyncClient, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host.default.model, "load_error", "models/x.gguf is not a GGUF file")
    response = await controller.get("/readyz")
    assert response.status_code == 503
    assert response.json()["canisters"] == {"llama_cpp": "models/x.gguf is not a GGUF file"}
    response = await anonymous.get("/readyz")
    assert response.status_code == 503
    assert "models/x.gguf" not in response.text


async def test_metrics(anonymous: httpx.AsyncClient, controller: httpx.AsyncClient) -> None:
    async def count(labels: str) -> float:
        text = (await controller.get("/metrics")).text
        found = re.search(rf"^canister_requests_total{{{labels}}} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    calls = {
        'canister="llama_cpp",method="health",outcome="ok"': ("/health", {}),
        'canister="second",method="run_update",outcome="err"': ("/canisters/second/run_update", {"args": []}),
        'canister="llama_cpp",method="run_query",outcome="reject"': ("/run_query", None),
    }
    for labels, (path, body) in calls.items():
        before = await count(labels)
        await anonymous.post(path, **({"content": b" " * 1_000_001} if body is None else {"json": body}))
        assert await count(labels) == before + 1
    assert "canister_request_seconds_bucket" in (await controller.get("/metrics")).text


async def test_unknown_names_make_no_series(anonymous: httpx.AsyncClient, controller: httpx.AsyncClient) -> None:
    await anonymous.post("/no_such_method_at_all")
    await anonymous.post("/canisters/no_such_canister/health")
    text = (await controller.get("/metrics")).text
    assert "no_such" not in text


async def test_metrics_are_for_controllers(
    host: Host, anonymous: httpx.AsyncClient, controller: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = await anonymous.get("/metrics")
    assert refused.status_code == 403
    assert refused.json()["error_code"] == "forbidden"
    assert "--metrics everybody" in refused.json()["reject_message"]
    assert "canister_" not in refused.text
    assert (await controller.get("/metrics")).status_code == 200
    monkeypatch.setattr(host, "settings", host.settings.model_copy(update={"metrics": "everybody"}))
    assert (await anonymous.get("/metrics")).status_code == 200


async def test_request_ids(anonymous: httpx.AsyncClient) -> None:
    made = [(await anonymous.get("/healthz")).headers["x-request-id"] for _ in range(2)]
    assert made[0] != made[1]
    assert re.fullmatch(r"[0-9a-f]{16}", made[0])
    for given in ("a", "0f8fad5b-d9cb-469f-a165-70867728950e", "x" * 128):
        assert (await anonymous.get("/no", headers={"X-Request-Id": given})).headers["x-request-id"] == given
    for given in ("", "x" * 129, "a b", 'a"b', "{}"):
        assert (await anonymous.get("/healthz", headers={"X-Request-Id": given})).headers["x-request-id"] != given


async def test_a_call_that_the_end_cuts_short(anonymous: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    async def cancelled(*_: object, **_named: object) -> dispatch.Reply:
        raise asyncio.CancelledError

    monkeypatch.setattr(dispatch.requests, "execute", cancelled)
    response = await anonymous.get("/health")
    assert response.status_code == 503
    assert response.headers["retry-after"]
    assert response.json()["error_code"] == "IC0509"


async def test_no_cors_headers(anonymous: httpx.AsyncClient) -> None:
    response = await anonymous.get("/health", headers={"Origin": "https://example.org"})
    assert not [name for name in response.headers if name.startswith("access-control")]


# -- OpenAPI


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


VERBS = {"get", "post", "put", "delete"}


def operations() -> list[tuple[str, str, dict[str, Any]]]:
    """Path, verb and operation of all that is documented."""
    paths = openapi.document()["paths"]
    return [(path, verb, told) for path, verbs in paths.items() for verb, told in verbs.items() if verb in VERBS]


def test_every_method_is_documented_once() -> None:
    paths = openapi.document()["paths"]
    for method in METHODS:
        assert f"/{method.name}" not in paths
        ((verb, told),) = paths[f"/canisters/{{canister}}/{method.name}"].items()
        assert verb == "post"
        assert ("requestBody" in told) == (method.arg is not None)
        assert {"200", "default"} == set(told["responses"])
        assert ("also answers GET" in told["description"]) == (method.mode == "query" and method.arg is None)


def test_the_document_begins_with_what_most_clients_want_and_has_its_groups_explained() -> None:
    tags = openapi.document()["tags"]
    assert [tag["name"] for tag in tags[:2]] == ["OpenAI", "chat"]
    assert all(tag["description"].endswith(".") for tag in tags)
    used = {tag for _, _, told in operations() for tag in told["tags"]}
    assert used == {tag["name"] for tag in tags}
    assert operations()[0][2]["tags"] == ["OpenAI"]


def test_every_property_says_what_it_is() -> None:
    missing: list[tuple[str, str]] = []

    def look(schema: Any, where: str) -> None:
        if isinstance(schema, list):
            for part in schema:
                look(part, where)
        elif isinstance(schema, dict):
            properties = schema.get("properties")
            for name, of in (properties if isinstance(properties, dict) else {}).items():
                if not of.get("description"):
                    missing.append((where, name))
            for part in schema.values():
                look(part, where)

    document = openapi.document()
    for name, schema in document["components"]["schemas"].items():
        look(schema, name)
    look(document["paths"], "paths")
    assert missing == []


def test_a_stranger_is_told_who_may_call_and_where_the_key_is() -> None:
    document = openapi.document()
    key = document["components"]["securitySchemes"]["api_key"]["description"]
    for word in ("canister key", "controller.key", "canister api-key create"):
        assert word in key
    assert document["info"]["license"]["name"] == "MIT"
    assert "`/` tells that of the server" in document["info"]["description"]
    run = document["paths"]["/canisters/{canister}/run_update"]["post"]
    assert "at access level 1 every named caller" in run["description"]
    names = set(document["components"]["headers"])
    assert names == {"X-IC-Instructions", "X-IC-Cycles", "X-IC-Limit", "X-IC-Receipt", "X-Request-Id"}
    assert set(run["responses"]["200"]["headers"]) == names


def test_every_reference_leads_somewhere() -> None:
    document = openapi.document()
    components = document["components"]
    known = {f"#/components/{kind}/{name}" for kind in ("schemas", "headers") for name in components[kind]}
    assert references(document) == known


def test_operation_ids_are_unique() -> None:
    names = [told["operationId"] for _, _, told in operations()]
    assert len(names) == len(set(names))
    assert set(names) > {method.name for method in METHODS}


def test_answers_have_their_variants() -> None:
    document = openapi.document()
    schemas = document["components"]["schemas"]
    responses = document["paths"]["/canisters/{canister}/run_update"]["post"]["responses"]
    ok = responses["200"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    assert schemas[ok]["properties"]["Ok"]["$ref"] == "#/components/schemas/RunOutputRecord"
    other = responses["default"]["content"]["application/json"]["schema"]["anyOf"]
    assert {"$ref": "#/components/schemas/Reject"} in other
    bare = document["paths"]["/canisters/{canister}/whoami"]["post"]["responses"]["200"]["content"]["application/json"][
        "schema"
    ]
    assert bare["type"] == "string"
