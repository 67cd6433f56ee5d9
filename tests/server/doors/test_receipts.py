"""Receipts over REST: who gets which, that they hold, and that no byte of one can be another."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from canister.ic import certificate, hash_tree, principal
from canister.ic.receipts import document, tree
from canister.ic.receipts.check import Proven, check, check_contents, check_together, gaps
from canister.ic.receipts.document import Receipt, ReceiptError
from canister.ic.receipts.record import decode
from tests.server.served import CHAT, Served, served

pytestmark = pytest.mark.anyio

CACHE = "talk.cache"


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with served(tmp_path_factory.mktemp("receipts"), with_model=True) as found:
        yield found


@pytest.fixture(scope="module")
async def asker(server: Served) -> AsyncIterator[httpx.AsyncClient]:
    """Who makes the calls."""
    async with server.client("asker") as client:
        yield client


@pytest.fixture(scope="module")
async def ids(asker: httpx.AsyncClient) -> list[str]:
    """Of a conversation of three calls."""
    return [await ask(asker, *flags) for flags in (["--seed", "7"], [], [])]


async def ask(client: httpx.AsyncClient, *flags: str) -> str:
    args = ["-p", CHAT.format("Who are you?"), "--prompt-cache", CACHE, "--prompt-cache-all", "-n", "4", *flags]
    answer = await client.post("/run_update", json={"args": args})
    assert answer.status_code == 200, answer.text
    return answer.headers["x-ic-receipt"]


async def fetch(client: httpx.AsyncClient, id: str, since: int = 0, **headers: str) -> bytes:
    answer = await client.get(f"/canisters/llama_cpp/receipts/{id}", params={"since": since}, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.content


async def proven(server: Served, client: httpx.AsyncClient, id: str, since: int = 0) -> Proven:
    receipt, _ = document.read(await fetch(client, id, since))
    return check(receipt, server.host.root_key.public_key_der, id)


async def test_that_both_forms_hold_and_have_the_tokens(
    server: Served, asker: httpx.AsyncClient, ids: list[str]
) -> None:
    for accept, form in (("application/json", "json"), ("application/cbor", "cbor")):
        receipt, found = document.read(await fetch(asker, ids[0], accept=accept))
        assert found == form
        record = check(receipt, server.host.root_key.public_key_der, ids[0]).record
        assert record.chat is not None
        assert (record.chat.n_prompt, record.chat.n_loaded) == (10, 0)  # as many as a call may decode here
        assert (record.method, record.outcome, record.chat.seed, record.chat.cache) == ("run_update", "ok", 7, CACHE)
        assert receipt.replay is not None
        assert len(receipt.replay.words) == 4 * record.chat.n_after  # the later calls went on behind them
        shown = json.loads(document.to_json(receipt))
        assert shown["call"]["canister"] == server.host.default.id
        assert shown["call"]["instructions"] == record.instructions


async def test_that_argument_and_output_are_those_of_the_hashes(server: Served, asker: httpx.AsyncClient) -> None:
    arg = {"args": ["-p", "Hello", "-n", "3", "--seed", "1"]}
    answer = await asker.post("/run_update", json=arg)
    found = await proven(server, asker, answer.headers["x-ic-receipt"])
    output = {name: value for name, value in answer.json()["Ok"].items() if value is not None}
    check_contents(found.record, arg, output)
    with pytest.raises(ReceiptError, match="the argument is not the one"):
        check_contents(found.record, {"args": ["-p", "Hello", "-n", "4", "--seed", "1"]})
    with pytest.raises(ReceiptError, match="the output is not the one"):
        check_contents(found.record, output={**output, "output": "something else"})


async def test_that_a_conversation_is_whole_and_of_one_chain(
    server: Served, asker: httpx.AsyncClient, ids: list[str]
) -> None:
    calls: list[Proven] = []
    for id in ids:
        calls.append(await proven(server, asker, id, calls[-1].receipt.size if calls else 0))
    assert check_together(calls) == []
    assert gaps(calls) == []
    (gap,) = gaps([calls[0], calls[2]])
    assert f"call {calls[0].record.index} left its chat" in str(gap)
    listed = (await asker.get("/canisters/llama_cpp/receipts", params={"cache": CACHE})).json()["receipts"]
    assert [row["id"] for row in reversed(listed)][:3] == ids
    newest = (await asker.get("/canisters/llama_cpp/receipts", params={"newest": 2})).json()["receipts"]
    numbers = [int(row["id"].partition("-")[0]) for row in newest]
    assert len(numbers) == 2
    assert numbers[0] > numbers[1] >= calls[1].record.index
    later = await proven(server, asker, ids[0])
    if later.receipt.size != calls[-1].receipt.size:
        assert "--since" in check_together([*calls, later])[0]


async def test_that_a_query_has_one_if_it_asks_for_it(server: Served, asker: httpx.AsyncClient) -> None:
    arg = {"args": ["-p", "Hello", "-n", "3", "--seed", "1"]}
    size = (await asker.get("/canisters/llama_cpp/receipts")).json()["size"]
    assert "x-ic-receipt" not in (await asker.post("/run_query", json=arg)).headers
    answer = await asker.post("/run_query", json=arg, headers={"X-IC-Receipt": "1"})
    record = (await proven(server, asker, answer.headers["x-ic-receipt"])).record
    assert (record.index, record.method, record.is_query, record.cycles) == (size, "run_query", True, 0)
    output = {name: value for name, value in answer.json()["Ok"].items() if value is not None}
    check_contents(record, arg, output)
    assert record.chat is not None
    assert record.chat.n_prompt > 0
    assert (await asker.get("/canisters/llama_cpp/receipts")).json()["size"] == size + 1


async def test_that_a_whole_answer_names_those_of_its_calls(server: Served, asker: httpx.AsyncClient) -> None:
    question = {"messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 12}
    answer = await asker.post("/v1/chat/completions", json=question)
    usage = answer.json()["usage"]
    ids = answer.headers["x-ic-receipts"].split(", ")
    assert usage["receipts"] == ids
    assert len(ids) == usage["calls"] > 1
    calls = [await proven(server, asker, id) for id in ids]
    assert {one.record.method for one in calls} == {"generate"}
    assert sum(one.record.instructions for one in calls) == usage["instructions"]
    assert gaps(calls) == []
    lines = (
        await asker.post(
            "/v1/chat/completions", json={**question, "stream": True, "stream_options": {"include_usage": True}}
        )
    ).text
    told = [json.loads(line[6:]) for line in lines.splitlines() if line.startswith("data: {")]
    assert len(told[-1]["usage"]["receipts"]) == told[-1]["usage"]["calls"]
    kept = await asker.post("/v1/chat/completions", json=question, headers={"Idempotency-Key": "one"})
    assert "receipts" not in kept.json()["usage"]  # when it is read again they are not known


async def test_that_nobody_gets_those_of_others(server: Served, asker: httpx.AsyncClient, ids: list[str]) -> None:
    async with server.client("stranger") as stranger, server.client() as controller, httpx.AsyncClient() as nobody:
        path = f"/canisters/llama_cpp/receipts/{ids[0]}"
        assert (await stranger.get(path)).status_code == 404
        assert (await nobody.get(server.url + path)).status_code == 401
        theirs = (await stranger.get("/canisters/llama_cpp/receipts", params={"cache": CACHE})).json()
        assert theirs == {"receipts": []}
        receipt, _ = document.read(await fetch(controller, ids[0]))
        assert receipt.replay is None  # a controller sees that there was a call, not what was said
    number, _, digits = ids[0].partition("-")
    wrong = f"{number}-{digits[::-1]}"
    told = await asker.get(f"/canisters/llama_cpp/receipts/{wrong}")
    assert (told.status_code, "another one" in told.text) == (404, True)
    for bad in ("x", "1-2", "-1", "9" * 19, "9" * 30):
        assert (await asker.get(f"/canisters/llama_cpp/receipts/{bad}")).status_code == 400
    assert (await asker.get(path, params={"since": "x"})).status_code == 400
    assert (await asker.post(path)).status_code == 405


async def test_that_the_method_gives_the_same_receipt_to_the_same_callers(
    server: Served, asker: httpx.AsyncClient, ids: list[str]
) -> None:
    key = server.host.root_key.public_key_der
    for call_id in (ids[1], ids[1].partition("-")[0]):
        told = (await asker.post("/get_receipt", json={"call_id": call_id, "since": "1"})).json()["Ok"]
        receipt, form = document.read(base64.b64decode(told["file"]))
        found = check(receipt, key, ids[1])
        assert (form, receipt.since, told["id"], told["n_records"]) == ("cbor", 1, ids[1], receipt.size)
        assert receipt.replay is not None
        assert receipt.replay.words
        shown = (found.record.method, found.record.outcome, found.record.instructions, found.record.cycles)
        assert (told["method"], told["outcome"], told["instructions"], told["cycles"]) == shown
        assert (told["caller"], told["timestamp_ns"]) == (principal.to_text(found.record.caller), found.record.time_ns)
    async with server.client("stranger") as stranger, server.client() as controller, httpx.AsyncClient() as nobody:
        theirs = await controller.post("/get_receipt", json={"call_id": ids[1]})
        assert document.read(base64.b64decode(theirs.json()["Ok"]["file"]))[0].replay is None
        for client, call_id, status, text in (
            (stranger, ids[1], 404, "there is no receipt"),
            (asker, "999999", 404, "there is no receipt 999999 of a call of yours"),
            (asker, "9" * 19, 400, "is no id of a receipt"),
            (asker, "x", 400, "'x' is no id of a receipt"),
        ):
            answer = await client.post("/get_receipt", json={"call_id": call_id})
            assert (answer.status_code, text in answer.json()["Err"]["Other"]) == (status, True), answer.text
        assert (await nobody.post(f"{server.url}/get_receipt", json={"call_id": ids[1]})).status_code == 401
    late = await asker.post("/get_receipt", json={"call_id": ids[1], "since": 10**6})
    assert (late.status_code, "there is no proof" in late.text) == (404, True)


async def test_that_admins_have_calls_decoded_again(server: Served, asker: httpx.AsyncClient, ids: list[str]) -> None:
    number = ids[1].partition("-")[0]
    path = f"/canisters/llama_cpp/receipts/{number}/audit"
    async with server.client() as controller:
        told = (await controller.post(path)).json()
        found = await proven(server, asker, ids[1])
        assert found.record.chat is not None
        assert (told["call"], told["outcome"], told["cost"]) == (int(number), "equal", "")
        nothing = (await controller.post("/canisters/llama_cpp/receipts/0/audit")).json()
        assert (nothing["outcome"], nothing["reason"]) == ("drew none", "it decoded nothing")
        gone = (await controller.post("/canisters/llama_cpp/receipts/999999/audit")).json()
        assert (gone["outcome"], gone["reason"]) == ("not decoded", "there is no such call")
        assert (await controller.post("/canisters/llama_cpp/receipts/x/audit")).status_code == 400
        assert (await controller.get(path)).status_code == 405
        assert (await controller.get("/canisters/llama_cpp/receipts")).json()["first"] == 0
    assert (await asker.post(path)).status_code == 401  # its own call, but it is no admin


async def test_that_the_head_is_certified(server: Served, asker: httpx.AsyncClient) -> None:
    old = (await asker.get("/canisters/llama_cpp/receipts")).json()
    await ask(asker)
    head = (await asker.get("/canisters/llama_cpp/receipts", params={"since": old["size"]})).json()
    assert head["size"] == old["size"] + 1
    path = [bytes.fromhex(item) for item in head["consistency"]]
    tree.check_consistency(old["size"], bytes.fromhex(old["root"]), head["size"], bytes.fromhex(head["root"]), path)
    canister_id = principal.from_text(server.host.default.id)
    key = server.host.root_key.public_key_der
    state, _ = certificate.verify_of_any_age(bytes.fromhex(head["certificate"]), key, canister_id)
    wanted = document.certified_data(head["size"], bytes.fromhex(head["root"]))
    assert hash_tree.leaf(state, b"canister", canister_id, b"certified_data") == wanted


@pytest.mark.parametrize("is_whole", [False, pytest.param(True, marks=pytest.mark.nightly)])
async def test_that_every_flipped_bit_is_found(
    server: Served, asker: httpx.AsyncClient, ids: list[str], is_whole: bool
) -> None:
    """By day, one bit of each byte in CBOR and of each seventh in JSON."""
    key = server.host.root_key.public_key_der
    for accept, step in (("application/json", 1 if is_whole else 7), ("application/cbor", 1)):
        whole = await fetch(asker, ids[1], accept=accept, since=3)
        receipt, _ = document.read(whole)
        check(receipt, key, ids[1])
        for at in range(0, len(whole), step):
            for bit in range(8) if is_whole else (at % 8,):
                changed = bytearray(whole)
                changed[at] ^= 1 << bit
                with pytest.raises(ReceiptError):
                    check(document.read(bytes(changed))[0], key, ids[1])


def _forged(whole: bytes, **changes: object) -> Receipt:
    receipt, _ = document.read(whole)
    fields = {name: getattr(receipt, name) for name in Receipt.__dataclass_fields__}
    return Receipt(**{**fields, **changes})  # type: ignore[arg-type]


async def test_that_parts_of_another_receipt_do_not_fit(
    server: Served, asker: httpx.AsyncClient, ids: list[str]
) -> None:
    one, other = [document.read(await fetch(asker, id))[0] for id in ids[:2]]
    whole = document.to_cbor(one)
    key = server.host.root_key.public_key_der
    for changes, told in (
        ({"record": other.record}, "another record|the path|another head"),
        ({"path": other.path, "size": other.size - 1}, "another head|path"),
        ({"terms": b"\xa0"}, "terms are not those"),
        ({"root_key": key[:-1] + b"\0"}, "root key|certificate"),
        ({"replay": other.replay}, "tokens beside the record"),
    ):
        with pytest.raises(ReceiptError, match=told):
            check(_forged(whole, **changes), key)  # type: ignore[arg-type]
    assert decode(one.record).index + 1 == decode(other.record).index
