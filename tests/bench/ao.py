"""A network of AO: durable messages of an echo process, the start of a process, its memory, and a paid answer.

The paid answer goes the whole way: a transfer to the herder, its queue, a worker, the model, and the response at the
client. Beside it stands the same number of tokens by one plain call at the same server.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

from canister.ao.signing.wallets import Ed25519Wallet
from canister.ao.units import HERDER, TOKEN
from canister.client.ao.network import Network
from canister.client.local_server import LocalServer
from tests.bench.results import Row, ratio_row
from tests.bench.suite import Bench, Options, main, together

MESSAGES = 200
CLIENTS = 8
PROCESSES = 10
ANSWERS = 10
ATTACKS = 3
TOKENS = 10
PROMPT = "What is the meaning of life?"
HOSTILE = b"while true do pcall(function() while true do end end) end"
ECHO = b'Handlers.add("echo", "Echo", function(msg) msg.reply({ Data = msg.Data }) end)'


def measure(options: Options) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        server = LocalServer(Path(folder) / "data", "--log-level", "warning", command=("ao", "serve"))
        with server, Network(server.url, Ed25519Wallet.generate()) as network:
            process = _echo(network)
            return [
                *_message_rows(server, network, process, options),
                *_process_rows(server, network, options),
                _beside_row(network, process, options),
                _paid_row(server, network, options),
                _again_row(server, network, process, options),
            ]


def _echo(network: Network) -> str:
    process = network.spawn()
    network.result(process, network.send(process, [("Action", "Eval")], ECHO))
    return process


def _message_rows(server: LocalServer, network: Network, process: str, options: Options) -> list[Row]:
    """Sent, run, committed, and its result read."""
    n_messages = options.scaled(MESSAGES, 8)

    def echo(by: Network, to: str, n: int) -> None:
        for _ in range(n):
            by.result(to, by.send(to, [("Action", "Echo")], b"hello"))

    def one_client() -> None:
        echo(network, process, n_messages)

    others = [Network(server.url, Ed25519Wallet.generate()) for _ in range(CLIENTS)]
    processes = [_echo(by) for by in others]

    def many_clients() -> None:
        together([partial(echo, by, to, n_messages // CLIENTS) for by, to in zip(others, processes, strict=True)])

    one = _rates(one_client, n_messages, options.rounds)
    many = _rates(many_clients, n_messages // CLIENTS * CLIENTS, options.rounds)
    return [
        _told("messages of an echo process, one client", one, "/s"),
        _told(f"messages of {CLIENTS} echo processes, {CLIENTS} clients", many, "/s"),
    ]


def _process_rows(server: LocalServer, network: Network, options: Options) -> list[Row]:
    n_processes = options.scaled(PROCESSES, 2)
    starts: list[float] = []
    before = memory_mib(server.pid)
    for _ in range(n_processes):
        start = time.perf_counter()
        process = network.spawn()
        network.result(process, network.send(process, [("Action", "Eval")], b"return 1"))
        starts.append((time.perf_counter() - start) * 1000)
    grown = (memory_mib(server.pid) - before) / n_processes
    return [
        _told("a new process and its first answer", starts, "ms"),
        Row("memory of a process", grown, None, "MiB", grown, None, at_least=False, figure_unit="MiB", samples={}),
    ]


def _beside_row(network: Network, echo: str, options: Options) -> Row:
    """How long an echo takes while another process uses up its budget."""
    hostile = network.spawn()
    taken: list[float] = []
    for _ in range(options.scaled(ATTACKS, 2)):
        attack = network.send(
            hostile, [("Action", "Eval")], b"while true do pcall(function() while true do end end) end"
        )
        start = time.perf_counter()
        network.result(echo, network.send(echo, [("Action", "Echo")], b"hello"))
        taken.append((time.perf_counter() - start) * 1000)
        network.result(hostile, attack)
    return _told("an echo beside a hostile program, which is to take less than 2000", taken, "ms")


def _again_row(server: LocalServer, network: Network, process: str, options: Options) -> Row:
    """After a crash, a process runs its log again before its first answer."""
    n_messages = int(network.request("GET", f"/{process}/slot/current").text)
    taken: list[float] = []
    for _ in range(min(options.rounds, 3)):
        server.kill()
        server.start()
        start = time.perf_counter()
        network.result(process, network.send(process, [("Action", "Echo")], b"hello"))
        taken.append((time.perf_counter() - start) * 1000)
    return _told(f"the first answer after a crash, by a log of {n_messages} messages", taken, "ms")


def _paid_row(server: LocalServer, network: Network, options: Options) -> Row:
    """From the transfer to the response in the herder's results, against run_update with as many tokens."""
    wallet = Ed25519Wallet.generate()
    about = {"account": wallet.address, "amount": str(10**12)}
    network.request("POST", "/ao/mint", json=about, headers={"Authorization": f"Bearer {server.api_key}"})
    paid: list[float] = []
    plain: list[float] = []
    with Network(server.url, wallet) as client:
        for number in range(options.scaled(ANSWERS, 2) + 1):
            start = time.perf_counter()
            tags = [("Action", "Transfer"), ("Recipient", HERDER), ("Quantity", "1000"), ("X-Prompt", PROMPT)]
            cursor = client.last_cursor(HERDER)
            client.send(TOKEN, [*tags, ("X-Tokens", str(TOKENS)), ("X-Reference", str(number))])
            _until_answered(client, wallet.address, str(number), cursor)
            seconds = time.perf_counter() - start
            start = time.perf_counter()
            _plain_call(server)
            if number:  # the first ones warm up
                paid.append(seconds * 1000)
                plain.append((time.perf_counter() - start) * 1000)
    return ratio_row(
        f"a paid answer of {TOKENS} tokens, against a plain call",
        paid,
        plain,
        unit="ms",
        goal=None,
        at_least=False,
        peer_name="run_update",
    )


