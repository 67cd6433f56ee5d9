"""A server audits itself: honest calls are equal, and a token that its model would not draw is an alarm."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from canister.dispatch.auditing import Auditor
from canister.handlers.receipts import replay_of
from canister.ic.receipts import record as records
from canister.state.receipts import Contents
from canister.telemetry.metrics import metrics_text
from tests.harness import CHAT_MODEL, GREEDY, Harness, canister_in

pytestmark = pytest.mark.anyio


@pytest.fixture
async def harness(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Harness]:
    async with canister_in(tmp_path_factory.mktemp("audit"), audit=1.0, receipts="full") as found:
        await found.load(CHAT_MODEL, "-c", "256")
        yield found


def counted(outcome: str) -> float:
    name = f'canister_receipts_audited_total{{canister="llama_cpp",outcome="{outcome}"}} '
    lines = metrics_text({}).decode().splitlines()
    return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))


async def test_that_honest_calls_are_equal_and_a_changed_token_is_not(harness: Harness) -> None:
    canister = harness.canister
    auditor = Auditor(canister)
    equal, differs = counted("equal"), counted("differs")
    await harness.run("Once upon a time", *GREEDY, "-n", "5")
    await harness.run("", "-n", "4", "--temp", "0.9", "--seed", "3")
    await harness.limit(0)
    await auditor.look()
    assert (counted("equal"), counted("differs")) == (equal + 2, differs)
    index = canister.receipts.size - 3
    found = canister.receipts.find(index)
    assert found is not None
    record = records.decode(found.record)
    assert record.chat is not None
    words = bytearray(replay_of(canister, record).words)
    words[-8:-4] = (records.GENERATED | 9).to_bytes(4, "little")
    chat = replace(record.chat, after=records.words_hash(bytes(words)))
    transaction = canister.stable.begin()
    forged = replace(record, chat=chat)
    canister.receipts.add(transaction, forged, found.terms, Contents(bytes(words), b"", b""))
    await canister.commit(transaction)
    await auditor.look()
    assert (counted("equal"), counted("differs")) == (equal + 2, differs + 1)
    await auditor.look()  # each call once
    assert counted("differs") == differs + 1
