"""What chat templates make something of; hostile ones are asked once."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from canister.handlers.template_capabilities import NOTHING, capabilities
from canister.runtime.template_runner import TemplateRunner, TemplateSource

pytestmark = pytest.mark.anyio

PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
FULL = (
    "{% for tool in tools or [] %}{{ tool.function.name }}{% endfor %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.reasoning_content or '' }}{{ m.content or '' }}"
    "{% for call in m.tool_calls or [] %}[{{ call.function.name }}]{% endfor %}{% endfor %}"
    "{% if enable_thinking %}<think>{% endif %}"
)
ONE_CALL = FULL.replace("m.tool_calls or []", "(m.tool_calls or [])[:1]")
ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.fixture
async def templates() -> AsyncIterator[TemplateRunner]:
    runner = TemplateRunner()
    yield runner
    await runner.close()


def source(template: str) -> TemplateSource:
    return TemplateSource(template, "", "", adds_bos=False)


async def test_what_templates_make_something_of(templates: TemplateRunner) -> None:
    full = await capabilities(templates, source(FULL))
    assert all(full.model_dump().values())
    assert await capabilities(templates, source(PLAIN)) == NOTHING.model_copy(update={"supports_system_role": True})
    one = await capabilities(templates, source(ONE_CALL))
    assert (one.supports_tool_calls, one.supports_parallel_tool_calls) == (True, False)


async def test_a_template_that_fails_or_never_ends_is_asked_once(templates: TemplateRunner) -> None:
    assert await capabilities(templates, source("{{ raise_exception('no') }}")) == NOTHING
    n_started = templates.n_started
    assert await capabilities(templates, source(ENDLESS)) == NOTHING
    assert await capabilities(templates, source(ENDLESS)) == NOTHING
    assert templates.n_started <= n_started + 1
