"""How values of settings are written, and how `canister serve` takes them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from canister.defaults import UNIX, socket_path

# Panels of the help of `canister serve`. Each setting names its panel.
BASICS, SPEED, AS_ON_IC = "Basics", "Model and speed", "As on the Internet Computer"
ACCESS, CALLERS, REQUESTS, PROCESS = "Access", "Limits of callers", "Requests", "Process and log"
HERD, AO = "Worker of a herd", "AO"
PANELS = (BASICS, SPEED, AS_ON_IC, REQUESTS, CALLERS, PROCESS, ACCESS, HERD, AO)


@dataclass(frozen=True, slots=True)
class ServeOption:
    """How `canister serve` takes a setting. metavar: names its value, where the type does not."""

    panel: str
    metavar: str | None = None
    short: str | None = None


def _limit(value: object) -> object:
    return None if isinstance(value, str) and value.lower() == "none" else value


def _size(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value.lower() == "auto":
        return None
    match = re.fullmatch(r"(\d+)([KMGT]?)(I?B)?", value.upper())
    if match is None:
        raise ValueError(f"{value!r} is not a size: a number of bytes, or one with K, M, G or T, such as 256M")
    return int(match[1]) << 10 * " KMGT".index(match[2] or " ")


def _known_level(value: str) -> str:
    if value.lower() not in ("debug", "info", "warning", "error"):
        raise ValueError(f"{value!r} is not a log level: debug, info, warning or error")
    return value.lower()


def _known_format(value: str) -> str:
    if value not in ("auto", "json", "console"):
        raise ValueError(f"{value!r} is not a log format: auto, json or console")
    return value


def _socket_path(value: str) -> str:
    path = socket_path(value)
    if not path:
        raise ValueError(f"{value!r} is no socket: unix:PATH; --host and --port are for TCP")
    return f"{UNIX}{Path(path).expanduser().absolute()}"


def _usable_names(names: list[str]) -> list[str]:
    for name in names:
        if not name or len(name) > 64 or not name.replace("_", "").replace("-", "").isalnum():
            raise ValueError(f"{name!r} is no canister name: letters, digits, _ and -, at most 64")
    if len(set(names)) != len(names):
        raise ValueError(f"a canister is named twice in {names}")
    return names


def _named_models(models: list[str]) -> list[str]:
    for model in models:
        name, equals, file = model.partition("=")
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,100}", name) or not equals or not file:
            raise ValueError(f"{model!r} is no ID=FILE, such as tiny=model.gguf")
    return models


MemorySize = Annotated[Annotated[int, Field(ge=0)] | None, BeforeValidator(_size)]
InstructionLimit = Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(_limit)]
Seconds = Annotated[Annotated[float, Field(gt=0)] | None, BeforeValidator(_limit)]
LogLevel = Annotated[str, AfterValidator(_known_level)]
LogFormat = Annotated[str, AfterValidator(_known_format)]
UnixAddress = Annotated[str, AfterValidator(_socket_path)]
CanisterNames = Annotated[list[str], AfterValidator(_usable_names)]
NamedModels = Annotated[list[str], AfterValidator(_named_models)]
