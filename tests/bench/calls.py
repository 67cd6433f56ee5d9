"""What a server costs beside llama.cpp: time to ready, memory, and the overhead of a call of ten tokens and of one.

    python -m tests.bench.calls [--model FILE] [--calls N] [--only server|one-token]

Each figure beside its peer, in the same run: llama.cpp's own time for the same tokens, through its low-level API. The
calls of one token are measured at three depths (HTTP, dispatch, engine) and at three lengths of the context.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import llama_cpp
import numpy as np

from canister.client.local_server import LocalServer
from canister.engine.request import GenerateRequest, SamplingParams
from tests.harness import CHAT_MODEL, canister_in

TOKENS_PER_CALL = 10
PROMPT = "<|im_start|>user\nPlease tell me a story.<|im_end|>\n<|im_start|>assistant\n"
FLAGS = ["--samplers", "temperature", "--temp", "0", "--ignore-eos", "-n", "-1"]


CONTEXTS = (100, 1000, 4000)  # tokens
CTX_SIZE = 4608
WORD = " a"
CACHE = "bench.cache"
N_WARM = 5
LOOP = "event loop's processor time"


def main(model: Path = CHAT_MODEL, n_calls: int = 60, only: str | None = None) -> None:
    if only != "one-token":
        with tempfile.TemporaryDirectory() as folder:
            measure_server(Path(folder), model, n_calls)
    if only != "server":
        with tempfile.TemporaryDirectory() as folder:
            measure_one_token(Path(folder), model, n_calls)


def measure_server(folder: Path, model: Path, n_calls: int) -> None:
    # The first start puts the model in; the second one is what a user waits for again and again.
    with LocalServer(folder, "-m", str(model)) as server:
        wait_until_ready(server)
    started = time.perf_counter()
    with LocalServer(folder) as server:
        listening = time.perf_counter() - started
        wait_until_ready(server)
        ready = time.perf_counter() - started
        print(f"from `canister serve` to listening            {listening:8.2f} s")
        print(f"from `canister serve` to ready, model loaded  {ready:8.2f} s")
        print(f"resident memory when ready                    {resident_mib(server.pid):8.0f} MiB")
        through_server = calls(server, n_calls)
    alone = direct(model, n_calls)
    print(f"\none call of {TOKENS_PER_CALL} tokens, median of {n_calls}, milliseconds")
    print(f"  through HTTP, committed and synced          {through_server:8.2f}")
    print(f"  llama.cpp alone, the same {TOKENS_PER_CALL} tokens         {alone:8.2f}")
    print(f"  overhead                                    {through_server - alone:8.2f}")
    print(f"  ratio                                       {through_server / alone:8.2f}")


def measure_one_token(folder: Path, model: Path, n_calls: int) -> None:
    """The call of one token: by length of the context, by depth."""
    columns: dict[str, list[float]] = {}
    with LocalServer(folder / "server", "-m", str(model), "--instruction-limit", "none") as server:
        wait_until_ready(server)
        client = Client(server)
        client.call("load_model", {"args": ["--model", f"models/{model.name}", "--ctx-size", str(CTX_SIZE)]})
        for n_tokens in CONTEXTS:
            prompt = WORD * n_tokens
            client.call("set_max_tokens", {"max_tokens_update": 0, "max_tokens_query": 0})
            record = client.call("run_update", {"args": ["--prompt-cache", CACHE, "-p", prompt, "-n", "0"]})["Ok"]
            client.call("set_max_tokens", {"max_tokens_update": 1, "max_tokens_query": 0})
            spent = loop_ms(server.pid)
            going_on = median_ms(lambda: client.run(""), n_calls)
            columns.setdefault(LOOP + ", no prompt sent", []).append((loop_ms(server.pid) - spent) / (n_calls + N_WARM))
            text = client.run("")["conversation"]

            def resend() -> None:
                nonlocal text
                text = client.run(text)["conversation"]

            columns.setdefault("through HTTP, no prompt sent", []).append(going_on)
            spent = loop_ms(server.pid)
            columns.setdefault("through HTTP, whole prompt sent again", []).append(median_ms(resend, n_calls))
            columns.setdefault(LOOP + ", prompt sent", []).append((loop_ms(server.pid) - spent) / (n_calls + N_WARM))
            assert record["n_prompt_tokens"] >= n_tokens
    inside = asyncio.run(measure_inside(folder / "inside", model, n_calls))
    for name, figures in inside.items():
        columns[name] = figures
    columns["llama.cpp alone"] = [direct(model, n_calls, 1, n_tokens) for n_tokens in CONTEXTS]
    print(f"\none call of one token, synced, median of {n_calls}, milliseconds, by tokens of context")
    print(f"  {'':44}" + "".join(f"{n:>9}" for n in CONTEXTS))
    for name, figures in columns.items():
        print(f"  {name:44}" + "".join(f"{figure:9.2f}" for figure in figures))
    for name in ("through HTTP, no prompt sent", "through HTTP, whole prompt sent again"):
        beside = [a - b for a, b in zip(columns[name], columns["engine alone, nothing kept"], strict=True)]
        print(f"  overhead of all but the engine, {name.partition(', ')[2]}".ljust(46), end="")
        print("".join(f"{figure:9.2f}" for figure in beside) + f"   last / first {beside[-1] / beside[0]:.2f}")


async def measure_inside(folder: Path, model: Path, n_calls: int) -> dict[str, list[float]]:
    """The same calls without HTTP; and as queries, which commit nothing."""
    columns: dict[str, list[float]] = {}
    folder.mkdir()
    async with canister_in(folder, instruction_limit=None, query_instruction_limit=None) as harness:
        await harness.load(model, "--ctx-size", str(CTX_SIZE))

        async def run(query: bool = False) -> None:
            await harness.call("run_query" if query else "run_update", {"args": ["--prompt-cache", CACHE, *FLAGS]})

        async def median(action: Callable[[], Any]) -> float:
            times = []
            for _ in range(n_calls + N_WARM):
                started = time.perf_counter()
                await action()
                times.append(time.perf_counter() - started)
            return statistics.median(times[N_WARM:]) * 1000

        for n_tokens in CONTEXTS:
            await harness.limit(0)
            await harness.call("run_update", {"args": ["--prompt-cache", CACHE, "-p", WORD * n_tokens, "-n", "0"]})
            await harness.limit(1)
            await run()
            columns.setdefault("dispatch, no prompt sent", []).append(await median(run))
            columns.setdefault("dispatch, as a query", []).append(await median(lambda: run(query=True)))
            engine = harness.canister.model.engine
            assert engine is not None
            request = await bare_request(harness.canister)
            columns.setdefault("engine alone, nothing kept", []).append(await median(partial(engine.generate, request)))
    return columns


async def bare_request(canister: Any) -> GenerateRequest:
    """A request to the engine as a query makes it, and nothing around it."""
    [cache] = canister.caches._open.values()
    return GenerateRequest(
        key=cache.info.path,
        caller="bench",
        prefix=cache.container.tokens,
        prefix_generated=cache.container.generated,
        prompt=cache.container.tokens[:0],
        sampling=SamplingParams(temperature=0.0, samplers=("temperature",)),
        seed=0,
        max_decode=1,
        keep=False,
        want_rows=False,
    )


def median_ms(action: Callable[[], object], n_calls: int) -> float:
    times = []
    for _ in range(n_calls + N_WARM):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return statistics.median(times[N_WARM:]) * 1000


class Client:
    """One kept connection and the standard library: a client that costs little beside the server."""

    def __init__(self, server: LocalServer) -> None:
        address = urlsplit(server.url)
        assert address.hostname is not None
        self._connection = http.client.HTTPConnection(address.hostname, address.port)
        self._connection.connect()
        self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._headers = {"Authorization": f"Bearer {server.api_key}", "Content-Type": "application/json"}

    def call(self, method: str, arg: object) -> Any:
        self._connection.request("POST", f"/canisters/llama_cpp/{method}", json.dumps(arg), self._headers)
        response = self._connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise RuntimeError(f"{method}: {response.status} {body.decode()}")
        return json.loads(body)

    def run(self, prompt: str) -> Any:
        return self.call("run_update", {"args": ["--prompt-cache", CACHE, "-p", prompt, *FLAGS]})["Ok"]


def loop_ms(pid: int) -> float:
    """Processor time of the server's main thread so far, in milliseconds; what the machine does otherwise is not in it.

    That is the event loop: HTTP, dispatch, handlers; not the engine, which has a thread of its own, nor the disk.
    """
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e6


def wait_until_ready(server: LocalServer) -> None:
    while httpx.get(f"{server.url}/readyz", trust_env=False).status_code != 200:
        time.sleep(0.005)


def resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))) / 1024


def calls(server: LocalServer, n_calls: int) -> float:
    """Median milliseconds of one run_update."""
    headers = {"Authorization": f"Bearer {server.api_key}"}
    with httpx.Client(base_url=f"{server.url}/canisters/llama_cpp", headers=headers, trust_env=False) as http:

        def call(method: str, arg: object) -> None:
            http.post(f"/{method}", json=arg).raise_for_status()

        def run(prompt: str, cache: str) -> None:
            call("run_update", {"args": ["--prompt-cache", cache, "-p", prompt, *FLAGS]})

        times = []
        for n in range(n_calls):
            if n % 20 == 0:  # a new chat now and then, so that the context does not fill up
                cache = f"{n}.cache"
                call("set_max_tokens", {"max_tokens_update": 0, "max_tokens_query": 0})
                call("run_update", {"args": ["--prompt-cache", cache, "-p", PROMPT, "-n", "0"]})
                call("set_max_tokens", {"max_tokens_update": TOKENS_PER_CALL, "max_tokens_query": 0})
            started = time.perf_counter()
            run("", cache)
            times.append(time.perf_counter() - started)
    return statistics.median(times) * 1000


def direct(model_file: Path, n_calls: int, per_call: int = TOKENS_PER_CALL, n_context: int = 0) -> float:
    """Median milliseconds of as many tokens, greedily, with llama.cpp alone and one thread, as the server decides.

    n_context: tokens of the prompt; 0 for that of a short chat, begun anew now and then.
    """
    llama_cpp.llama_log_set(_SILENT, None)
    model = llama_cpp.llama_model_load_from_file(str(model_file).encode(), llama_cpp.llama_model_default_params())
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_threads, params.n_threads_batch, params.flash_attn_type = CTX_SIZE, 1, 1, 0
    params.n_batch = CTX_SIZE
    context = llama_cpp.llama_init_from_model(model, params)
    vocab = llama_cpp.llama_model_get_vocab(model)
    n_vocab = llama_cpp.llama_vocab_n_tokens(vocab)
    buffer = (llama_cpp.llama_token * CTX_SIZE)()
    text = (WORD * n_context if n_context else PROMPT).encode()
    n_prompt = llama_cpp.llama_tokenize(vocab, text, len(text), buffer, CTX_SIZE, True, True)
    times = []
    memory = llama_cpp.llama_get_memory(context)
    for n in range(n_calls):
        if n % 20 == 0 and (n == 0 or not n_context):
            llama_cpp.llama_memory_clear(memory, True)
            llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(buffer, n_prompt))
        started = time.perf_counter()
        for _ in range(per_call):
            logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), shape=(n_vocab,))
            buffer[0] = int(np.argmax(logits))
            llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(buffer, 1))
        times.append(time.perf_counter() - started)
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return statistics.median(times) * 1000


@llama_cpp.llama_log_callback
def _SILENT(level: int, text: bytes, data: object) -> None:
    """llama.cpp tells more than a table wants."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=CHAT_MODEL)
    parser.add_argument("--calls", type=int, default=60)
    parser.add_argument("--only", choices=("server", "one-token"))
    options = parser.parse_args()
    main(options.model, options.calls, options.only)
