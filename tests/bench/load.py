"""Many callers at once, each in two chats of its own, and one more that floods: is every reply the right one?

    python -m tests.bench.load [--callers 200] [--minutes 10] [--flood 200] [--json FILE]

Every chat is first held alone, call by call; under load each reply has to be that very record. Callers that are told to
come again (429, 503) do. The flooder never waits, so that it shows what others notice of it: nothing but their turn. It
is a process of its own (`flooder.py`), and every caller has a client of its own: what the clients cost one another is
not the server's. httpx looks through all of a client's requests and connections whenever one of them ends.
The server's memory is looked at every second; growth is told from the end of the first fifth on, when caches are full.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from canister.client.local_server import LocalServer
from canister.state.api_keys import open_keys
from tests.harness import CHAT_MODEL

CALLS_PER_CHAT = 6
TOKENS_PER_CALL = 10
MAX_TEXTS = 100  # different chats; with more callers, some say the same
PROMPT = "<|im_start|>user\nMy name is {}. Please tell me a story.<|im_end|>\n<|im_start|>assistant\n"
NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Greta", "Henry", "Ida", "Jonas", "Kate", "Leo")


@dataclass
class Report:
    """statuses: of the callers' calls. wrong: replies that were not the right ones, with what was expected."""

    n_callers: int
    seconds: float = 0.0
    n_replies: int = 0
    n_tokens: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    flood_statuses: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    call_seconds: list[float] = field(default_factory=list)
    memory_mib: list[float] = field(default_factory=list)  # one each second

    def growth_mib(self) -> float:
        """Of the median of the last fifth over that of the second one."""
        fifth = max(1, len(self.memory_mib) // 5)
        return statistics.median(self.memory_mib[-fifth:]) - statistics.median(self.memory_mib[fifth : 2 * fifth])


@dataclass
class Chat:
    """One conversation of a caller: what it says, and what each of its calls answers when nobody else is there."""

    caller: int
    number: int
    key: str
    expected: list[dict[str, Any]]

    @property
    def text(self) -> int:
        """Which of the different ones it is."""
        return (2 * self.caller + self.number) % MAX_TEXTS

    async def call(self, http: httpx.AsyncClient, n: int, cache: str) -> httpx.Response:
        return await self.post(http, "run_update", self.arguments(n, cache))

    def arguments(self, n: int, cache: str) -> list[str]:
        is_begun = n > 0 and not self.expected[n - 1]["n_prompt_tokens_remaining"]
        prompt = "" if is_begun else PROMPT.format(f"{NAMES[self.text % len(NAMES)]}{self.text}")
        args = ["--prompt-cache", cache, "--prompt-cache-all", "--temp", "0.8", "--ignore-eos", "-sp"]
        return [*args, "--seed", str(self.text), "-p", prompt]

    async def post(self, http: httpx.AsyncClient, method: str, args: list[str]) -> httpx.Response:
        return await http.post(f"/{method}", json={"args": args}, headers={"Authorization": f"Bearer {self.key}"})

    async def alone(self, http: httpx.AsyncClient) -> None:
        for n in range(len(self.expected), CALLS_PER_CHAT):
            self.expected.append((await self.call(http, n, f"alone-{self.number}")).raise_for_status().json()["Ok"])


def main(n_callers: int = 200, minutes: float = 1.0, n_flood: int = 200, json_file: Path | None = None) -> Report:
    with tempfile.TemporaryDirectory() as folder:
        report = asyncio.run(load(Path(folder), n_callers, 60 * minutes, n_flood))
    times = sorted(report.call_seconds)
    print(f"{report.n_callers} callers, {report.seconds:.0f} s")
    print(f"  replies, each checked              {report.n_replies:10} ({report.n_replies / report.seconds:.0f} per s)")
    print(f"  tokens                             {report.n_tokens:10} ({report.n_tokens / report.seconds:.0f} per s)")
    print(f"  wrong replies                      {len(report.wrong):10}")
    print(f"  errors                             {len(report.errors):10}")
    print(f"  told to come again                 {report.statuses['429'] + report.statuses['503']:10}")
    print(f"  the flooder's calls: {dict(report.flood_statuses)}")
    if times:
        print(
            f"  a call, median and 99 of 100, s    {times[len(times) // 2]:10.2f} {times[len(times) * 99 // 100]:.2f}"
        )
    memory = report.memory_mib
    print(f"  memory, begin, most, end, MiB      {memory[0]:10.0f} {max(memory):.0f} {memory[-1]:.0f}")
    print(f"  growth since the first fifth, MiB  {report.growth_mib():10.1f}")
    for line in [*report.wrong[:5], *report.errors[:5]]:
        print(f"  ! {line}")
    if json_file is not None:
        json_file.write_text(json.dumps(vars(report), indent=1) + "\n", encoding="utf-8")
    return report


async def load(folder: Path, n_callers: int, seconds: float, n_flood: int, *flags: str) -> Report:
    """n_flood: calls that the flooder has under way at once. flags: of the server."""
    report = Report(n_callers)
    with LocalServer(folder, "-m", str(CHAT_MODEL), *flags) as server:
        with open_keys(folder) as keys:
            texts: list[list[dict[str, Any]]] = [[] for _ in range(MAX_TEXTS)]
            chats = []
            for n in range(n_callers):
                key = keys.create(f"caller-{n}")
                chats.append([Chat(n, m, key, texts[(2 * n + m) % MAX_TEXTS]) for m in range(2)])
            flooder = Chat(n_callers, 0, keys.create("flooder"), [])
        async with AsyncExitStack() as stack:
            http = await stack.enter_async_context(client(server.url))
            await until_ready(http)
            headers = {"Authorization": f"Bearer {server.api_key}"}
            for method, arg in (
                ("set_access", {"level": 1}),
                ("set_max_tokens", {"max_tokens_update": TOKENS_PER_CALL, "max_tokens_query": TOKENS_PER_CALL}),
            ):
                (await http.post(f"/{method}", json=arg, headers=headers)).raise_for_status()
            for own in chats:
                for chat in own:
                    await chat.alone(http)
            callers = [(await stack.enter_async_context(client(server.url)), own) for own in chats]
            print(f"texts known; {n_callers} callers for {seconds:.0f} s, then they end their chats", file=sys.stderr)
            watching = asyncio.create_task(watch(server.pid, report))
            async with flooding(server.url, flooder, n_flood, report):
                started = time.perf_counter()
                await asyncio.gather(*(talk(http, own, report, started + seconds) for http, own in callers))
                report.seconds = time.perf_counter() - started
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    return report


async def until_ready(http: httpx.AsyncClient) -> None:
    for _ in range(2000):
        if (await http.get("/readyz")).status_code == 200:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the model was not loaded")


async def talk(http: httpx.AsyncClient, chats: list[Chat], report: Report, end: float) -> None:
    """A caller's chats, a call of one and a call of the other; begun anew when they are over."""
    while time.perf_counter() < end:
        for n in range(CALLS_PER_CHAT):
            for chat in chats:
                await checked(http, chat, n, report)
        for chat in chats:
            response = await patiently(chat, http, "remove_prompt_cache", report)
            if response.status_code != 200:
                report.errors.append(f"remove_prompt_cache: {response.status_code} {response.text[:200]}")


async def patiently(chat: Chat, http: httpx.AsyncClient, method: str, report: Report, n: int = 0) -> httpx.Response:
    """A call, repeated as long as it is told to come again."""
    cache = f"chat-{chat.number}"
    while True:
        started = time.perf_counter()
        if method == "run_update":
            response = await chat.call(http, n, cache)
        else:
            response = await chat.post(http, method, ["--prompt-cache", cache])
        report.statuses[str(response.status_code)] += 1
        if response.status_code not in (429, 503):
            report.call_seconds.append(time.perf_counter() - started)
            return response
        await asyncio.sleep(float(response.headers["retry-after"]))


async def checked(http: httpx.AsyncClient, chat: Chat, n: int, report: Report) -> None:
    name = f"caller {chat.caller}, chat {chat.number}, call {n}"
    try:
        response = await patiently(chat, http, "run_update", report, n)
        record = response.json()["Ok"]
    except (httpx.HTTPError, KeyError, ValueError) as error:
        report.errors.append(f"{name}: {error!r}")
        return
    report.n_replies += 1
    report.n_tokens += record["n_prompt_tokens_decoded"] + record["n_tokens_generated"]
    if record != chat.expected[n]:
        differing = [key for key in record if record[key] != chat.expected[n][key]]
        report.wrong.append(f"{name}: {differing}: {record} instead of {chat.expected[n]}")


@asynccontextmanager
async def flooding(url: str, chat: Chat, n_calls: int, report: Report) -> AsyncIterator[None]:
    """Meanwhile the flooder has n_calls under way all the time; afterwards the report has what became of them."""
    if not n_calls:
        yield
        return
    order = {"url": url, "key": chat.key, "n_calls": n_calls, "args": chat.arguments(0, "flood-{}")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.flooder", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(order).encode() + b"\n")
    await process.stdout.readline()  # all calls are on their way
    try:
        yield
    finally:
        process.stdin.close()
        found = await process.stdout.read()
        await process.wait()
    told = json.loads(found)
    report.flood_statuses.update(told["statuses"])
    report.errors += [f"flooder: {error}" for error in told["errors"]]


def client(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=300, trust_env=False, verify=False)  # there is no TLS to set up


async def watch(pid: int, report: Report) -> None:
    while True:
        status = Path(f"/proc/{pid}/status").read_text()
        kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
        report.memory_mib.append(int(kib) / 1024)
        await asyncio.sleep(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--callers", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--flood", type=int, default=200, help="calls of the flooder at once; 0: no flooder")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    found = main(options.callers, options.minutes, options.flood, options.json)
    raise SystemExit(1 if found.wrong or found.errors else 0)
