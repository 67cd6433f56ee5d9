"""A canister in a folder, driven through dispatch as the doors do it: for tests of methods and behaviour."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from canister import dispatch
from canister.api.records import RunOutputRecord
from canister.config import CanisterSettings
from canister.ic import principal as principals
from canister.runtime.canister import Canister

ROOT = Path(__file__).resolve().parent.parent
STORY_MODEL = ROOT.parent / "shared" / "models" / "stories260Ktok512.gguf"
CHAT_MODEL = ROOT / "models" / "llama-canister-tiny.gguf"
MAX_CHUNK = 2_000_000

GREEDY = ("--samplers", "temperature", "--temp", "0.0")

needs_story_model = pytest.mark.skipif(
    not STORY_MODEL.exists(), reason="the story model is in ../shared/models, which is not here"
)


def someone(n: int) -> str:
    """The n-th of some callers."""
    return principals.to_text(principals.self_authenticating(n.to_bytes(4, "big")))


CONTROLLER = someone(0)


class Harness:
    """`call` answers the value of Ok; `fails` the text of an Err."""

    def __init__(self, canister: Canister) -> None:
        self.canister = canister

    async def reply(self, name: str, arg: Any = None, caller: str = CONTROLLER) -> dispatch.Reply:
        method = dispatch.find_method(self.canister, name)

        def decode() -> object:
            return method.arg.model_validate(arg) if isinstance(arg, dict) else arg

        return await dispatch.execute(self.canister, method, caller, decode)

    async def call(self, name: str, arg: Any = None, caller: str = CONTROLLER) -> Any:
        reply = await self.reply(name, arg, caller)
        assert reply.error is None, (name, str(reply.error))
        return reply.value

    async def fails(self, name: str, arg: Any = None, caller: str = CONTROLLER) -> str:
        reply = await self.reply(name, arg, caller)
        assert reply.error is not None, (name, reply.value)
        return str(reply.error)

    async def run(
        self,
        prompt: str,
        *flags: str,
        caller: str = CONTROLLER,
        cache: str | None = "prompt.cache",
        query: bool = False,
    ) -> RunOutputRecord:
        args = ["-p", prompt, *flags]
        if cache is not None:
            args += ["--prompt-cache", cache, "--prompt-cache-all"]
        record = await self.call("run_query" if query else "run_update", {"args": args}, caller)
        assert isinstance(record, RunOutputRecord)
        assert record.status_code == 200
        counts = (
            record.n_prompt_tokens_cached,
            record.n_prompt_tokens_decoded,
            record.n_prompt_tokens_remaining,
        )
        assert sum(count or 0 for count in counts) == record.n_prompt_tokens
        assert not record.n_prompt_tokens_remaining or record.n_tokens_generated == 0
        return record

    async def upload(self, file: Path, path: str) -> None:
        data = file.read_bytes()
        for offset in range(0, max(len(data), 1), MAX_CHUNK):
            chunk = data[offset : offset + MAX_CHUNK]
            await self.call(
                "file_upload_chunk",
                {"filename": path, "chunk": chunk, "chunksize": MAX_CHUNK, "offset": offset},
            )

    async def load(self, file: Path, *flags: str, path: str = "models/model.gguf") -> None:
        await self.upload(file, path)
        record = await self.call("load_model", {"args": ["--model", path, *flags]})
        assert record.output == "Model succesfully loaded into memory."

    async def limit(self, max_tokens: int) -> None:
        await self.call("set_max_tokens", {"max_tokens_update": max_tokens, "max_tokens_query": max_tokens})


@asynccontextmanager
async def canister_in(folder: Path, **settings: Any) -> AsyncIterator[Harness]:
    """A started canister; stopped at the end."""
    canister = Canister(principals.canister_id(0), "llama_cpp", folder, {CONTROLLER}, CanisterSettings(**settings))
    await canister.start()
    try:
        yield Harness(canister)
    finally:
        await canister.stop(5)


async def settle() -> None:
    """Let tasks that were just made run."""
    for _ in range(3):
        await asyncio.sleep(0)
