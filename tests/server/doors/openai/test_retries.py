"""A client that gives up on a long prompt and asks again gets through: what is in stays in, and is decoded once."""

from __future__ import annotations

import pytest

from tests.server.doors.openai.conftest import connected
from tests.server.served import Served
from tests.traces import until

pytestmark = pytest.mark.anyio

N_OF_A_CALL = 10  # tokens, as the server is set up
LONG = [{"role": "user", "content": " ".join(f"Llama {n} carries wool." for n in range(40))}]


async def test_each_try_gets_on_where_the_one_before_was_given_up(server: Served) -> None:
    engine = server.host.default.model.engine
    assert engine is not None
    async with connected(server, "patient") as client:
        n_before, n_tries, is_in = engine.stats().n_prompt_tokens, 0, False
        cached, n_prompt = [], 0
        while not is_in:
            n_tries += 1
            stream = await client.chat.completions.create(
                model="llama_cpp", messages=LONG, max_tokens=3, stream=True, extra_body={"return_progress": True}
            )
            async for chunk in stream:
                told = (chunk.model_extra or {}).get("prompt_progress")
                if told is not None:
                    n_prompt = told["total"]
                    cached.append(told["cache"])
                    is_in = told["processed"] == told["total"]
                    break
            await stream.close()
            await until(lambda: not server.host.default.answer_caches.n_busy)
        assert cached == sorted(set(cached))
        assert 1 < n_tries <= -(-n_prompt // N_OF_A_CALL)
        assert n_prompt <= engine.stats().n_prompt_tokens - n_before <= n_prompt + 2 * n_tries
        answer = await client.chat.completions.create(model="llama_cpp", messages=LONG, max_tokens=3)
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        assert (answer.usage.prompt_tokens_details.cached_tokens or 0) >= n_prompt - N_OF_A_CALL
