"""What a server costs beside llama.cpp: time to ready, memory, and the overhead of a call of ten tokens.

    python -m tests.bench.calls [--model FILE] [--calls N]

Each figure beside its peer, in the same run: llama.cpp's own time for the same tokens, through its low-level API.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import httpx
import llama_cpp
import numpy as np

from canister.cli.local import LocalServer
from tests.harness import CHAT_MODEL

TOKENS_PER_CALL = 10
PROMPT = "<|im_start|>user\nPlease tell me a story.<|im_end|>\n<|im_start|>assistant\n"
FLAGS = ["--samplers", "temperature", "--temp", "0", "--ignore-eos", "-n", "-1"]


def main(model: Path = CHAT_MODEL, n_calls: int = 60) -> None:
    with tempfile.TemporaryDirectory() as folder:
        measure_server(Path(folder), model, n_calls)


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


def direct(model_file: Path, n_calls: int) -> float:
    """Median milliseconds of as many tokens, greedily, with llama.cpp alone and one thread, as the server decides."""
    llama_cpp.llama_log_set(_SILENT, None)
    model = llama_cpp.llama_model_load_from_file(str(model_file).encode(), llama_cpp.llama_model_default_params())
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_threads, params.n_threads_batch, params.flash_attn_type = 1024, 1, 1, 0
    context = llama_cpp.llama_init_from_model(model, params)
    vocab = llama_cpp.llama_model_get_vocab(model)
    n_vocab = llama_cpp.llama_vocab_n_tokens(vocab)
    buffer = (llama_cpp.llama_token * 512)()
    text = PROMPT.encode()
    n_prompt = llama_cpp.llama_tokenize(vocab, text, len(text), buffer, 512, True, True)
    times = []
    memory = llama_cpp.llama_get_memory(context)
    for n in range(n_calls):
        if n % 20 == 0:
            llama_cpp.llama_memory_clear(memory, True)
            llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(buffer, n_prompt))
        started = time.perf_counter()
        for _ in range(TOKENS_PER_CALL):
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
    options = parser.parse_args()
    main(options.model, options.calls)
