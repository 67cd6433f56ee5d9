"""Ollama's views of models, which are canisters: `/api/tags`, `/api/ps`, `/api/show`, `/api/version`."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import JsonValue

from canister.api.rest_records import Props
from canister.dispatch import ModelView
from canister.server.doors.openai.ollama.request import LATEST

VERSION = "0.13.0"
"""Of Ollama, whose interface this is; clients refuse to speak with older ones."""

NEVER = "2318-01-01T00:00:00Z"
"""When a model is unloaded by itself; Ollama too has no word for never."""

_UNITS = ((10**9, "B", 1), (10**6, "M", 2), (10**3, "K", 2))


def listed(view: ModelView) -> dict[str, JsonValue]:
    """A model in the form of `/api/tags`."""
    return {
        "name": view.name + LATEST,
        "model": view.name + LATEST,
        "modified_at": _time(view.created),
        "size": view.n_bytes,
        "digest": view.digest,
        "details": details(view),
    }


def running(view: ModelView) -> dict[str, JsonValue]:
    """A model in the form of `/api/ps`. It stays loaded, and no part of it is on a graphics card."""
    made = {**listed(view), "expires_at": NEVER, "size_vram": 0, "context_length": view.n_ctx}
    del made["modified_at"]
    return made


def shown(view: ModelView, props: Props) -> dict[str, JsonValue]:
    """A model in the form of `/api/show`."""
    arch = architecture(view)
    params = props.default_generation_settings.params
    told = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty")
    return {
        "modelfile": f"FROM {view.name}{LATEST}\n",
        "parameters": "\n".join(f"{name:<30} {params[name]}" for name in told if name in params),
        "template": props.chat_template,
        "details": details(view),
        "model_info": {
            "general.architecture": arch,
            "general.parameter_count": view.n_params,
            "general.file_type": view.file_type,
            f"{arch}.context_length": view.n_ctx_train,
            f"{arch}.embedding_length": view.n_embd,
            f"{arch}.vocab_size": view.n_vocab,
        },
        "capabilities": [*capabilities(view, props)],
        "modified_at": _time(view.created),
    }


def capabilities(view: ModelView, props: Props) -> list[str]:
    if view.pooling:
        return ["embedding"]
    caps = props.chat_template_caps
    found = {
        "completion": True,
        "tools": bool(props.chat_template),  # told in the system message where the template does not
        "insert": view.fills_in,
        "thinking": caps.supports_thinking_switch or caps.supports_preserve_reasoning,
    }
    return [name for name, has in found.items() if has]


def details(view: ModelView) -> JsonValue:
    family = architecture(view)
    return {
        "parent_model": "",
        "format": "gguf",
        "family": family,
        "families": [family],
        "parameter_size": size_text(view.n_params),
        "quantization_level": quantization(view.file_type),
    }


def architecture(view: ModelView) -> str:
    """The first word of llama.cpp's description of a model."""
    return view.description.split(" ")[0] or "unknown"


def size_text(n: int) -> str:
    """8030261248 → 8.0B"""
    for unit, name, digits in _UNITS:
        if n >= unit:
            return f"{n / unit:.{digits}f}{name}"
    return str(n)


def quantization(file_type: str) -> str:
    """llama.cpp's words for a type → the name that files have: Q4_K - Medium → Q4_K_M."""
    name, _, size = file_type.removeprefix("all ").partition(" - ")
    return f"{name}_{size[0]}" if size else name


def _time(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
