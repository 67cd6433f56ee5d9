"""Public templates make the prompts that llama-server makes of the same conversations, as they were recorded."""

from __future__ import annotations

from datetime import datetime

import pytest

from canister.model_file.chat_template import ChatTemplate, TemplateError
from tests.model_file.chat_template import public_templates
from tests.model_file.chat_template.conversations import CONVERSATIONS
from tests.model_file.chat_template.recordings import Prompt, load, rendered

RECORDED = load()
DAY = datetime.fromisoformat(RECORDED.day)

# llama-server writes nothing for an object among the arguments; Jinja, and so the model's training, writes it.
LEFT_OUT_THERE = {("openbmb-MiniCPM5-1B", "a call with deep arguments")}


def test_enough_templates_and_conversations_are_recorded() -> None:
    assert len(RECORDED.templates) >= 60
    for name, talks in RECORDED.prompts.items():
        assert set(talks) == set(CONVERSATIONS), name
    n_made = sum(not prompt.error for talks in RECORDED.prompts.values() for prompt in talks.values())
    assert n_made >= 1500


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    known = public_templates.templates()
    if not known:
        pytest.skip(public_templates.MISSING)
    return known


@pytest.mark.parametrize("name", RECORDED.templates)
def test_prompts_of_a_public_template(sources: dict[str, str], name: str) -> None:
    assert public_templates.sha256(sources[name]) == RECORDED.templates[name], "another text: record again"
    template = ChatTemplate(
        sources[name],
        bos_token=RECORDED.bos_token,
        eos_token=RECORDED.eos_token,
        adds_bos=RECORDED.adds_bos,
    )
    talks = [talk for talk in RECORDED.prompts[name] if (name, talk) not in LEFT_OUT_THERE]
    made = {talk: _made(template, talk, RECORDED.prompts[name][talk]) for talk in talks}
    assert made == {talk: RECORDED.prompts[name][talk] for talk in made}


def test_what_llama_server_leaves_out_is_written(sources: dict[str, str]) -> None:
    for name, talk in LEFT_OUT_THERE:
        template = ChatTemplate(sources[name], bos_token=RECORDED.bos_token, eos_token=RECORDED.eos_token)
        theirs, ours = RECORDED.prompts[name][talk], rendered(template, CONVERSATIONS[talk], DAY)
        left_out = "{'lang': 'de', 'tags': ['x', 'y']}"
        assert ours.count(left_out) == 1
        assert Prompt.of(ours.replace(left_out, "")) == theirs


def _made(template: ChatTemplate, talk: str, recorded: Prompt) -> Prompt:
    """What is refused here has to be refused there; the words may differ."""
    try:
        return Prompt.of(rendered(template, CONVERSATIONS[talk], DAY))
    except TemplateError as error:
        return recorded if recorded.error else Prompt(error=str(error))