def _until_answered(client: Network, address: str, reference: str, cursor: str | None) -> None:
    wanted = {"name": "X-Reference", "value": reference}
    while True:
        for place, result in client.results(HERDER, cursor):
            cursor = place
            if any(m["Target"] == address and wanted in m["Tags"] for m in _messages(result)):
                return


def _messages(result: dict[str, object]) -> list[dict[str, list[dict[str, str]]]]:
    found = result["Messages"]
    assert isinstance(found, list)
    return found


def _plain_call(server: LocalServer) -> None:
    parts = urlsplit(server.url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=300)
    body = json.dumps({"args": ["-p", PROMPT, "-n", str(TOKENS), "--temp", "0.0"]}).encode()
    headers = {"Authorization": f"Bearer {server.api_key}", "Content-Type": "application/json"}
    connection.request("POST", "/canisters/llama_cpp/run_update", body, headers)
    answer = connection.getresponse()
    told = answer.read()
    connection.close()
    assert answer.status == 200, told


def _rates(work: Callable[[], None], n: int, rounds: int) -> list[float]:
    found = []
    for number in range(rounds + 1):
        start = time.perf_counter()
        work()
        if number:  # the first round warms up
            found.append(n / (time.perf_counter() - start))
    return found


def _told(what: str, samples: list[float], unit: str) -> Row:
    figure = statistics.median(samples)
    return Row(what, figure, None, unit, figure, None, at_least=False, figure_unit=unit, samples={"ours": samples})


def memory_mib(pid: int) -> float:
    """Of a process and all that it has started, each shared page counted by its share."""
    mib = 0.0
    for each in [pid, *_below(pid)]:
        with suppress(OSError):  # it has ended meanwhile
            for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    mib += int(line.split()[1]) / 1024
    return mib


def _below(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *_below(int(child))]
    return found


BENCH = Bench("ao", "a network of AO: messages, processes, a paid answer", measure)

if __name__ == "__main__":
    main(BENCH)
