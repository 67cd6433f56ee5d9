"""Agents inside a browser: pages that are named may use the IC interface, others cannot, not even without reading."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from canister.config import Settings
from canister.ic import envelope
from canister.runtime.host import Host
from canister.server.app import create_app, running
from tests.server.ic_door import SOMEBODY, Door

pytestmark = pytest.mark.anyio

PAGE = "https://app.example"
OURS = "http://127.0.0.1:8000"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
ALLOWED = "access-control-allow-origin"
TOKENS = {"max_tokens_update": 0, "max_tokens_query": 0}


@asynccontextmanager
async def door_for(folder: Path, *origins: str) -> AsyncIterator[Door]:
    """The IC door of a server with these `browser_origins`."""
    settings = Settings(data_dir=folder / "data", browser_origins=list(origins))
    async with running(Host(settings)) as host:
        transport = httpx.ASGITransport(app=create_app(host))
        async with httpx.AsyncClient(transport=transport, base_url=OURS) as http:
            yield Door(host, http, host.default)


async def update_from(door: Door, origin: str, content_type: str = "application/cbor") -> httpx.Response:
    """A call of somebody with an identity that the page has made itself."""
    body = envelope.seal(door.message("call", "chats_pause"), SOMEBODY)[0]
    headers = {"Origin": origin, "Content-Type": content_type}
    return await door.http.post(f"/api/v3/canister/{door.canister.id}/call", content=body, headers=headers)


async def preflight_from(door: Door, origin: str) -> httpx.Response:
    url = f"/api/v3/canister/{door.canister.id}/call"
    return await door.http.options(url, headers={"Origin": origin, **PREFLIGHT})


@pytest.mark.parametrize("named", [(), (PAGE,)])
async def test_a_page_that_is_not_named_is_refused(tmp_path: Path, named: tuple[str, ...]) -> None:
    async with door_for(tmp_path, *named) as door:
        for origin in (f"{PAGE}.evil.example", "http://app.example", "null", "http://127.0.0.1:9000", ""):
            preflight = await preflight_from(door, origin)
            assert (preflight.status_code, preflight.headers.get(ALLOWED)) == (403, None), origin
            for content_type in ("application/cbor", "text/plain"):  # a browser sends the second without a preflight
                response = await update_from(door, origin, content_type)
                assert (response.status_code, response.headers.get(ALLOWED)) == (403, None), origin
                assert "--browser-origins" in response.json()["reject_message"]


async def test_the_console_is_a_page_of_our_own(tmp_path: Path) -> None:
    async with door_for(tmp_path) as door:
        assert (await update_from(door, OURS)).status_code == 200
        body = envelope.seal(door.message("call", "chats_pause"), SOMEBODY)[0]
        url = f"/api/v3/canister/{door.canister.id}/call"
        for more, status in (
            ({"Sec-Fetch-Site": "same-origin"}, 200),
            ({"Sec-Fetch-Site": "cross-site"}, 403),
            ({"Sec-Fetch-Site": "same-site"}, 403),  # another port of this machine
        ):
            headers = {"Origin": OURS, "Content-Type": "application/cbor", **more}
            assert (await door.http.post(url, content=body, headers=headers)).status_code == status, more


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
async def test_a_name_that_was_rebound_is_no_page_of_our_own(tmp_path: Path, host: str) -> None:
    settings = Settings(data_dir=tmp_path / "data", host=host)
    async with running(Host(settings)) as started:
        transport = httpx.ASGITransport(app=create_app(started))
        async with httpx.AsyncClient(transport=transport, base_url="http://evil.example:8000") as http:
            door = Door(started, http, started.default)
            assert (await update_from(door, "http://evil.example:8000")).status_code == 403


@pytest.mark.parametrize(("named", "allowed"), [(PAGE, PAGE), ("*", "*")])
async def test_a_page_that_is_named_calls_and_reads(tmp_path: Path, named: str, allowed: str) -> None:
    async with door_for(tmp_path, named) as door:
        preflight = await preflight_from(door, PAGE)
        assert (preflight.status_code, preflight.headers[ALLOWED]) == (200, allowed)
        assert "POST" in preflight.headers["access-control-allow-methods"]
        assert "content-type" in preflight.headers["access-control-allow-headers"]
        response = await update_from(door, PAGE)
        assert (response.status_code, response.headers[ALLOWED]) == (200, allowed)
        assert "access-control-allow-credentials" not in response.headers
        # What is wrong with a message is for the page to read, too.
        wrong = await door.http.post(
            f"/api/v3/canister/{door.canister.id}/call", content=b"x", headers={"Origin": PAGE}
        )
        assert (wrong.status_code, wrong.headers[ALLOWED]) == (400, allowed)


REST_PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}


async def test_a_page_that_is_named_uses_rest(tmp_path: Path) -> None:
    """With a key of its own: the browser asks first, may send it, and may read what the call took."""
    async with door_for(tmp_path, PAGE) as door:
        key = door.host.key_path.read_text().strip()
        page = {"Origin": PAGE, "Authorization": f"Bearer {key}"}
        for path, verb in (
            ("/canisters/llama_cpp/set_max_tokens", "POST"),
            ("/canisters/llama_cpp/files/x", "PUT"),
            ("/canisters/llama_cpp/files/x", "DELETE"),
            ("/run_query", "POST"),
        ):
            asks = {"Origin": PAGE, **REST_PREFLIGHT, "Access-Control-Request-Method": verb}
            preflight = await door.http.options(path, headers=asks)
            assert (preflight.status_code, preflight.headers[ALLOWED]) == (200, PAGE)
            assert verb in preflight.headers["access-control-allow-methods"]
            assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
        called = await door.http.post("/set_max_tokens", json=TOKENS, headers=page)
        assert (called.status_code, called.headers[ALLOWED]) == (200, PAGE)
        assert "X-IC-Instructions" in called.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in called.headers
        # What is wrong is for the page to read, too.
        for headers in ({"Origin": PAGE, "Authorization": "Bearer x"}, {"Origin": PAGE}):
            wrong = await door.http.post("/set_max_tokens", json=TOKENS, headers=headers)
            assert (wrong.status_code, wrong.headers[ALLOWED]) == (401, PAGE)


@pytest.mark.parametrize("named", [(), (PAGE,)])
async def test_a_page_that_is_not_named_reads_nothing_of_rest(tmp_path: Path, named: tuple[str, ...]) -> None:
    async with door_for(tmp_path, *named) as door:
        for origin in ("http://app.example", "null", f"{PAGE}.evil.example"):
            for path in ("/health", "/openapi.json", "/canisters/llama_cpp/files/x"):
                response = await door.http.get(path, headers={"Origin": origin})
                assert not [name for name in response.headers if name.startswith("access-control")]
                asked = await door.http.options(path, headers={"Origin": origin, **REST_PREFLIGHT})
                assert asked.status_code == 403
                assert "--browser-origins" in asked.json()["reject_message"]
                assert not [name for name in asked.headers if name.startswith("access-control")]


async def test_our_own_pages_need_not_be_named(tmp_path: Path) -> None:
    """As /docs, whose browser sends an Origin with what it posts to its own server."""
    async with door_for(tmp_path) as door:
        assert (await door.http.post("/health", headers={"Origin": OURS})).status_code == 200


OWN_HOSTS = ["localhost", "LOCALHOST:8000", "qoctq-giaaa-aaaaa-aaaea-cai.localhost:8000", "127.0.0.1", "[::1]:8000"]
OTHER_HOSTS = [
    "app.example",
    "app.example:8000",
    "localhost.app.example",
    "xlocalhost",
    "127.0.0.1.app.example",
    "[",
    ":",
]


async def statuses_by(host: Host, names: list[str]) -> dict[str, set[int]]:
    """Of all doors, by the name that they are called by."""
    transport = httpx.ASGITransport(app=create_app(host))
    async with httpx.AsyncClient(transport=transport, base_url=OURS) as http:
        found = {}
        for name in names:
            headers = {"Host": name}
            answers = [await http.get(path, headers=headers) for path in ("/healthz", "/docs", "/api/v2/status")]
            answers.append(await http.post("/whoami", headers=headers))
            found[name] = {answer.status_code for answer in answers}
            assert all("--allowed-hosts" in answer.text for answer in answers if answer.status_code == 403)
    return found


async def test_a_server_for_its_own_machine_is_not_called_by_names_that_others_own(tmp_path: Path) -> None:
    """A page whose name was rebound to our address is its own server to the browser, so it sends no Origin."""
    async with running(Host(Settings(data_dir=tmp_path))) as host:
        found = await statuses_by(host, [*OWN_HOSTS, *OTHER_HOSTS])
        assert found == {name: {200} for name in OWN_HOSTS} | {name: {403} for name in OTHER_HOSTS}


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ({"allowed_hosts": ["App.example"]}, set(OTHER_HOSTS) - {"app.example", "app.example:8000"}),
        ({"allowed_hosts": ["*"]}, set()),
        ({"host": "0.0.0.0"}, set()),
        ({"host": "0.0.0.0", "allowed_hosts": ["app.example"]}, set(OTHER_HOSTS) - {"app.example", "app.example:8000"}),
    ],
)
async def test_which_names_count(tmp_path: Path, settings: dict[str, Any], refused: set[str]) -> None:
    async with running(Host(Settings(data_dir=tmp_path, **settings))) as host:
        found = await statuses_by(host, [*OWN_HOSTS, *OTHER_HOSTS])
        assert {name for name, statuses in found.items() if statuses == {403}} == refused
        assert all(statuses in ({200}, {403}) for statuses in found.values())


async def test_who_is_no_page_needs_no_name(tmp_path: Path) -> None:
    async with door_for(tmp_path) as door:
        response = await door.http.get("/api/v2/status")
        assert (response.status_code, response.headers.get(ALLOWED)) == (200, None)
