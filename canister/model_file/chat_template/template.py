"""A template, read once and applied to messages. Pure: no file, no clock.

Templates come from strangers: the sandbox keeps them from Python, but nothing here bounds their time and memory.
`runtime/template_runner.py` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property

import jinja2

from canister.model_file.chat_template.dialect import Watched, environment
from canister.model_file.chat_template.errors import TemplateError
from canister.model_file.chat_template.families import (
    Continuation,
    family_of,
    finished,
    opening_of,
    repaired,
    trimmed,
    trims_texts,
)
from canister.model_file.chat_template.messages import (
    Message,
    Normal,
    normal_message,
    normal_tools,
    text_of,
    with_object_arguments,
    with_parts,
    with_text,
    without_system,
)
from canister.model_file.chat_template.thoughts import Trial, marks_of

MAX_TEMPLATE_CHARACTERS = 1 << 20
MAX_PROMPT_CHARACTERS = 8 << 20
SHOWN_CHARACTERS = 300

# For models that come without a template.
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_PROBE = "what-was-said-7f3a"
_NOON = datetime(2000, 1, 1, 12)  # of probes
# Names under which templates ask whether thoughts of former turns stay, and what they mean.
_PRESERVING = {
    "preserve_thinking": True,
    "clear_thinking": False,
    "truncate_history_thinking": False,
    "drop_thinking": False,
}


class _Raised(jinja2.TemplateError):
    """The template called `raise_exception`."""


@dataclass(frozen=True, slots=True)
class _Variables:
    """What a rendering knows beside its messages."""

    now: datetime
    add_generation_prompt: bool = True
    tools: Sequence[object] | None = None
    options: Mapping[str, object] | None = None


class ChatTemplate:
    """A template, read once. bos_token, eos_token: their texts, "" for none.

    adds_bos: the tokenizer will put BOS in front of the prompt, so a BOS that the template writes there is left out.
    Raises TemplateError.
    """

    def __init__(self, source: str, *, bos_token: str = "", eos_token: str = "", adds_bos: bool = False) -> None:
        if len(source) > MAX_TEMPLATE_CHARACTERS:
            raise TemplateError(
                f"the model's chat template has {len(source)} characters; at most {MAX_TEMPLATE_CHARACTERS} are read"
            )
        self._source = repaired(source)
        try:
            self._template = environment().from_string(self._source)
        except Exception as error:  # templates are hostile, so any error is the template's fault
            raise TemplateError(f"the model's chat template cannot be read: {_told(error)}") from None
        self._family = family_of(source)
        self._bos_token = bos_token
        self._eos_token = eos_token
        self._adds_bos = adds_bos

    def render(
        self,
        messages: Sequence[Message],
        *,
        now: datetime,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[object] | None = None,
        options: Mapping[str, object] | None = None,
    ) -> str:
        """The prompt of these messages. Raises TemplateError.

        messages: {"role", "content", …} as the OpenAI API has them. options: further variables of the template, such
        as enable_thinking. A system message that the template has no place for leads the next user message instead.
        continue_final_message: the prompt ends within the last message, behind what it says; if that is nothing but
        thoughts, within them.
        """
        said = [normal_message(message, f"message {index}") for index, message in enumerate(messages)]
        begun = said.pop() if continue_final_message and said else None
        variables = _Variables(
            now, add_generation_prompt and begun is None, normal_tools(tools) if tools else None, options
        )
        try:
            variables = replace(variables, options={"enable_thinking": self._knows_thoughts, **(options or {})})
            prompt = self._prompt(self._adapted(said), variables)
            if begun is not None:
                prompt += self._begun(begun, prompt, self._adapted(said), variables)
        except _Raised as error:
            raise TemplateError(f"the model's chat template refuses these messages: {_told(error)}") from None
        except TemplateError:
            raise
        except MemoryError:
            raise TemplateError("the model's chat template takes too much memory") from None
        except RecursionError:
            raise TemplateError("the model's chat template recurses too deeply") from None
        except Exception as error:  # as above
            raise TemplateError(f"the model's chat template fails: {_told(error)}") from None
        return prompt.encode("utf-8", "replace").decode()  # without halves of surrogate pairs

    # -- messages in the template's form

    def _adapted(self, messages: Sequence[Normal]) -> list[Normal]:
        said = [trimmed(message) for message in messages] if trims_texts(self._source) else list(messages)
        if not self._takes_parts:
            said = [with_text(message) for message in said]
        elif not self._takes_text:
            said = [with_parts(message) for message in said]
        if not self._takes_system:
            said = without_system(said)
            said = said if self._takes_text else [with_parts(message) for message in said]
        if self._takes_objects:
            said = [with_object_arguments(message) for message in said]
        adapt = None if self._family is None else self._family.adapt
        return said if adapt is None else adapt(said)

    @cached_property
    def _takes_text(self) -> bool:
        return not self._takes_parts or self._shows({"role": "user", "content": _PROBE})

    @cached_property
    def _takes_parts(self) -> bool:
        """Does it go through parts, rather than write them all at once?

        One that takes texts too has to go through an empty list as well, as in llama.cpp.
        """
        shown = self._tried([with_parts({"role": "user", "content": _PROBE})], _Variables(_NOON)) or ""
        if _PROBE not in shown or any(f"{mark}text{mark}: {mark}{_PROBE}" in shown for mark in "'\""):
            return False
        none = Watched()
        is_made = self._tried([{"role": "user", "content": none}], _Variables(_NOON)) is not None
        return (is_made and none.is_read) or not self._shows({"role": "user", "content": _PROBE})

    @cached_property
    def _takes_system(self) -> bool:
        system: Normal = {"role": "system", "content": _PROBE}
        user: Normal = {"role": "user", "content": "-"}
        return self._shows(*((system, user) if self._takes_text else (with_parts(system), with_parts(user))))

    @cached_property
    def _takes_objects(self) -> bool:
        """Does it look into the arguments of calls, and not only write them?"""
        call = {"type": "function", "function": {"name": "f", "arguments": {"x": _PROBE}}, "id": "call00001"}
        said: list[Normal] = [
            {"role": "user", "content": "-"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "-", "tool_call_id": "call00001"},
            {"role": "assistant", "content": "-"},
            {"role": "user", "content": "-"},
        ]
        if not self._takes_text:
            said = [with_parts(message) for message in said]
        shown = self._tried(said, _Variables(_NOON, tools=[_PROBE_TOOL]))
        return shown is not None and _PROBE in shown and f"{{'x': '{_PROBE}'}}" not in shown

    def _shows(self, *messages: Normal) -> bool:
        """Does the template pass on what is said in messages of this form?"""
        return _PROBE in (self._tried(messages, _Variables(_NOON)) or "")

    def _tried(self, messages: Sequence[Normal], variables: _Variables) -> str | None:
        try:
            return self._run(messages, variables)
        except (MemoryError, RecursionError, TemplateError):  # hostile, so that one trial is enough
            raise
        except Exception:
            return None

    # -- a message that is gone on with

    def _begun(self, begun: Normal, prompt: str, said: Sequence[Normal], variables: _Variables) -> str:
        """What stands for a begun message behind the prompt of what was said before."""
        thought, content = str(begun.get("reasoning_content", "")), text_of(begun["content"], "\n\n")
        form = self._continuation
        if form.thought_begin and not thought and form.empty_thought is not None:
            form = replace(form, thought_begin=form.empty_thought, thought_end="")
        opening = opening_of(form, prompt)
        if opening is None:
            opening = _behind(prompt, self._prompt(said, replace(variables, add_generation_prompt=True)))
            opening = opening.partition(form.thought_begin)[0] if form.thought_begin else opening
        if not form.thought_begin:
            return opening + content
        within = opening + form.thought_begin + thought
        return within if thought and not content else within + form.thought_end + content

    @cached_property
    def _knows_thoughts(self) -> bool:
        """Only such a template is told to think, unless the caller says so."""
        return bool(self._continuation.thought_begin or self._continuation.thought_end)

    @cached_property
    def _continuation(self) -> Continuation:
        if self._family is not None:
            return self._family.continuation

        def render(trial: Trial) -> str | None:
            said = list(trial.messages) if self._takes_text else [with_parts(message) for message in trial.messages]
            options = {"enable_thinking": trial.thinks}
            return self._tried(said, _Variables(_NOON, trial.add_generation_prompt, trial.tools, options))

        marks = marks_of(self._source, render)
        return Continuation(marks.begin, marks.end, opening=None)

    # -- the template itself

    def _prompt(self, messages: Sequence[Normal], variables: _Variables) -> str:
        prompt = self._run(messages, variables)
        if self._adds_bos and self._bos_token:
            prompt = prompt.removeprefix(self._bos_token)
        return finished(prompt, self._source, variables.add_generation_prompt)

    def _run(self, messages: Sequence[Normal], variables: _Variables) -> str:
        pieces: list[str] = []
        n_characters = 0
        for piece in self._template.generate(self._variables(messages, variables)):
            n_characters += len(piece)
            if n_characters > MAX_PROMPT_CHARACTERS:
                raise TemplateError(f"the model's chat template writes more than {MAX_PROMPT_CHARACTERS} characters")
            pieces.append(piece)
        return "".join(pieces)

    def _variables(self, messages: Sequence[Normal], variables: _Variables) -> dict[str, object]:
        """tools and add_generation_prompt are undefined rather than none or false."""
        options = {"preserve_reasoning": True, **(variables.options or {})}
        if isinstance(preserves := options.get("preserve_reasoning"), bool):
            options |= {name: preserves is value for name, value in _PRESERVING.items()}
        if effort := options.get("reasoning_effort"):
            options["reasoning_strength"] = effort
        known: dict[str, object] = {
            "date_string": variables.now.strftime("%d %b %Y"),
            "datetime": variables.now.strftime("%b %d %Y"),
            **options,
            "messages": messages,
            "bos_token": self._bos_token,
            "eos_token": self._eos_token,
            "raise_exception": _raise,
            "strftime_now": variables.now.strftime,
        }
        if variables.tools:
            known["tools"] = variables.tools
        if variables.add_generation_prompt:
            known["add_generation_prompt"] = True
        return known


_PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "description": "f",
        "parameters": {
            "type": "object",
            "properties": {"x": {"type": "string", "description": "x"}},
            "required": ["x"],
        },
    },
}


def _behind(prompt: str, longer: str) -> str:
    """What the longer text has behind what both begin with."""
    same = next((at for at, (a, b) in enumerate(zip(prompt, longer, strict=False)) if a != b), None)
    return longer[min(len(prompt), len(longer)) if same is None else same :]


def _raise(message: object = "") -> str:
    raise _Raised(str(message))


def _told(error: Exception) -> str:
    """The error for a person: printable, and no longer than needed."""
    text = " ".join(str(error).split())[:SHOWN_CHARACTERS]
    shown = "".join(character if character.isprintable() else "?" for character in text)
    if isinstance(error, jinja2.TemplateSyntaxError) and error.lineno:
        return f"line {error.lineno}: {shown}"
    return shown or "without saying why"
