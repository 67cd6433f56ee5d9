"""An open journal on either database."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from canister.herd.journal import Journal


@pytest.fixture
async def journal(journal_url: str) -> AsyncIterator[Journal]:
    opened = await Journal.open(journal_url)
    yield opened
    await opened.close()
