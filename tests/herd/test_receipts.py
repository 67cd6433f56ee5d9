"""Receipts in front of a herd: one chain, whichever worker ran a call, and none lost with a worker."""

from __future__ import annotations

import base64
import os
import signal
from pathlib import Path

import pytest

from canister.cli.verify.run import Asked, verify
from canister.herd.tries import FENCE_BITS
from canister.ic.receipts import check, document
from canister.ic.receipts.check import Proven
from canister.ic.receipts.document import Receipt
from tests.harness import CHAT_MODEL
from tests.herd.herds import InProcess, chat, herd_in
from tests.traces import until

pytestmark = pytest.mark.anyio

HEADER = "x-ic-receipt"


async def fetched(herd: InProcess, id: str, since: int = 0) -> tuple[Receipt, bytes]:
    response = await herd.http.get(f"/canisters/llama_cpp/receipts/{id}", params={"since": since} if since else {})
    assert response.status_code == 200, response.text
    return document.read(response.content)[0], response.content


async def listed(herd: InProcess, **query: str) -> list[str]:
    response = await herd.http.get("/canisters/llama_cpp/receipts", params=query)
    assert response.status_code == 200, response.text
    return [row["id"] for row in response.json()["receipts"]]


def terms(proven: Proven) -> dict[str, object]:
    return document.read_terms(proven.receipt.terms)


async def test_receipts_outlive_the_workers_that_made_them(tmp_path: Path) -> None:
    async with herd_in(tmp_path / "herd", workers=2) as herd:
        ids: list[str] = []

        async def call(method: str, arg: object) -> object:
            response = await herd.post(method, arg)
            ids.append(response.headers[HEADER])
            return response.json()["Ok"]

        await chat(call, "a", "Who are you?", n=3)
        response = await herd.post("set_max_tokens", {"max_tokens_update": 0, "max_tokens_query": 0})
        ids.append(response.headers[HEADER])
        failed = await herd.post("run_update", {"args": ["--no-such-flag"]})
        assert failed.status_code == 400
        ids.append(failed.headers[HEADER])
        n_before = len(ids)
        chats = await herd.herd.journal.oldest_chats(herd.host.default.id, 99)
        first = herd.herd.workers.get(chats[0].worker)
        assert first is not None
        os.kill(first.ref.pid, signal.SIGKILL)
        await until(lambda: first.is_gone)
        run = {"args": ["--prompt-cache", "a.cache", "--prompt-cache-all", "-p", "", "-n", "3"]}
        response = await herd.post("run_update", run, key="once")
        ids.append(response.headers[HEADER])
        again = await herd.post("run_update", run, key="once")
        assert again.headers[HEADER] == response.headers[HEADER]
        costs = ("x-ic-instructions", "x-ic-cycles", "x-ic-limit")
        assert [again.headers[name] for name in costs] == [response.headers[name] for name in costs]

        key = herd.host.root_key.public_key_der
        found = [await fetched(herd, id, since=n) for n, id in enumerate(ids)]
        proven = [check.check(receipt, key, id) for (receipt, _), id in zip(found, ids, strict=True)]
        check.check_together(proven)
        assert [one.record.index for one in proven] == list(range(len(ids)))
        assert len(check.gaps(proven)) == 0
        jobs = [one for one in proven if one.record.method in ("new_chat", "run_update")]
        assert {terms(one)["worker"] for one in jobs[:n_before]} >= {first.id}
        last = proven[-1]
        assert terms(last)["worker"] in {worker.id for worker in herd.workers} - {first.id}
        fences = [one.record.fence for one in proven]
        assert all(fence is not None and fence >> FENCE_BITS == herd.herd.leader.epoch for fence in fences)
        assert len(set(fences)) == len(fences)
        by_method = {one.record.method: one.record.outcome for one in proven[:n_before]}
        assert by_method["set_max_tokens"] == "ok"
        assert proven[n_before - 1].record.outcome == "err"

        own = await listed(herd, cache="a.cache")
        assert own == [one.id for one in reversed(jobs) if one.record.chat is not None and one.record.chat.cache]
        assert await listed(herd, newest="2") == ids[:-3:-1]
        head = (await herd.http.get("/canisters/llama_cpp/receipts")).json()
        assert head["size"] == len(ids)

        told = (await herd.post("get_receipt", {"call_id": ids[-1]})).json()["Ok"]
        assert (told["id"], told["n_records"]) == (ids[-1], len(ids))
        assert check.check(document.read(base64.b64decode(told["file"]))[0], key, ids[-1]).id == ids[-1]
        await a_stranger_gets_none(herd, ids[-1])
        files = []
        for n, (_, content) in enumerate(found):
            files.append(tmp_path / f"{n}.receipt.json")
            files[-1].write_bytes(content)
        outcome = await verify(Asked(files, model=CHAT_MODEL, root_key=key, ids=ids))
        assert outcome.is_ok, outcome


async def a_stranger_gets_none(herd: InProcess, id: str) -> None:
    key = herd.host.keys.create("stranger")
    for path in (id, id.partition("-")[0]):
        response = await herd.http.get(
            f"/canisters/llama_cpp/receipts/{path}", headers={"Authorization": f"Bearer {key}"}
        )
        assert response.status_code == 404, response.text
        response = await herd.http.post(
            "/canisters/llama_cpp/get_receipt", json={"call_id": path}, headers={"Authorization": f"Bearer {key}"}
        )
        assert response.status_code == 404, response.text


async def test_calls_of_the_journal_are_audited_by_whichever_worker_is_there(tmp_path: Path) -> None:
    async with herd_in(tmp_path / "herd", workers=2) as herd:
        await chat(herd.call, "a", "Who are you?", n=2)
        await herd.call("set_max_tokens", {"max_tokens_update": 0, "max_tokens_query": 0})
        row = (await herd.herd.journal.oldest_chats(herd.host.default.id, 9))[0]
        ran = herd.herd.workers.get(row.worker)
        assert ran is not None
        os.kill(ran.ref.pid, signal.SIGKILL)
        await until(lambda: ran.is_gone)
        ids = await listed(herd, newest="50")
        found = [await herd.http.post(f"/canisters/llama_cpp/receipts/{n}/audit") for n in range(len(ids) + 1)]
        assert [response.status_code for response in found] == [200] * len(found)
        told = [response.json() for response in found]
        outcomes = [one["outcome"] for one in told]
        assert outcomes.count("equal") == 2
        assert set(outcomes[:-1]) == {"equal", "drew none"}
        assert not any(one["cost"] for one in told)
        assert (told[-1]["outcome"], told[-1]["reason"]) == ("not decoded", "there is no such call")
        herd.http.headers.pop("Authorization")
        assert (await herd.http.post("/canisters/llama_cpp/receipts/1/audit")).status_code in (401, 403)
