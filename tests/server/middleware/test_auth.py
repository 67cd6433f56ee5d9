"""Credentials: who calls, and that no path takes a wrong key for anybody."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from canister.ic.principal import ANONYMOUS
from canister.runtime.host import Host

Connect = Callable[..., httpx.AsyncClient]

pytestmark = pytest.mark.anyio

PATHS = [
    ("GET", "/"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/canisters"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("POST", "/health"),
    ("GET", "/whoami"),
    ("POST", "/canisters/llama_cpp/run_update"),
    ("GET", "/canisters/llama_cpp/files/f"),
    ("PUT", "/canisters/llama_cpp/files/f"),
    ("GET", "/no/such/path"),
]


async def whoami(client: httpx.AsyncClient, header: str | None = None) -> httpx.Response:
    return await client.get("/whoami", headers={} if header is None else {"Authorization": header})


async def test_no_header_is_anonymous(anonymous: httpx.AsyncClient) -> None:
    assert (await whoami(anonymous)).json() == ANONYMOUS


async def test_a_key_is_its_principal(host: Host, anonymous: httpx.AsyncClient) -> None:
    key = host.keys.create("agent", replace=True)
    known = host.keys.get("agent")
    assert known is not None
    for header in (f"Bearer {key}", f"bearer {key}", f"BEARER   {key} "):
        assert (await whoami(anonymous, header)).json() == known.principal


@pytest.mark.parametrize(
    "header",
    [
        "",
        " ",
        "Bearer",
        "Bearer ",
        "Bearer x",
        "Bearer lc_00000000_" + "A" * 43,
        "Basic dXNlcjpwYXNz",
        "{key}",
        "Token {key}",
    ],
)
async def test_a_header_that_does_not_count_is_401(host: Host, anonymous: httpx.AsyncClient, header: str) -> None:
    key = host.keys.create("agent", replace=True)
    response = await whoami(anonymous, header.format(key=key))
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Bearer")
    content = response.json()
    assert (content["reject_code"], content["error_code"]) == (4, "unauthenticated")
    assert "anonymous" in content["reject_message"]
    assert key not in response.text


async def test_two_headers_are_401(host: Host, anonymous: httpx.AsyncClient) -> None:
    key = host.keys.create("agent", replace=True)
    headers = [("Authorization", f"Bearer {key}"), ("Authorization", f"Bearer {key}")]
    assert (await anonymous.get("/whoami", headers=headers)).status_code == 401


@pytest.mark.parametrize(("verb", "path"), PATHS)
async def test_every_path_refuses_a_wrong_key(connect: Connect, verb: str, path: str) -> None:
    response = await connect("lc_00000000_" + "A" * 43).request(verb, path)
    assert response.status_code == 401
    assert response.json()["error_code"] == "unauthenticated"


async def test_keys_made_and_revoked_meanwhile(host: Host, connect: Connect) -> None:
    client = connect(host.keys.create("agent", replace=True))
    assert (await whoami(client)).status_code == 200
    host.keys.revoke("agent")
    assert (await whoami(client)).status_code == 401


async def test_an_expired_key(host: Host, connect: Connect) -> None:
    client = connect(host.keys.create("agent", lifetime_seconds=0, replace=True))
    assert (await whoami(client)).status_code == 401
