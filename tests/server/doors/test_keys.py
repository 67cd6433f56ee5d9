"""API keys over REST: codes for browsers, and keys that controllers make."""

from __future__ import annotations

import time

import httpx
import pytest

from canister.dispatch.key_desk import BROWSER, BROWSER_SECONDS, MAX_BROWSERS_OF_CALLER
from canister.ic import envelope, principal
from canister.ic.identity import Identity
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


async def test_keys_come_by_pages(controller: httpx.AsyncClient, host: Host) -> None:
    for n in range(5):
        host.keys.create(f"page-{n}")
    found: list[str] = []
    asked: dict[str, str | int] = {"limit": 2}
    while True:
        page = (await controller.get("/keys", params=asked)).raise_for_status().json()
        found += [key["name"] for key in page["keys"]]
        if page["next"] is None:
            break
        assert len(page["keys"]) == 2
        asked["after"] = page["next"]
    everything = (await controller.get("/keys")).json()
    assert (
        found
        == [key["name"] for key in everything["keys"]]
        == [key.name for page in host.keys.pages(2) for key in page]
    )
    assert found[-5:] == [f"page-{n}" for n in range(5)]
    assert "next" not in everything
    wrong = await controller.get("/keys", params={"after": "x"})
    assert (wrong.status_code, "after: 'x' is no place" in wrong.text) == (400, True)
    for n in range(5):
        host.keys.revoke(f"page-{n}")


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


def signed(
    signer: Identity | envelope.Delegated, canister: str, method: str = "console_session", nonce: bytes = b"n" * 16
) -> bytes:
    content = {
        "request_type": "call",
        "nonce": nonce,
        "ingress_expiry": time.time_ns() + 60 * 10**9,
        "canister_id": principal.from_text(canister),
        "method_name": method,
        "arg": b"",
    }
    return envelope.seal(content, signer)[0]


async def test_a_signed_message_is_worth_a_key_once(connect: Connect, host: Host) -> None:
    someone, anonymous = Identity.generate(), connect()
    body, headers = signed(someone, host.default.id), {"Content-Type": "application/cbor"}
    made = (await anonymous.post("/session", content=body, headers=headers)).json()
    assert made["principal"] == someone.principal
    assert (await connect(made["key"]).post("/whoami")).json() == someone.principal
    again = await anonymous.post("/session", content=body, headers=headers)
    assert (again.status_code, "before" in again.json()["reject_message"]) == (401, True)


async def test_a_key_ends_with_the_delegation_that_it_was_made_by(connect: Connect, host: Host) -> None:
    giver, taker = Identity.generate(), Identity.generate()
    until = time.time_ns() + 600 * 10**9
    body = signed(envelope.delegate(giver, taker, until), host.default.id)
    made = (await connect().post("/session", content=body, headers={"Content-Type": "application/cbor"})).json()
    assert made["principal"] == giver.principal
    assert made["expires_ns"] <= until


async def test_what_is_wrong_with_a_signed_message_is_told(connect: Connect, host: Host) -> None:
    someone = Identity.generate()
    good = signed(someone, host.default.id, nonce=b"w" * 16)
    wrong = bytearray(good)
    wrong[-1] ^= 1
    for body, told, status in (
        (bytes(wrong), "signature", 400),
        (b"x", "Could not parse body", 400),
        (signed(someone, host.default.id, "whoami"), "console_session", 400),
        (signed(someone, host.default.id, nonce=b"short"), "nonce", 400),
        (signed(someone, "aaaaa-aa"), "", 400),
    ):
        answer = await connect().post("/session", content=body, headers={"Content-Type": "application/cbor"})
        assert answer.status_code >= status
        assert answer.status_code < 500
        assert told in answer.text


async def test_a_caller_has_so_many_browsers_and_the_oldest_goes(connect: Connect, host: Host) -> None:
    someone = Identity.generate()
    keys = []
    for n in range(MAX_BROWSERS_OF_CALLER + 1):
        body = signed(someone, host.default.id, nonce=n.to_bytes(16))
        answer = await connect().post("/session", content=body, headers={"Content-Type": "application/cbor"})
        keys.append(answer.json()["key"])
    assert host.keys.find(keys[0]) is None
    assert all(host.keys.find(key) is not None for key in keys[1:])


async def test_strangers_cannot_fill_the_list_of_keys(
    connect: Connect, controller: httpx.AsyncClient, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("canister.dispatch.key_desk.MAX_BROWSERS", 1)
    body = signed(Identity.generate(), host.default.id)
    refused = await connect().post("/session", content=body, headers={"Content-Type": "application/cbor"})
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
    code = (await controller.post("/session/codes")).json()["code"]
    assert (await connect().post("/session", json={"code": code})).status_code == 200
