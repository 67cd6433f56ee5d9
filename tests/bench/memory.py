"""Memory with 200 idle chats of 500 tokens on 8 slots, beside the sum of model, KV memory, RAM cache and 150 MB.

Eight chats take prompts in; the others are copies of them (`copy_prompt_cache`) that each went on by a call of its own.
What counts is the proportional share of resident pages (Pss of smaps_rollup), the mapped model file included.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from canister.model_file.gguf import read_gguf
from tests.bench.results import Row
from tests.bench.servers import EXACT, Ours, known, words
from tests.bench.suite import Bench, Options, begin, main, together

CHATS = 200
ORIGINALS = 8
PROMPT_TOKENS = 500
SLOTS = 8
N_CTX = 1024
RAM_CACHE_MB = 256
SLACK_MB = 150
TOKENS_EACH = 2


def measure(options: Options) -> list[Row]:
    n_chats, n_prompt = options.scaled(CHATS, ORIGINALS), options.scaled(PROMPT_TOKENS, 50)
    flags = (*known("--exact", "auto"), *known("--ram-cache", f"{RAM_CACHE_MB}M"))
    with Ours(EXACT, options.model, n_ctx=N_CTX, slots=SLOTS, threads=options.threads, flags=flags) as server:
        loaded = pss_megabytes(server.pid)
        originals = [server.chat(f"memory-{n}") for n in range(ORIGINALS)]
        begin(server, originals, [words(n_prompt, n) for n in range(ORIGINALS)])
        for n in range(ORIGINALS, n_chats):
            server.call("copy_prompt_cache", {"from": f"memory-{n % ORIGINALS}", "to": f"memory-{n}"})
        chats = [server.chat(f"memory-{n}") for n in range(n_chats)]
        server.prepare(TOKENS_EACH)
        together([partial(chat.go_on, TOKENS_EACH) for chat in chats], SLOTS)
        used = pss_megabytes(server.pid)
    parts = {
        "model": options.model.stat().st_size / 1e6,
        "KV": SLOTS * N_CTX * kv_bytes_per_token(options.model) / 1e6,
        "RAM cache": RAM_CACHE_MB * 2**20 / 1e6,
        "slack": SLACK_MB,
    }
    return [
        Row(
            f"memory with {n_chats} idle chats of {n_prompt} tokens, {SLOTS} slots, --ram-cache {RAM_CACHE_MB}M",
            used,
            sum(parts.values()),
            "MB",
            used,
            sum(parts.values()),
            at_least=False,
            figure_unit="MB",
            peer_name=" + ".join(f"{name} {size:.0f}" for name, size in parts.items()),
            note=f"{loaded:.0f} MB when loaded"
            + ("" if "--ram-cache" in flags else "; this server has no --ram-cache"),
            samples={"ours": [used], "loaded": [loaded]},
        )
    ]


def pss_megabytes(pid: int) -> float:
    """Memory of a process, pages shared with others counted in proportion."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("Pss:"))) * 1024 / 1e6


def kv_bytes_per_token(model: Path) -> int:
    """Of a KV memory in f16, for keys and values of all layers."""
    metadata = read_gguf(model).metadata
    arch = metadata["general.architecture"]

    def size(name: str) -> int:
        value = metadata[f"{arch}.{name}"]
        assert isinstance(value, int)
        return value

    head = size("embedding_length") // size("attention.head_count")
    return size("block_count") * size("attention.head_count_kv") * head * 2 * 2


BENCH = Bench("memory", "memory with 200 idle chats", measure)

if __name__ == "__main__":
    main(BENCH)
