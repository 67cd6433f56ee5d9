"""An agent on its own machine: real workers, started, killed, adopted by the next agent, and ended."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from canister.herd.launch.agent import Agent, AgentStatus
from canister.herd.launch.launcher import WorkerSpec

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="a process is known again by /proc"),
]

SPEC = WorkerSpec("w1", bytes(range(32)), {"threads": "1", "log-level": "warning"})
WAIT_SECONDS = 120.0


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    agent = Agent(tmp_path)
    yield agent
    await agent.end(0)


async def until(agent: Agent, is_so: Callable[[AgentStatus], bool]) -> AgentStatus:
    async with asyncio.timeout(WAIT_SECONDS):
        while not is_so(status := await agent.status()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        return status


async def running(agent: Agent) -> AgentStatus:
    return await until(agent, lambda status: status.phase == "running")


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


async def test_a_worker_runs_answers_and_ends(agent: Agent) -> None:
    assert (await agent.status()).phase == "idle"
    await agent.begin(SPEC, 7)
    status = await running(agent)
    assert status.generation > 7
    assert not status.was_adopted
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"{status.url}/healthz")).status_code == 200
    await agent.begin(SPEC, 7)  # again: nothing
    assert (await agent.status()) == status
    assert (await agent.end(20)).phase == "ended"
    assert not is_alive(status.pid)


async def test_a_worker_that_dies_is_started_again_with_a_higher_generation(agent: Agent) -> None:
    await agent.begin(SPEC, 0)
    before = await running(agent)
    os.kill(before.pid, signal.SIGKILL)
    after = await until(agent, lambda status: status.phase == "running" and status.pid != before.pid)
    assert after.generation > before.generation


async def test_the_next_agent_adopts_what_runs_and_sees_its_end(agent: Agent, tmp_path: Path) -> None:
    await agent.begin(SPEC, 0)
    before = await running(agent)
    successor = Agent(tmp_path)
    await agent._stop_keeping()  # as if it had been killed: it does nothing any more
    await successor.begin(SPEC, 0)
    try:
        adopted = await running(successor)
        assert (adopted.pid, adopted.generation, adopted.url) == (before.pid, before.generation, before.url)
        assert adopted.was_adopted
        os.kill(before.pid, signal.SIGKILL)
        after = await until(successor, lambda status: status.phase == "running" and status.pid != before.pid)
        assert not after.was_adopted
        assert after.generation > before.generation
    finally:
        await successor.end(0)


async def test_other_options_are_another_process(agent: Agent) -> None:
    await agent.begin(SPEC, 0)
    before = await running(agent)
    await agent.begin(replace(SPEC, options={**SPEC.options, "slots": "2"}), 0)
    after = await until(agent, lambda status: status.phase == "running" and status.pid != before.pid)
    assert not is_alive(before.pid)
    assert after.generation > before.generation


async def test_a_process_that_nobody_recorded_makes_room(agent: Agent, tmp_path: Path) -> None:
    """Its agent was killed between its start and the note of it."""
    await agent.begin(SPEC, 0)
    before = await running(agent)
    await agent._stop_keeping()
    (tmp_path / "w1" / "process.json").unlink()
    successor = Agent(tmp_path)
    await successor.begin(SPEC, 0)
    try:
        after = await running(successor)
        assert not after.was_adopted
        assert not is_alive(before.pid)
    finally:
        await successor.end(0)


async def test_a_pid_that_came_again_is_another_process(agent: Agent, tmp_path: Path) -> None:
    await agent.begin(SPEC, 0)
    before = await running(agent)
    await agent.end(20)
    record = tmp_path / "w1" / "process.json"
    content = json.loads(record.read_bytes())
    record.write_text(json.dumps({**content, "pid": os.getpid()}))  # ours, which began at another time
    await agent.begin(SPEC, 0)
    after = await until(agent, lambda status: status.phase == "running" and status.pid != before.pid)
    assert not after.was_adopted


async def test_a_stopped_worker_is_ended_all_the_same(agent: Agent) -> None:
    await agent.begin(SPEC, 0)
    status = await running(agent)
    os.kill(status.pid, signal.SIGSTOP)
    await agent.end(20)
    assert not is_alive(status.pid)


async def test_why_a_worker_does_not_start_is_told(agent: Agent) -> None:
    await agent.begin(replace(SPEC, options={"colour": "red"}), 0)
    assert "colour" in (await until(agent, lambda status: status.phase == "failed")).reason
    await agent.begin(replace(SPEC, options={"port": "80"}), 0)
    assert "--port is set by the herd" in (await until(agent, lambda status: "port" in status.reason)).reason
    await agent.begin(SPEC, 0)
    await running(agent)


async def test_a_worker_whose_agent_is_gone_for_long_is_ended_and_no_other(agent: Agent, tmp_path: Path) -> None:
    await agent.begin(SPEC, 0)
    orphan = await running(agent)
    await agent._stop_keeping()
    gone = await asyncio.create_subprocess_exec("true")
    await gone.wait()
    (tmp_path / "w1" / "agent.json").write_text(json.dumps({"pid": gone.pid, "begun": "1"}))
    kept, looking = Agent(tmp_path), Agent(tmp_path, patience_seconds=0.3)
    try:
        await kept.begin(replace(SPEC, id="w2"), 0)
        await looking.begin(replace(SPEC, id="w3"), 0)
        other = await running(kept)
        async with asyncio.timeout(WAIT_SECONDS):
            while is_alive(orphan.pid):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await asyncio.sleep(1.0)  # some more looks
        assert is_alive(other.pid)
        assert is_alive((await running(looking)).pid)
    finally:
        await kept.end(0)
        await looking.end(0)
