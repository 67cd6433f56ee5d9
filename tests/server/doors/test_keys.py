"""API keys over REST: codes for browsers, and keys that controllers make."""

from __future__ import annotations

import httpx
import pytest

from canister.dispatch.key_desk import BROWSER, BROWSER_SECONDS
from canister.runtime.host import Host
from tests.server.conftest import Connect

pytestmark = pytest.mark.anyio


async def test_a_code_becomes_a_key_of_who_made_it(controller: httpx.AsyncClient, connect: Connect, host: Host) -> None:
    answer = await controller.post("/session/codes")
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    anonymous = connect()
    made = (await anonymous.post("/session", json={"code": answer.json()["code"]})).json()
    assert made["principal"] == host.identity.principal
    found = host.keys.find(made["key"])
    assert found is not None
    assert found.name.startswith(BROWSER)
    assert found.expires_ns == made["expires_ns"]
    assert found.expires_ns - found.created_ns == BROWSER_SECONDS * 10**9
    again = await anonymous.post("/session", json={"code": answer.json()["code"]})
    assert again.status_code == 401
    assert "canister console" in again.json()["reject_message"]
    own = connect(made["key"])
    assert (await own.post("/whoami")).json() == host.identity.principal
    assert (await own.delete("/session")).status_code == 200
    assert (await own.post("/whoami")).status_code == 401


async def test_nobody_in_particular_gets_no_code(anonymous: httpx.AsyncClient) -> None:
    answer = await anonymous.post("/session/codes")
    assert answer.status_code == 401
    assert "Authorization" in answer.json()["reject_message"]


async def test_a_key_that_is_no_browsers_is_not_revoked_by_signing_out(controller: httpx.AsyncClient) -> None:
    answer = await controller.delete("/session")
    assert answer.status_code == 403
    assert "canister api-key revoke" in answer.json()["reject_message"]
    assert (await controller.post("/whoami")).status_code == 200


async def test_old_keys_of_browsers_go_when_the_next_is_made(controller: httpx.AsyncClient, host: Host) -> None:
    host.keys.create(f"{BROWSER}old", lifetime_seconds=0)
    code = (await controller.post("/session/codes")).json()["code"]
    assert (await controller.post("/session", json={"code": code})).status_code == 200
    assert host.keys.get(f"{BROWSER}old") is None


async def test_keys_are_made_listed_and_revoked(controller: httpx.AsyncClient, connect: Connect) -> None:
    made = (await controller.post("/keys", json={"name": "ci", "expires": "30d"})).json()
    stranger = connect(made["key"])
    assert (await stranger.post("/whoami")).json() == made["principal"]
    listed = (await controller.get("/keys")).json()["keys"]
    (found,) = [key for key in listed if key["name"] == "ci"]
    assert found["principal"] == made["principal"]
    assert found["expires_ns"] == made["expires_ns"]
    assert made["key"] not in str(listed)
    for verb, path in (("GET", "/keys"), ("POST", "/keys"), ("DELETE", "/keys/ci")):
        refused = await stranger.request(verb, path, json={"name": "mine"} if verb == "POST" else None)
        assert refused.status_code == 403, path
    same = await controller.post("/keys", json={"name": "ci"})
    assert same.status_code == 409
    assert (await controller.delete("/keys/ci")).status_code == 200
    assert (await stranger.post("/whoami")).status_code == 401
    gone = await controller.delete("/keys/ci")
    assert gone.status_code == 404


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "not JSON"),
        (b"[]", "no object"),
        (b"{}", "'name' must be a text"),
        (b'{"name": 7}', "'name' must be a text"),
        (b'{"name": "a", "principal": 7}', "'principal' must be a text"),
        (b'{"name": "a", "secret": "x"}', "'secret' is not known"),
        (b'{"name": "a b"}', "no name for an API key"),
        (b'{"name": "a", "expires": "soon"}', "no duration"),
        (b'{"name": "a", "principal": "x"}', ""),
        (b'{"name": "console-mine"}', "choose another"),
    ],
)
async def test_what_is_wrong_is_named(controller: httpx.AsyncClient, body: bytes, told: str) -> None:
    answer = await controller.post("/keys", content=body)
    assert answer.status_code == 400
    assert told in answer.text


async def test_other_verbs_are_told_the_right_ones(controller: httpx.AsyncClient) -> None:
    answer = await controller.get("/session")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST, DELETE")
