"""The child process of `template_runner.py`: renders chat templates, one task after the other, until stdin ends.

It is bounded in memory, and each task in CPU time. The kernel refuses it files, sockets and programs where it can. A
task and its answer are JSON behind four bytes of length.
"""

from __future__ import annotations

import json
import resource
import signal
import struct
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from canister.model_file.chat_template import ChatTemplate, TemplateError
from canister.system import sandbox

MEMORY_BYTES = 1 << 30  # of addresses
MAX_OPEN_FILES = 32
MAX_TEMPLATES = 4  # kept read


@dataclass(frozen=True, slots=True)
class _Source:
    template: str
    bos_token: str
    eos_token: str
    adds_bos: bool


_templates: dict[_Source, ChatTemplate] = {}


def main(cpu_seconds: int) -> None:
    """cpu_seconds: for one task."""
    tasks, replies = sys.stdin.buffer, sys.stdout.buffer
    _limit()
    datetime.now().astimezone().strftime("%c %Z")  # reads the time zone while it may
    sandbox.confine_trial([Path(folder) for folder in sys.path if folder])
    _send(replies, {"ready": True})
    while (task := _receive(tasks)) is not None:
        _allow(cpu_seconds)
        try:
            reply: dict[str, object] = {"prompt": _render(task)}
        except TemplateError as error:
            reply = {"error": str(error)}
        except MemoryError:
            _templates.clear()
            reply = {"error": "the model's chat template takes too much memory"}
        _send(replies, reply)


def _render(task: dict[str, object]) -> str:
    source = _Source(**task["source"])  # type: ignore[arg-type]  # written by template_runner.py
    template = _templates.get(source)
    if template is None:
        template = ChatTemplate(
            source.template, bos_token=source.bos_token, eos_token=source.eos_token, adds_bos=source.adds_bos
        )
        while len(_templates) >= MAX_TEMPLATES:
            del _templates[next(iter(_templates))]
        _templates[source] = template
    return template.render(now=datetime.now(), **task["chat"])  # type: ignore[arg-type]


def _receive(stream: BinaryIO) -> dict[str, object] | None:
    head = stream.read(4)
    if len(head) < 4:
        return None
    task: dict[str, object] = json.loads(stream.read(struct.unpack(">I", head)[0]))
    return task


def _send(stream: BinaryIO, reply: dict[str, object]) -> None:
    data = json.dumps(reply).encode()
    stream.write(struct.pack(">I", len(data)) + data)
    stream.flush()


def _limit() -> None:
    limits = [
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, MAX_OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ]
    for kind, wanted in limits:
        hard = resource.getrlimit(kind)[1]
        bound = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        try:
            resource.setrlimit(kind, (bound, bound))
        except (OSError, ValueError):
            continue  # not every system knows every limit


def _allow(seconds: int) -> None:
    """Let this process use so much more CPU time; then SIGXCPU ends it."""
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = int(time.process_time()) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


if __name__ == "__main__":
    main(int(sys.argv[1]))
