"""What receipts cost: a call, with and without them, and the verifying of an answer: `python -m tests.bench.receipts`.

CPU time of the whole process for a small update, in turns with receipts and without, in memory (the disk aside); bytes
of the database a call; and for an answer of 500 tokens the CPU time of its replay, on one thread, beside that of
prefilling as many.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from canister.dispatch.receipts import find_receipt
from canister.engine.llama import Context, Model
from canister.engine.llama_types import ContextParams
from canister.engine.load.loaded import LoadParams
from canister.engine.load.loader import load_model
from canister.engine.replay import Drawn, Replay, Replayed
from canister.engine.request import Tokens
from canister.engine.told_calls import told_call
from canister.ic.certificate import RootKey
from canister.ic.receipts import document, record
from canister.ic.receipts.document import Receipt
from tests.harness import CHAT_MODEL, CONTROLLER, Harness, canister_in

ROUNDS, CALLS, N_TOKENS, N_CTX = 12, 100, 500, 1024


async def cpu_ms(harness: Harness) -> tuple[float, float]:
    """Of a call with and without receipts: the median over rounds."""
    found: dict[str, list[float]] = {"hashes": [], "off": []}
    settings = harness.canister.settings
    for _ in range(ROUNDS):
        for mode, times in found.items():
            harness.canister.settings = settings.model_copy(update={"receipts": mode})
            started = time.process_time()
            for _ in range(CALLS):
                await harness.call("set_max_tokens", {"max_tokens_update": 0, "max_tokens_query": 0})
            times.append((time.process_time() - started) / CALLS * 1e3)
    harness.canister.settings = settings
    return statistics.median(found["hashes"]), statistics.median(found["off"])


def bytes_of(harness: Harness) -> int:
    """Of the tables of receipts with their indexes, without what SQLite has free."""
    with harness.canister.database.read() as connection:
        sql = "SELECT sum(pgsize - unused) FROM dbstat WHERE name LIKE '%receipt%'"
        row = connection.exec_driver_sql(sql).fetchone()
        assert row is not None
        return int(row[0])


async def seconds_of_replay(harness: Harness, *flags: str) -> tuple[Replayed, float, float, float]:
    """How an answer comes out, CPU seconds of its replay, of prefilling as many tokens, and of that with all logits."""
    await harness.run("Once upon a time", "-n", str(N_TOKENS), "--ignore-eos", *flags, cache=f"{'-'.join(flags)}.cache")
    reply = await find_receipt(
        harness.canister, RootKey.generate(), CONTROLLER, str(harness.canister.receipts.size - 1), 0
    )
    receipt = reply.value
    assert isinstance(receipt, Receipt)
    assert receipt.replay is not None
    call = told_call(record.decode(receipt.record), receipt.replay.words, document.read_terms(receipt.terms))
    model = load_model(LoadParams(path=CHAT_MODEL, n_ctx=N_CTX))
    shape = ContextParams(n_streams=1, n_cells=N_CTX, n_rows=256, n_threads=1)
    parts = call.sampling, call.seed, call.n_draws, call.n_continued
    replays, prefills, whole = [], [], []
    tokens = np.concatenate([call.history, call.drawn])
    for _ in range(5):
        replay = Replay(model, shape, N_CTX)
        replay.probe(tokens)
        started = time.process_time()
        (found,) = replay.judge([Drawn(call.history, call.drawn, call.redrawn.tolist(), *parts)])
        replays.append(time.process_time() - started)
        replay.close()
        prefills.append(seconds_of_prefill(model, shape, tokens, is_whole=False))
        whole.append(seconds_of_prefill(model, replace(shape, n_outputs=256), tokens, is_whole=True))
    return found, min(replays), min(prefills), min(whole)


def seconds_of_prefill(model: Model, shape: ContextParams, tokens: Tokens, *, is_whole: bool) -> float:
    """is_whole: with the logits of all rows, as a replay needs them; else those of the last row of a decode."""
    context = Context(model, shape, "prefill")
    started = time.process_time()
    for at in range(0, len(tokens), 256):
        part = tokens[at : at + 256]
        n = len(part)
        context.decode([0] * n, range(at, at + n), part, range(n) if is_whole else [n - 1])
    seconds = time.process_time() - started
    context.close()
    return seconds


async def measure() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        async with canister_in(Path(folder), instruction_limit=None) as harness:
            with_them, without = await cpu_ms(harness)
            n = harness.canister.receipts.size
            print(f"a small update: {with_them:.3f} ms of CPU with receipts, {without:.3f} ms without")
            print(f"                {bytes_of(harness) / n:.0f} bytes a call")
            await harness.load(CHAT_MODEL, "-c", str(N_CTX))
            before, first = bytes_of(harness), harness.canister.receipts.size
            for number in range(100):
                prompt = "Once upon a time" if number % 10 == 0 else ""
                await harness.run(prompt, "-n", "2", cache=f"{number // 10}.cache")
            n_calls = harness.canister.receipts.size - first
            print(f"an LLM call:    {(bytes_of(harness) - before) / n_calls:.0f} bytes a call")
            for name, flags in (("greedy", ("--temp", "0")), ("at temperature 0.8", ("--temp", "0.8", "--seed", "1"))):
                found, replay, prefill, whole = await seconds_of_replay(harness, *flags)
                print(f"an answer of {N_TOKENS} tokens, {name}:")
                print(
                    f"                decoded together in {replay:.3f} s, prefilled in {prefill:.3f} s, "
                    f"with all logits in {whole:.3f} s"
                )
                n_left = len(found.differences)
                print(f"                {found.n_equal} equal, {found.n_near} near ties, {n_left} to decode one by one")


if __name__ == "__main__":
    asyncio.run(measure())
