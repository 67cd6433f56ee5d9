"""Prompt caches by the hundred thousand: a data folder as so many calls would have left it, without these calls.

Containers, sidecars and rows of the table of files are written while no server has the folder; the KV rows are those of
one chat, the tokens are each chat's own.
"""

from __future__ import annotations

import itertools
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from canister import dispatch
from canister.api.records import InputRecord, RunOutputRecord
from canister.engine.engine import Engine
from canister.engine.kv.rows import Bytes, state_of
from canister.engine.kv.slots import Logits
from canister.engine.request import Flags, Tokens
from canister.handlers.sidecars import sidecar_text
from canister.runtime.canister import Canister
from canister.store.cache_paths import CACHE_FOLDER, SIDECAR, sessions_of
from canister.store.container import CacheFile, CacheHeader
from canister.store.container_records import usual_starts
from canister.system.data_dir import CANISTER_DATABASE
from tests.bench.servers import GREEDY, BenchError, words

PROMPT_TOKENS = 48
ARGS = ("--prompt-cache-all", *GREEDY, "-n", "1")

Row = tuple[str, str, int, int, int]


@dataclass(frozen=True, slots=True)
class Template:
    """What all chats that are made have in common: the KV rows of so many tokens, as stored and as parked."""

    n_tokens: int
    rows: bytes
    state: Bytes
    logits: Logits
    header: CacheHeader
    sidecar: bytes

    @classmethod
    async def of(cls, canister: Canister, engine: Engine, caller: str) -> Template:
        """Those of a chat that a call has made, and that is removed again."""
        await run(canister, caller, "template", words(PROMPT_TOKENS, "template"), "-n", "0")
        path = f"{sessions_of(caller)}/template"
        info = canister.stable.stat(path)
        known = canister.caches.open(info, engine.info) if info is not None else None
        layout, prefetcher = engine.prefetcher._layout, engine.prefetcher
        if known is None or layout is None:
            raise BenchError("the template was not kept")
        n = len(known.container.tokens)
        [segment] = known.segments(n)
        _, state = state_of(layout, [segment], n, prefetcher._n_streams)
        method = dispatch.find_method(canister, "remove_prompt_cache")
        await dispatch.execute(canister, method, caller, lambda: InputRecord(args=["--prompt-cache", "template"]))
        header = CacheHeader(engine.info.model_id, 0, engine.info.kv_layout)
        logits = np.zeros(engine.info.n_vocab, np.float32)
        return cls(n, bytes(segment.rows), state, logits, header, sidecar_text(engine).encode())

    def tokens(self, engine: Engine, n: int) -> Tokens:
        """The n-th chat's."""
        text = words(PROMPT_TOKENS + 16, n)
        return np.array(engine.tokenize(text, add_bos=True)[: self.n_tokens], np.int32)

    def container(self, tokens: Tokens) -> bytes:
        """A whole prompt cache of these tokens."""
        empty, head = CacheFile.create(self.header, lambda _, __: b"")
        generated: Flags = np.zeros(len(tokens), np.bool_)
        _, record = empty.extended(0, tokens, generated, self.rows, usual_starts(generated))
        return head + record


async def run(canister: Canister, caller: str, name: str, prompt: str, *flags: str) -> RunOutputRecord:
    """A call of the caller's on this prompt cache."""
    arg = InputRecord(args=["--prompt-cache", name, *(flags or ARGS), "-p", prompt])
    reply = await dispatch.execute(canister, dispatch.find_method(canister, "run_update"), caller, lambda: arg)
    if not isinstance(reply.value, RunOutputRecord) or reply.value.status_code != 200:
        raise BenchError(f"run_update: {reply.value}")
    return reply.value


def lay_down(canister_folder: Path, template: Template, wanted: Iterator[tuple[str, str, Tokens]]) -> None:
    """Write caches into the folder of a canister that nobody serves: caller, name and tokens of each."""
    stable = canister_folder / "stable"
    folders: dict[str, None] = {}
    rows: list[Row] = []
    times = itertools.count(time.time_ns())
    for caller, name, tokens in wanted:
        folder = sessions_of(caller)
        if folder not in folders:
            (stable / folder).mkdir(parents=True, exist_ok=True)
            folders |= dict.fromkeys([CACHE_FOLDER, f"{CACHE_FOLDER}/{caller}", folder])
        for path, content in (
            (f"{folder}/{name}", template.container(tokens)),
            (f"{folder}/{name}{SIDECAR}", template.sidecar),
        ):
            fd = os.open(stable / path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.write(fd, content)
            os.close(fd)
            now = next(times)
            rows.append((path, "file", len(content), now, now))
    begun = next(times)
    made = [(folder, "directory", 0, begun, begun) for folder in folders]
    with closing(sqlite3.connect(canister_folder / CANISTER_DATABASE)) as database, database:
        insert = "INSERT OR IGNORE INTO files (path, kind, size, created_ns, modified_ns) VALUES (?, ?, ?, ?, ?)"
        database.executemany(insert, made)
        database.executemany(insert.replace("IGNORE", "REPLACE"), rows)
