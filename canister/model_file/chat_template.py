"""A model's chat template: messages in, the prompt that the model was trained on out. Pure: no file, no clock.

The dialect is that of llama.cpp and of Hugging Face: Jinja2 with trimmed blocks, loop controls, `raise_exception`,
`strftime_now` and a `tojson` that does not escape for HTML. Templates come from strangers: the sandbox keeps them from
Python, but nothing here bounds their time and memory. `template_runner.py` does.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from datetime import datetime

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from canister.errors import BadRequest

MAX_TEMPLATE_CHARACTERS = 1 << 20
MAX_PROMPT_CHARACTERS = 8 << 20
SHOWN_CHARACTERS = 300

# For models that come without a template.
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

Message = Mapping[str, object]

_LIST_METHODS = frozenset({"append", "insert", "pop"})  # llama.cpp has these; the lists are this rendering's own
_PROBE = "what-was-said-7f3a"


class TemplateError(BadRequest):
    """The template cannot be read, fails, or refuses the messages; the message says which."""


class _Raised(jinja2.TemplateError):
    """The template called `raise_exception`."""


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
        try:
            self._template = _environment().from_string(source)
        except Exception as error:  # templates are hostile, so any error is the template's fault
            raise TemplateError(f"the model's chat template cannot be read: {_told(error)}") from None
        self._bos_token = bos_token
        self._eos_token = eos_token
        self._adds_bos = adds_bos
        now = datetime(2000, 1, 1)
        said = [{"role": "user", "content": _PROBE}]
        self._wants_parts = not self._shows(said, now) and self._shows([_with_parts(said[0])], now)
        system = [{"role": "system", "content": _PROBE}, {"role": "user", "content": "-"}]
        self._takes_system = self._shows([_with_parts(m) for m in system] if self._wants_parts else system, now)

    def render(
        self,
        messages: Sequence[Message],
        *,
        now: datetime,
        add_generation_prompt: bool = True,
        tools: Sequence[object] | None = None,
        options: Mapping[str, object] | None = None,
    ) -> str:
        """The prompt of these messages. Raises TemplateError.

        messages: {"role", "content", …} as the OpenAI API has them. options: further variables of the template, such
        as enable_thinking. A system message that the template has no place for leads the next user message instead.
        """
        said = [_normal(message, f"message {index}") for index, message in enumerate(messages)]
        if not self._takes_system:
            said = _without_system(said)
        if self._wants_parts:
            said = [_with_parts(message) for message in said]
        try:
            prompt = self._run(said, now, add_generation_prompt, tools, options or {})
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
        if self._adds_bos and self._bos_token:
            prompt = prompt.removeprefix(self._bos_token)
        return prompt.encode("utf-8", "replace").decode()  # without halves of surrogate pairs

    def _run(
        self,
        messages: Sequence[Message],
        now: datetime,
        add_generation_prompt: bool,
        tools: Sequence[object] | None,
        options: Mapping[str, object],
    ) -> str:
        variables: dict[str, object] = {
            "enable_thinking": True,
            "date_string": now.strftime("%d %b %Y"),
            "datetime": now.strftime("%b %d %Y %H:%M:%S GMT"),
            "functions": json.dumps(tools, indent=2, ensure_ascii=False) if tools else "",
            **options,
            "messages": messages,
            "tools": tools or None,
            "add_generation_prompt": add_generation_prompt,
            "bos_token": self._bos_token,
            "eos_token": self._eos_token,
            "raise_exception": _raise,
            "strftime_now": now.strftime,
        }
        pieces: list[str] = []
        n_characters = 0
        for piece in self._template.generate(variables):
            n_characters += len(piece)
            if n_characters > MAX_PROMPT_CHARACTERS:
                raise TemplateError(f"the model's chat template writes more than {MAX_PROMPT_CHARACTERS} characters")
            pieces.append(piece)
        return "".join(pieces)

    def _shows(self, messages: Sequence[Message], now: datetime) -> bool:
        """Does the template pass on what is said in messages of this form?"""
        try:
            return _PROBE in self._run(messages, now, True, None, {})
        except Exception:
            return False


# -- messages


def _normal(message: Message, name: str) -> dict[str, object]:
    """Content as one text, and arguments of tool calls as objects, the form that most templates expect.

    name: of the message, for errors. Raises TemplateError.
    """
    calls = message.get("tool_calls")
    normal = {**message, "content": _text(message.get("content"))}
    if isinstance(calls, list):
        normal["tool_calls"] = [_with_object_arguments(call, name) for call in calls]
    return normal


def _text(content: object) -> str:
    if isinstance(content, list):
        return "\n".join(str(part["text"]) for part in content if isinstance(part, dict) and "text" in part)
    return "" if content is None else str(content)


def _with_object_arguments(call: object, name: str) -> object:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:
        return call
    except RecursionError:
        raise TemplateError(f"the arguments of a tool call in {name} are nested too deeply") from None
    return {**call, "function": {**function, "arguments": arguments}}


def _with_parts(message: Message) -> dict[str, object]:
    return {**message, "content": [{"type": "text", "text": message.get("content", "")}]}


def _without_system(messages: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """System messages put before the text of the next user message, as llama.cpp does it."""
    said: list[dict[str, object]] = []
    pending = ""
    for message in messages:
        text = str(message["content"])
        if message.get("role") == "system":
            pending = f"{pending}\n{text}" if pending else text
        elif message.get("role") == "user" and pending:
            said.append({**message, "content": f"{pending}\n{text}" if text else pending})
            pending = ""
        else:
            said.append(message)
    return [*said, {"role": "user", "content": pending}] if pending else said


# -- the dialect


class _Sandbox(ImmutableSandboxedEnvironment):
    def is_safe_attribute(self, obj: object, attr: str, value: object) -> bool:
        return (isinstance(obj, list) and attr in _LIST_METHODS) or super().is_safe_attribute(obj, attr, value)


class _Generation(Extension):
    """`{% generation %}` marks, for training, what the model says; it writes nothing."""

    tags = {"generation"}  # noqa: RUF012  Jinja's form

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> jinja2.Environment:
    environment = _Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation], cache_size=0
    )
    environment.filters["tojson"] = _tojson
    environment.filters["safe"] = lambda value: value  # nothing is escaped, so nothing is to be marked
    return environment


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
        default=_jsonable,
    )


def _jsonable(value: object) -> object:
    if isinstance(value, jinja2.Undefined):
        return None
    if isinstance(value, Generator | map | filter):
        return list(value)
    raise jinja2.TemplateRuntimeError("tojson takes texts, numbers, lists and objects")


def _raise(message: object = "") -> str:
    raise _Raised(str(message))


def _told(error: Exception) -> str:
    """The error for a person: printable, and no longer than needed."""
    text = " ".join(str(error).split())[:SHOWN_CHARACTERS]
    shown = "".join(character if character.isprintable() else "?" for character in text)
    if isinstance(error, jinja2.TemplateSyntaxError) and error.lineno:
        return f"line {error.lineno}: {shown}"
    return shown or "without saying why"
