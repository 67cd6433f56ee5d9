"""What the routes of Responses do without a server: others get their turn while an input is looked through."""

from __future__ import annotations

import asyncio
import importlib
from typing import Any, cast

import pytest
from fastapi import Request

from canister.server.doors.openai.responses.fields import ResponsesBody

pytestmark = pytest.mark.anyio

routes = importlib.import_module("canister.server.doors.openai.responses.routes")  # the package has a function so named


async def test_others_run_while_many_references_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    n_turns = 0

    async def other() -> None:
        nonlocal n_turns
        while True:
            n_turns += 1
            await asyncio.sleep(0)

    looked: list[str] = []

    def find(_request: Request, id: str) -> None:
        looked.append(id)

    monkeypatch.setattr(routes, "_find", find)
    items: list[Any] = [{"type": "item_reference", "id": f"msg_{number:048x}0000"} for number in range(300)]
    running = asyncio.create_task(other())
    said = await routes._conversation(cast(Request, None), ResponsesBody(input=items))
    running.cancel()
    assert len(looked) == 300 == len(said)
    assert n_turns >= 299
