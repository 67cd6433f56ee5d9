"""The chats that the bench of growth makes are as calls leave them, in memory, on the disk and after a restart."""

from __future__ import annotations

import asyncio

import pytest

from canister.store.cache_paths import SIDECAR, sessions_of
from models.make_bench_model import SHAPES, write
from tests.bench import growth, growth_fill
from tests.bench.servers import GREEDY, words

N_CACHES = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> growth.Folder:
    path = tmp_path_factory.mktemp("growth")
    return growth.set_up(path / "data", write(path / "thin.gguf", SHAPES["thin"], "Q8_0"), n_callers=2)


def test_made_chats_are_as_calls_leave_them(folder: growth.Folder) -> None:
    asyncio.run(_play(folder))


async def _play(folder: growth.Folder) -> None:
    flags = ("--prompt-cache-all", *GREEDY, "-n", "4")
    await growth.fill(folder, N_CACHES)
    async with growth.opened(folder) as (canister, engine):
        template = await growth_fill.Template.of(canister, engine, folder.callers[0])
        await growth.park(canister, engine, folder)
        assert engine.stats().n_parked >= N_CACHES
        real = await growth_fill.run(
            canister, folder.callers[1], "real", words(growth_fill.PROMPT_TOKENS + 16, 1), "-n", "0"
        )
        stats, n_tokens = engine.stats(), template.n_tokens
        made = sessions_of(folder.callers[1])
        for path in (f"{made}/1", f"{made}/real"):
            info = canister.stable.stat(path)
            assert info is not None
            assert canister.stable.stat(path + SIDECAR) is not None
            cache = canister.caches.open(info, engine.info)
            assert cache is not None
            assert cache.container.n_with_rows(1000) >= n_tokens
        assert (real.n_prompt_tokens or 0) > n_tokens
        goes_on = await growth_fill.run(canister, folder.callers[1], "1", "", *flags)
        assert (goes_on.n_prompt_tokens_cached, goes_on.n_tokens_generated) == (n_tokens, 3)  # the last is not decoded
        assert engine.stats().sources.memory - stats.sources.memory >= n_tokens
        seen = engine.stats().sources.shared
        like = words(growth_fill.PROMPT_TOKENS - 8, 3) + words(8, "end")
        await growth_fill.run(canister, folder.caller(3), "like", like, *flags)
        assert engine.stats().sources.shared > seen
    async with growth.opened(folder) as (canister, engine):
        n_before = engine.stats().n_prompt_tokens
        goes_on = await growth_fill.run(canister, folder.callers[1], "3", "", *flags)
        assert (goes_on.n_prompt_tokens_cached, goes_on.n_tokens_generated) == (n_tokens, 3)  # the last is not decoded
        assert engine.stats().sources.disk == n_tokens
        assert engine.stats().n_prompt_tokens - n_before <= 1  # the last one, for its logits
