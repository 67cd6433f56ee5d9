"""Hostile templates end in a bounded error, and the next template is none the worse for it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from canister.model_file.chat_template import CHATML, TemplateError
from canister.runtime.template_runner import TemplateRunner, TemplateSource
from tests.traces import until

pytestmark = pytest.mark.anyio

HELLO = [{"role": "user", "content": "Hello"}]
PROMPT = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture
async def runner() -> AsyncIterator[TemplateRunner]:
    made = TemplateRunner()
    yield made
    await made.close()


def source(template: str) -> TemplateSource:
    return TemplateSource(template, "<s>", "</s>", adds_bos=True)


async def test_one_process_renders_one_prompt_after_the_other(runner: TemplateRunner) -> None:
    assert await runner.render(source(CHATML), HELLO) == PROMPT
    answers = await asyncio.gather(*(runner.render(source("{{ bos_token }}" + CHATML), HELLO) for _ in range(4)))
    assert answers == [PROMPT] * 4
    options = {"what": "é😀"}
    tail = source("{{ messages[0].content ~ what ~ tools[0] }}{% if add_generation_prompt %}!{% endif %}")
    said = await runner.render(tail, HELLO, add_generation_prompt=False, tools=["t"], options=options)
    assert said == "Helloé😀t"
    assert runner.n_started == 1


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "too much time"),
        ("{{ 10 ** (10 ** 10) }}", "too much time"),
        ("{{ 'a' * 10 ** 10 }}", "too much memory"),
        ("{{ ('a' * 10 ** 6) * 10 ** 6 }}", "too much memory"),
        ("{{ '%01000000000d' % messages | length * 9 }}", "too much memory"),
        ("{% for i in range(9999) %}{{ 'a' * 9999 }}{% endfor %}", "writes more than 8388608 characters"),
        ("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "recurses too deeply"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "cannot be read"),
        ("{{ " + "[" * 100_000 + " }}", "cannot be read"),
        ("{{ ''.__class__.__base__.__subclasses__() }}", "fails"),
    ],
)
async def test_a_hostile_template_ends_in_an_error(runner: TemplateRunner, template: str, told: str) -> None:
    with pytest.raises(TemplateError, match=told):
        await runner.render(source(template), HELLO)
    assert await runner.render(source(CHATML), HELLO) == PROMPT


async def test_a_child_that_does_nothing_is_not_waited_for(runner: TemplateRunner) -> None:
    await runner.render(source(CHATML), HELLO)
    slow = TemplateRunner()
    try:
        assert await slow.render(source(CHATML), HELLO) == PROMPT
        slow._render_seconds = 0.2
        with pytest.raises(TemplateError, match=r"more than 0\.2 s"):
            await slow.render(
                source("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"), HELLO
            )
    finally:
        await slow.close()


async def test_who_leaves_takes_the_rendering_along(runner: TemplateRunner) -> None:
    endless = source("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}")
    task = asyncio.create_task(runner.render(endless, HELLO))
    await until(lambda: runner.n_started == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await runner.render(source(CHATML), HELLO) == PROMPT


async def test_the_child_can_neither_read_files_nor_stay(runner: TemplateRunner, tmp_path: Path) -> None:
    await runner.render(source(CHATML), HELLO)
    pid = runner.pid
    assert pid is not None
    limits = Path(f"/proc/{pid}/limits")
    if limits.exists():
        assert "Max file size             0" in limits.read_text()
    await runner.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
