"""Requests of Ollama's interface → the same in OpenAI's form, whose fields `fields.py` reads. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue

from canister.server.doors.openai.errors import invalid
from canister.server.doors.openai.fields import misfit

NO_IMAGES = "image input is not supported: describe it in words"
LATEST = ":latest"

# Options with the names in fields.py. A request cannot set options for loading a model.
_OPTIONS = (
    *("seed", "top_k", "top_p", "min_p", "typical_p", "temperature", "repeat_last_n", "repeat_penalty"),
    *("presence_penalty", "frequency_penalty", "mirostat", "mirostat_tau", "mirostat_eta", "stop"),
)
_EFFORTS = ("low", "medium", "high", "max")


def bare_name(name: JsonValue) -> JsonValue:
    """A model's name without Ollama's tag for the newest."""
    return name.removesuffix(LATEST) if isinstance(name, str) else name


def is_streamed(body: Mapping[str, JsonValue]) -> bool:
    """Ollama streams unless the request says otherwise."""
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise misfit("stream", "true or false", stream)
    return stream is not False


def chat_body(body: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """`/api/chat` → the body of a chat completion that asks for the same. Raises DoorError that names the field."""
    messages = body.get("messages")
    if not isinstance(messages, list):
        raise misfit("messages", "a list of messages", messages)
    calls = _Calls()
    said: list[JsonValue] = [_message(message, f"messages[{index}]", calls) for index, message in enumerate(messages)]
    # Ollama has no tool_choice; who sends one means what OpenAI's says.
    return {**_common(body), "messages": said, "tools": body.get("tools"), "tool_choice": body.get("tool_choice")}


def generate_body(body: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """`/api/generate` → the body of a chat completion. Raises DoorError that names the field."""
    prompt, system = _generated_from(body)
    messages: list[JsonValue] = [{"role": "system", "content": system}] if system else []
    return {**_common(body), "messages": [*messages, {"role": "user", "content": prompt}]}


def raw_body(body: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """`/api/generate` with a prompt that goes in as it is → the body of a completion."""
    prompt, _ = _generated_from(body)
    asked = {**_common(body), "prompt": prompt}
    kind = asked.pop("response_format", None)
    if isinstance(kind, dict):
        schema = kind.get("json_schema")
        asked["json_schema"] = schema["schema"] if isinstance(schema, dict) else {}
    if asked.pop("logprobs", None):
        asked["logprobs"] = asked.pop("top_logprobs", 0)
    return asked


def is_raw(body: Mapping[str, JsonValue]) -> bool:
    """Does the prompt go in as it is? Text filled in before a suffix has no template either."""
    return body.get("raw") is True or bool(body.get("suffix"))


def asks_for_nothing(body: Mapping[str, JsonValue]) -> bool:
    """Is this Ollama's way to have a model loaded?"""
    return not (body.get("messages") or body.get("prompt") or body.get("suffix"))


def _generated_from(body: Mapping[str, JsonValue]) -> tuple[str, str | None]:
    """The prompt and the system text."""
    if body.get("images"):
        raise invalid(NO_IMAGES, "images")
    if _text(body, "template"):
        raise invalid("a request brings no template of its own: make the prompt and send it with raw", "template")
    if body.get("context"):
        raise invalid("context is not supported: send what was said as messages to /api/chat", "context")
    return _text(body, "prompt") or "", _text(body, "system")


# -- messages


@dataclass(slots=True)
class _Calls:
    """Tool calls without results so far, their names by their ids. Ollama's need not have ids."""

    n_made: int = 0
    pending: dict[str, str] = field(default_factory=dict)

    def begin(self, name: str, given: JsonValue) -> str:
        key = given if isinstance(given, str) and given else f"call_{self.n_made}"
        self.n_made += 1
        self.pending[key] = name
        return key

    def end(self, name: JsonValue, given: JsonValue) -> str:
        """The id of the call with this result: the first waiting one, of those with this name if there are any."""
        first = next(iter(self.pending), f"call_{self.n_made}")
        key = next((key for key, called in self.pending.items() if called == name), first)
        key = given if isinstance(given, str) and given else key
        self.pending.pop(key, None)
        return key


def _message(message: JsonValue, where: str, calls: _Calls) -> JsonValue:
    if not isinstance(message, dict):
        raise misfit(where, "an object with role and content", message)
    if message.get("images"):
        raise invalid(f"{where}.images: {NO_IMAGES}", f"{where}.images")
    made: dict[str, JsonValue] = {key: message[key] for key in ("role", "content") if key in message}
    if message.get("thinking"):
        made["reasoning_content"] = message["thinking"]
    called = message.get("tool_calls")
    if called is not None and not isinstance(called, list):
        raise misfit(f"{where}.tool_calls", "a list", called)
    if called:
        made["tool_calls"] = [_call(call, f"{where}.tool_calls[{index}]", calls) for index, call in enumerate(called)]
    if message.get("role") == "tool":
        name = message.get("tool_name", message.get("name"))
        made["tool_call_id"] = calls.end(name, message.get("tool_call_id"))
        made["name"] = name
    return made


def _call(call: JsonValue, where: str, calls: _Calls) -> JsonValue:
    """A tool call, whose arguments are an object with Ollama and a text with OpenAI."""
    function = call.get("function") if isinstance(call, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict) or not isinstance(name, str):
        raise misfit(f"{where}.function", "an object with name and arguments", function)
    arguments = function.get("arguments", {})
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {"id": calls.begin(name, call.get("id")), "type": "function", "function": {"name": name, "arguments": text}}


# -- everything else


def _common(body: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    made: dict[str, JsonValue] = {"model": bare_name(body.get("model"))}
    options = body.get("options")
    if options is not None:
        if not isinstance(options, dict):
            raise misfit("options", "an object", options)
        made.update({name: options[name] for name in _OPTIONS if name in options})
        made["max_tokens"] = _n_predict(options.get("num_predict"))
    made["response_format"] = _format(body.get("format"))
    made.update(_thinking(body.get("think")))
    if body.get("logprobs") is True:
        made["logprobs"], made["top_logprobs"] = True, body.get("top_logprobs")
    return {key: value for key, value in made.items() if value is not None}


def _n_predict(wanted: JsonValue) -> JsonValue:
    """None: until the context is full, for which Ollama has -1 and -2."""
    if wanted is not None and (isinstance(wanted, bool) or not isinstance(wanted, int)):
        raise misfit("options.num_predict", "a whole number", wanted)
    return None if wanted is None or wanted < 0 else wanted


def _format(wanted: JsonValue) -> JsonValue:
    if wanted is None or wanted == "":
        return None
    if wanted == "json":
        return {"type": "json_object"}
    if not isinstance(wanted, dict):
        raise misfit("format", '"json" or a JSON schema', wanted)
    return {"type": "json_schema", "json_schema": {"schema": wanted}}


def _thinking(think: JsonValue) -> dict[str, JsonValue]:
    if think is None or think == "":
        return {}
    if isinstance(think, bool):
        return {"chat_template_kwargs": {"enable_thinking": think}}
    if think not in _EFFORTS:
        raise misfit("think", f"true, false, or one of {', '.join(_EFFORTS)}", think)
    return {"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": think}


def _text(body: Mapping[str, JsonValue], key: str) -> str | None:
    value = body.get(key)
    if value is not None and not isinstance(value, str):
        raise misfit(key, "a text", value)
    return value
