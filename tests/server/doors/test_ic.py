"""The IC door: what is answered, what is refused and in which words, and that a message is run once."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from canister.api import codec
from canister.api.methods import BY_NAME
from canister.api.records import FileUploadInputRecord, MaxTokensRecord
from canister.config import Settings
from canister.dispatch import messages
from canister.ic import cbor, envelope, hash_tree, principal
from canister.ic.certificate import query_response_message
from canister.ic.identity import Identity
from canister.ic.keys import verify
from canister.runtime.host import Host
from canister.server.app import create_app, running
from canister.state import ingress_history
from tests.server.ic_door import SOMEBODY, Door

pytestmark = pytest.mark.anyio

LIMITS = MaxTokensRecord(max_tokens_update=5, max_tokens_query=6)


# -- what is answered


async def test_status(door: Door) -> None:
    document = cbor.decode((await door.http.get("/api/v2/status")).content)
    assert isinstance(document, dict)
    assert document["root_key"] == door.host.root_key.public_key_der
    assert document["replica_health_status"] == "healthy"


@pytest.mark.parametrize("version", ["v2", "v3"])
async def test_a_query_is_signed_by_the_node(door: Door, version: str) -> None:
    content = door.message("query", "whoami")
    document = await door.send("query", content, SOMEBODY, version)
    (signature,) = document.pop("signatures")
    _, id = envelope.seal(content, SOMEBODY)
    tree = await door.tree([[b"subnet"]])
    key = hash_tree.leaf(tree, b"subnet", door.host.root_key.subnet_id, b"node", signature["identity"], b"public_key")
    assert key is not None
    verify(key, signature["signature"], query_response_message(document, signature["timestamp"], id))
    assert codec.decode_reply(BY_NAME["whoami"], document["reply"]["arg"]).value == SOMEBODY.principal


@pytest.mark.parametrize("version", ["v3", "v4"])
async def test_an_update_is_certified(door: Door, version: str) -> None:
    content = door.message("call", "set_max_tokens", LIMITS)
    document = await door.send("call", content, door.host.identity, version)
    _, id = envelope.seal(content, door.host.identity)
    tree = door.checked(document)
    assert hash_tree.leaf(tree, b"request_status", id, b"status") == b"replied"
    assert door.canister.state.max_tokens_update == 5


async def test_an_update_that_is_polled(door: Door) -> None:
    content = door.message("call", "set_max_tokens", LIMITS)
    body, id = envelope.seal(content, door.host.identity)
    response = await door.post("call", body, "v2")
    assert (response.status_code, response.content) == (202, b"")
    status = None
    for _ in range(200):
        if status in (b"replied", b"rejected"):
            break
        await asyncio.sleep(0.01)
        tree = await door.tree([[b"request_status", id]], door.host.identity)
        status = hash_tree.leaf(tree, b"request_status", id, b"status")
        assert status in (b"processing", b"replied")
    reply = hash_tree.leaf(tree, b"request_status", id, b"reply")
    assert codec.decode_reply(BY_NAME["set_max_tokens"], reply or b"").value.status_code == 200


async def test_an_update_that_fails_replies_all_the_same(door: Door) -> None:
    answer = await door.update("set_max_tokens", LIMITS, None)
    assert answer.is_err
    assert answer.value.Other == "Access Denied"


async def test_a_query_called_as_an_update(door: Door) -> None:
    assert (await door.update("whoami", None, SOMEBODY)).value == SOMEBODY.principal


async def test_a_reject_is_certified(door: Door) -> None:
    content = door.message("call", "set_max_tokens", LIMITS, arg=b"DIDL\0\1\x71\1a")
    document = await door.send("call", content, door.host.identity)
    assert document["status"] == "replied"
    _, id = envelope.seal(content, door.host.identity)
    tree = door.checked(document)
    assert hash_tree.leaf(tree, b"request_status", id, b"status") == b"rejected"
    assert hash_tree.leaf(tree, b"request_status", id, b"reject_code") == b"\x05"
    assert hash_tree.leaf(tree, b"request_status", id, b"error_code") == b"IC0503"
    text = hash_tree.leaf(tree, b"request_status", id, b"reject_message") or b""
    start = f"Error from Canister {door.canister.id}: Canister called `ic0.trap` with message: 'failed to decode"
    assert text.decode().startswith(start)


async def test_what_the_state_tree_holds(door: Door) -> None:
    id, subnet = door.id, door.host.root_key.subnet_id
    tree = await door.tree(
        [
            [b"time"],
            [b"canister", id, b"controllers"],
            [b"canister", id, b"module_hash"],
            [b"canister", id, b"metadata", b"candid:service"],
            [b"subnet", subnet, b"canister_ranges"],
            [b"canister_ranges", subnet],
        ]
    )
    controllers = cbor.decode(hash_tree.leaf(tree, b"canister", id, b"controllers") or b"")
    assert controllers == [principal.from_text(door.host.identity.principal)]
    service = hash_tree.leaf(tree, b"canister", id, b"metadata", b"candid:service") or b""
    assert b"run_update" in service
    assert hash_tree.leaf(tree, b"canister", id, b"module_hash") == hashlib.sha256(service).digest()
    ranges: Any = cbor.decode(hash_tree.leaf(tree, b"subnet", subnet, b"canister_ranges") or b"")
    assert [id, id] in ranges


async def test_an_unknown_request_has_no_status(door: Door) -> None:
    tree = await door.tree([[b"request_status", bytes(32)]], SOMEBODY)
    assert hash_tree.find(tree, [b"request_status"]) is None


async def test_the_state_of_the_subnet(door: Door) -> None:
    subnet = door.host.root_key.subnet_id
    body, _ = envelope.seal(door.content("read_state", paths=[[b"subnet", subnet, b"public_key"]]), None)
    response = await door.post("subnet/read_state", body, id=subnet)
    tree = door.checked(cbor.decode(response.content))
    assert hash_tree.leaf(tree, b"subnet", subnet, b"public_key") == door.host.root_key.public_key_der
    assert (await door.post("subnet/read_state", body, id=door.id)).status_code == 400


# -- what is refused before it is run


@pytest.mark.parametrize("kind", ["call", "query"])
async def test_no_such_method(door: Door, kind: str) -> None:
    document = await door.send(kind, door.message(kind, "run_updat"), SOMEBODY)
    assert document["status"] == ("non_replicated_rejection" if kind == "call" else "rejected")
    mode = "update" if kind == "call" else "query"
    text = f"Error from Canister {door.canister.id}: Canister has no {mode} method 'run_updat'."
    assert (document["reject_code"], document["error_code"]) == (5, "IC0536")
    assert document["reject_message"].startswith(text)


async def test_an_update_called_as_a_query(door: Door) -> None:
    document = await door.send("query", door.message("query", "set_max_tokens", LIMITS), door.host.identity)
    text = f"Error from Canister {door.canister.id}: Canister has no query method 'set_max_tokens'."
    assert document["reject_message"] == text
    assert document["error_code"] == "IC0536"


@pytest.mark.parametrize("kind", ["call", "query"])
async def test_no_such_canister(door: Door, kind: str) -> None:
    other = principal.from_text(principal.canister_id(77))
    body, _ = envelope.seal(door.message(kind, "health") | {"canister_id": other}, SOMEBODY)
    document: Any = cbor.decode((await door.post(kind, body, id=other)).content)
    assert (document["reject_code"], document["error_code"]) == (3, "IC0301")
    assert document["reject_message"] == f"Canister {principal.to_text(other)} not found"


async def test_a_message_to_another_canister(door: Door) -> None:
    other = principal.from_text(door.host.canisters[1].id)
    body, _ = envelope.seal(door.message("call", "health"), SOMEBODY)
    response = await door.post("call", body, id=other)
    assert response.status_code == 400
    assert response.text == (
        f"Specified CanisterId {door.canister.id} does not match effective canister id in URL "
        f"{principal.to_text(other)}"
    )


async def test_delegations_to_another_canister(door: Door) -> None:
    later = time.time_ns() + 60 * 10**9
    other = envelope.delegate(SOMEBODY, Identity.generate(), later, [principal.from_text(door.host.canisters[1].id)])
    response = await door.post("call", envelope.seal(door.message("call", "health"), other)[0])
    assert response.status_code == 400
    assert response.text.endswith(f"Canister '{door.canister.id}' is not one of the delegation targets.")
    here = envelope.delegate(SOMEBODY, Identity.generate(), later, [door.id])
    assert (await door.update("whoami", None, here)).value == SOMEBODY.principal


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"ingress_expiry": 1}, "Invalid request expiry: Specified ingress_expiry not within expected range: Minimum"),
        ({"method_name": None}, "Could not parse body as call request: field method_name"),
        ({"canister_id": bytes(40)}, "Could not parse body as call request: field canister_id"),
    ],
)
async def test_envelopes_that_do_not_count(door: Door, changes: dict[str, Any], text: str) -> None:
    response = await door.post("call", envelope.seal(door.message("call", "health") | changes, SOMEBODY)[0])
    assert response.status_code == 400
    assert response.text.startswith(text)
    assert response.headers["content-type"].startswith("text/plain")


async def test_a_tampered_envelope(door: Door) -> None:
    document: Any = cbor.decode(envelope.seal(door.message("call", "health"), SOMEBODY)[0])
    document["content"]["method_name"] = "ready"
    response = await door.post("call", cbor.encode(document))
    assert response.status_code == 400
    assert "due to: Invalid signature: Invalid basic signature: EcdsaSecp256k1 signature" in response.text


async def test_more_than_two_megabytes(door: Door) -> None:
    for content in (bytes(2 * 1024 * 1024 + 1), _blocks(3)):
        response = await door.http.post(f"/api/v3/canister/{door.canister.id}/call", content=content)
        assert response.status_code == 413
        assert "is larger than the max allowed 2097152" in response.text


async def _blocks(n: int) -> AsyncIterator[bytes]:
    for _ in range(n):
        yield bytes(1024 * 1024)


async def test_the_status_of_somebody_elses_request(door: Door) -> None:
    content = door.message("call", "set_max_tokens", LIMITS)
    await door.send("call", content, door.host.identity)
    _, id = envelope.seal(content, door.host.identity)
    for sender in (None, SOMEBODY):
        body, _ = envelope.seal(door.content("read_state", paths=[[b"request_status", id, b"status"]]), sender)
        response = await door.post("read_state", body)
        assert response.status_code == 403
        assert response.text == "The user tries to access Request ID not signed by the caller."


@pytest.mark.parametrize(
    ("paths", "http_status", "text"),
    [
        ([[b"request_status", b"short"]], 400, "Invalid request id in paths."),
        ([[b"request_status", bytes(32)], [b"request_status", b"x" * 32]], 400, "More than one non-unique request ID"),
        ([[b"canister", b"\1\2", b"controllers"]], 400, "Effective principal id in URL "),
        ([[b"canister", bytes(99), b"controllers"]], 400, "Effective principal id in URL "),
        ([[b"nothing"]], 404, "Invalid path requested."),
        ([[]], 404, "Invalid path requested."),
        ([[b"request_status"]], 404, "Invalid path requested."),
    ],
)
async def test_paths_that_may_not_be_asked_for(
    door: Door, paths: list[list[bytes]], http_status: int, text: str
) -> None:
    body, _ = envelope.seal(door.content("read_state", paths=paths), SOMEBODY)
    response = await door.post("read_state", body)
    assert response.status_code == http_status
    assert response.text.startswith(text)


async def test_paths_and_verbs(door: Door) -> None:
    assert (await door.http.get(f"/api/v3/canister/{door.canister.id}/call")).status_code == 405
    assert (await door.http.post("/api/v3/canister/not-a-principal/call", content=b"")).status_code == 400
    assert (await door.http.post(f"/api/v9/canister/{door.canister.id}/call", content=b"")).status_code == 404


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["call", "query", "read_state"]),
    st.binary(max_size=60),
    st.lists(st.integers(0, 10**6), max_size=3),
)
async def test_fuzzed_envelopes_never_give_a_500(door: Door, kind: str, junk: bytes, positions: list[int]) -> None:
    fields = {"paths": [[b"time"]]} if kind == "read_state" else {}
    content = door.message(kind, "health") if kind != "read_state" else door.content(kind, **fields)
    body = bytearray(envelope.seal(content, SOMEBODY)[0])
    for number, position in enumerate(positions):
        body[position % len(body)] ^= junk[number % len(junk)] if junk else 1
    for data in (bytes(body), junk, bytes(body[: len(body) // 2]) + junk):
        response = await door.post(kind, data)
        assert response.status_code in (200, 400), response.text


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["set_max_tokens", "run_update", "file_upload_chunk"]), st.binary(max_size=80))
async def test_fuzzed_arguments_never_give_a_500(door: Door, method: str, junk: bytes) -> None:
    content = door.message("call", "health") | {"method_name": method, "arg": b"DIDL" + junk, "nonce": b"1"}
    document = await door.send("call", content, door.host.identity)
    assert document["status"] == "replied"


# -- once


async def test_a_message_that_comes_again_is_answered_from_the_record(door: Door) -> None:
    arg = FileUploadInputRecord(filename="once.bin", chunk=b"abc", chunksize=3, offset=0)
    content = door.message("call", "file_upload_chunk", arg, nonce=b"once")
    body, id = envelope.seal(content, door.host.identity)
    first, *others = await asyncio.gather(*(door.post("call", body) for _ in range(5)))
    later = await door.post("call", body)
    replies = {
        hash_tree.leaf(door.checked(cbor.decode(response.content)), b"request_status", id, b"reply")
        for response in (first, *others, later)
    }
    assert len(replies) == 1
    logged = [call for call in door.canister.call_log.newest(None, None, 100) if call.method == "file_upload_chunk"]
    assert len(logged) == 1


async def test_an_error_comes_again_too(door: Door) -> None:
    arg = FileUploadInputRecord(filename="gap.bin", chunk=b"abc", chunksize=3, offset=7)
    content = door.message("call", "file_upload_chunk", arg, nonce=b"gap")
    answers = {str(await door.update("file_upload_chunk", arg, door.host.identity, **content)) for _ in range(2)}
    assert len(answers) == 1
    assert "is_err=True" in answers.pop()


async def test_old_records_are_purged(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    content = door.message("call", "set_max_tokens", LIMITS, nonce=b"old")
    _, id = envelope.seal(content, door.host.identity)
    await door.send("call", content, door.host.identity)
    assert messages.find_message(door.canister, id) is not None
    later = time.time_ns() + 10 * 60 * 10**9
    monkeypatch.setattr(ingress_history.time, "time_ns", lambda: later)
    assert messages.find_message(door.canister, id) is None


async def test_a_record_survives_a_restart(tmp_path: Path) -> None:
    async def sent(body: bytes, times: int) -> tuple[list[Any], bytes, int]:
        async with running(Host(Settings(data_dir=tmp_path))) as host:
            transport = httpx.ASGITransport(app=create_app(host))
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
                door = Door(host, http, host.default)
                body = body or envelope.seal(door.message("call", "set_max_tokens", LIMITS), host.identity)[0]
                trees = [door.checked(cbor.decode((await door.post("call", body)).content)) for _ in range(times)]
                replies = [hash_tree.find(tree, [b"request_status"]) for tree in trees]
                return replies, body, len(host.default.call_log.newest(None, None, 100))

    before, body, n_before = await sent(b"", 2)
    after, _, n_after = await sent(body, 1)
    assert before == [before[0]] * 2 == after * 2
    assert n_before == n_after == 1


async def test_a_call_goes_on_when_its_client_goes_away(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door.host, "settings", door.host.settings.model_copy(update={"sync_call_seconds": 0.0}))
    content = door.message("call", "set_max_tokens", LIMITS, nonce=b"slow")
    body, id = envelope.seal(content, door.host.identity)
    response = await door.post("call", body)
    assert response.status_code == 202
    assert "read_state" in response.text
    await door.canister.ingress.finished()
    known = messages.find_message(door.canister, id)
    assert known is not None
    assert known.status == "replied"


async def test_a_message_to_a_stopping_canister_leaves_no_record(tmp_path: Path) -> None:
    async with running(Host(Settings(data_dir=tmp_path))) as host:
        transport = httpx.ASGITransport(app=create_app(host))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            door = Door(host, http, host.default)
            host.default._stopping = True
            content = door.message("call", "set_max_tokens", LIMITS)
            for version in ("v2", "v3"):
                document = await door.send("call", content, host.identity, version)
                assert document["status"] == "non_replicated_rejection"
                assert document["error_code"] == "IC0509"
            _, id = envelope.seal(content, host.identity)
            assert messages.find_message(host.default, id) is None
