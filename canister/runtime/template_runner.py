"""Renders chat templates in a child process, since they are hostile input, and away from the event loop.

The child (`template_child.py`) is bounded in memory, CPU time and output. Whatever a template does to it is a
TemplateError, and the next template gets a new child. It is started when first needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import struct
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from canister.api import strict_json
from canister.model_file.chat_template import MAX_PROMPT_CHARACTERS, Message, TemplateError

START_SECONDS = 60.0  # of a busy machine
RENDER_SECONDS = 60.0  # of a busy machine; the child's own limit is CPU time
CPU_SECONDS = 3  # for one task
MAX_REPLY_BYTES = 12 * MAX_PROMPT_CHARACTERS  # JSON writes a character as up to twelve bytes

_PACKAGE_FOLDER = Path(__file__).resolve().parents[2]
_KEPT_VARIABLES = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "TZ", "VIRTUAL_ENV")


@dataclass(frozen=True, slots=True)
class TemplateSource:
    """A template and facts of its model's vocabulary; see ChatTemplate."""

    template: str
    bos_token: str
    eos_token: str
    adds_bos: bool


class TemplateRunner:
    """One child process. Tasks wait for each other. Call `close` when nothing more is to be rendered."""

    def __init__(self, render_seconds: float = RENDER_SECONDS) -> None:
        self.n_started = 0  # child processes
        self._render_seconds = render_seconds
        self._process: Process | None = None
        self._turn = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """The child's process id, if there is a child."""
        return None if self._process is None else self._process.pid

    async def render(
        self,
        source: TemplateSource,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[object] | None = None,
        options: Mapping[str, object] | None = None,
    ) -> str:
        """The prompt of these messages. See ChatTemplate.render. Raises TemplateError."""
        chat = {
            "messages": messages,
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": continue_final_message,
            "tools": tools,
            "options": options,
        }

        def encoded() -> bytes:
            return json.dumps({"source": asdict(source), "chat": chat}).encode()

        is_large = strict_json.is_large(messages, tools, options)
        task = await asyncio.to_thread(encoded) if is_large else encoded()
        async with self._turn:
            try:
                process = await self._ready()
                reply = await self._answer(process, task)
            except BaseException:  # also for a caller who leaves, since the child's work is of no use to the next one
                await self._end()
                raise
        error = reply.get("error")
        if error is not None:
            raise TemplateError(str(error))
        return str(reply["prompt"])

    async def close(self) -> None:
        """End the child, if there is one."""
        async with self._turn:
            await self._end()

    async def _ready(self) -> Process:
        if self._process is not None and self._process.returncode is None:
            return self._process
        self.n_started += 1
        environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        search = os.pathsep.join([str(_PACKAGE_FOLDER), environment.get("PYTHONPATH", "")])
        environment["PYTHONPATH"] = search.rstrip(os.pathsep)
        process = self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "canister.runtime.template_child", str(CPU_SECONDS)),
            stdin=PIPE,
            stdout=PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=environment,
            cwd="/",
        )
        await self._read(process, START_SECONDS)
        return process

    async def _answer(self, process: Process, task: bytes) -> dict[str, object]:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its silence will show that it is gone
            process.stdin.write(struct.pack(">I", len(task)) + task)
            await process.stdin.drain()
        return await self._read(process, self._render_seconds)

    async def _read(self, process: Process, seconds: float) -> dict[str, object]:
        assert process.stdout is not None
        try:
            async with asyncio.timeout(seconds):
                (n_bytes,) = struct.unpack(">I", await process.stdout.readexactly(4))
                if n_bytes > MAX_REPLY_BYTES:
                    raise TemplateError("the model's chat template writes more than a prompt may hold")
                data = await process.stdout.readexactly(n_bytes)
                is_large = n_bytes > strict_json.LARGE_CHARACTERS
                reply: dict[str, object] = await asyncio.to_thread(json.loads, data) if is_large else json.loads(data)
                return reply
        except TimeoutError:
            raise TemplateError(f"the model's chat template took more than {seconds:g} s") from None
        except asyncio.IncompleteReadError:
            raise TemplateError(_obituary(await _exit_code(process))) from None

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        assert process.stdin is not None
        process.stdin.close()
        await asyncio.shield(process.wait())


async def _exit_code(process: Process) -> int:
    """The exit code of a child that has closed its output. A child that still runs is killed."""
    try:
        return await asyncio.wait_for(process.wait(), 1.0)
    except TimeoutError:
        return -signal.SIGKILL


def _obituary(exit_code: int) -> str:
    if exit_code == -signal.SIGXCPU:
        return "the model's chat template takes too much time"
    if exit_code == -signal.SIGKILL:
        return "the process that rendered the model's chat template was ended by the system, most likely for its memory"
    how = signal.Signals(-exit_code).name if exit_code < 0 else f"code {exit_code}"
    return f"the process that rendered the model's chat template ended with {how}"
