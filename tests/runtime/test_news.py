"""Who waits for news misses none."""

from __future__ import annotations

import asyncio

import pytest

from canister.runtime.news import News

pytestmark = pytest.mark.anyio


async def test_news_wake_all_who_wait() -> None:
    news = News()
    waiting = [asyncio.create_task(news.wait(0, 600)) for _ in range(3)]
    for _ in range(5):
        await asyncio.sleep(0)
    news.tell()
    async with asyncio.timeout(60):
        assert await asyncio.gather(*waiting) == [1, 1, 1]


@pytest.mark.parametrize("n_steps", range(5))
async def test_news_that_come_while_somebody_begins_to_wait_are_not_missed(n_steps: int) -> None:
    news = News()
    waiting = asyncio.create_task(news.wait(0, 600))
    for _ in range(n_steps):
        await asyncio.sleep(0)
    news.tell()
    async with asyncio.timeout(60):
        assert await waiting == 1


async def test_without_news_a_wait_ends() -> None:
    assert await News().wait(0, 0) == 0
