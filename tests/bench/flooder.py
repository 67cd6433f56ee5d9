"""A caller who never waits, in a process of its own: keeps so many calls under way until its input ends.

    python -m tests.bench.flooder < order

The order is one line of JSON: url, key, n_calls, args of a `run_update` with `{}` for the number of a cache. Prints an
empty line when all calls were sent, and at the end a JSON object: statuses with their counts, and errors. It gives way
to whoever else wants the processor, as a flooder on another machine would.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter

import httpx

PAUSE_SECONDS = 0.2  # between an answer and the next call
NICENESS = 10


async def flood(url: str, key: str, n_calls: int, args: list[str]) -> tuple[Counter[str], list[str]]:
    """Until stdin ends; what the calls were answered, and what went wrong."""
    statuses: Counter[str] = Counter()
    errors: list[str] = []
    n_begun = 0
    begun = asyncio.Event()

    async def one(number: int) -> None:
        nonlocal n_begun
        body = {"args": [arg.format(number) if arg == "flood-{}" else arg for arg in args]}
        # A client each: one that is shared looks through all its connections for every call. It waits as long as it
        # takes: the share of a flooder is small.
        async with httpx.AsyncClient(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=None, trust_env=False, verify=False
        ) as http:
            n_begun += 1
            if n_begun == n_calls:
                begun.set()
            while True:
                try:
                    statuses[str((await http.post("/run_update", json=body)).status_code)] += 1
                except httpx.HTTPError as error:
                    errors.append(repr(error))
                    return
                await asyncio.sleep(PAUSE_SECONDS)

    tasks = [asyncio.create_task(one(number)) for number in range(n_calls)]
    await begun.wait()
    print(flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return statuses, errors


if __name__ == "__main__":
    os.nice(NICENESS)
    found, failed = asyncio.run(flood(**json.loads(sys.stdin.readline())))
    print(json.dumps({"statuses": found, "errors": failed}))
