"""The caller's prompt caches, as they are listed: their tokens, and where a call finds them."""

from __future__ import annotations

from pathlib import Path

import pytest

from canister import dispatch
from canister.api import rest_only
from canister.api.rest_records import CacheList
from canister.handlers import cache_list
from tests.engine import tiny_models
from tests.harness import CONTROLLER, GREEDY, Harness, canister_in, someone

pytestmark = pytest.mark.anyio


async def listed(harness: Harness, caller: str = CONTROLLER, **page: str | None) -> CacheList:
    reply = await dispatch.execute(harness.canister, rest_only.LIST_CACHES, caller, lambda: None, named=page)
    assert isinstance(reply.value, CacheList), reply.error
    return reply.value


async def test_caches_are_listed_with_their_tokens_and_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [tiny_models.llama_model(tmp_path / f"{n}.gguf", "q8_0", seed=n) for n in (1, 2)]
    async with canister_in(tmp_path / "canister", slots=1) as harness:
        assert (await listed(harness)).caches == []
        await harness.load(models[0], path="models/1.gguf")
        await harness.call("set_access", {"level": 1})
        await harness.run("hello", *GREEDY, "-n", "5", caller=someone(7), cache="of-another")
        records = {name: await harness.run(f"hello {name}", *GREEDY, "-n", "5", cache=name) for name in ("a", "b/c")}
        found = await listed(harness)
        assert [cache.name for cache in found.caches] == ["b/c", "a"]
        assert [cache.tier for cache in found.caches] == ["slot", "memory"]
        for cache in found.caches:
            record = records[cache.name]
            assert cache.tokens == record.n_prompt_tokens + record.n_tokens_generated
            assert cache.is_usable
            assert cache.bytes > 0
        assert (found.n_caches, found.n_bytes) == (2, sum(cache.bytes for cache in found.caches))
        assert [cache.name for cache in (await listed(harness, someone(7))).caches] == ["of-another"]
        monkeypatch.setattr(cache_list, "MOST_CACHES", 1)
        first = await listed(harness)
        assert ([cache.name for cache in first.caches], first.n_caches) == (["b/c"], 2)
        rest = await listed(harness, after=first.next)
        assert ([cache.name for cache in rest.caches], rest.n_caches, rest.next) == (["a"], 2, None)
        assert (await listed(harness, limit="2")).caches == [*first.caches, *rest.caches]
        await harness.load(models[1], path="models/2.gguf")
        [other] = (await listed(harness)).caches
        assert (other.is_usable, other.tier, other.tokens) == (False, "file", found.caches[0].tokens)
