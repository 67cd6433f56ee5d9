"""The settings of a command line. When they cannot be read: where the value came from, and the way out."""

from __future__ import annotations

import functools
import os
import re
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from canister.defaults import DEFAULT_PORT, ENVIRONMENT_PREFIX, LOCAL_URL, default_data_dir
from canister.errors.nearest import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from canister.config import Settings

FILE = Path("canister.toml")
# Read by the client commands, by dfx and by icp; no settings of a server.
_OTHERS_ENVIRONMENT = ("URL", "API_KEY", "CONFIG_DIR", "ID_", "CANDID_PATH")


def load_settings(**flags: Any) -> Settings:
    """Settings, or a usage error that names the flag, the variable or the line of the file, and the value."""
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from canister.config import sources

    _tell_misspelt_variables()
    try:
        return sources.load_settings(**flags)
    except ValidationError as error:
        given = {name for name, value in flags.items() if value is not None}
        raise typer.BadParameter("; ".join(_problem(dict(one), given) for one in error.errors())) from None
    except tomllib.TOMLDecodeError as error:
        raise typer.BadParameter(f"{FILE.absolute()} is not TOML: {error}") from None
    except SettingsError as error:
        name = re.search(r'field "(\w+)"', str(error))
        if name is None:
            raise typer.BadParameter(f"settings: {error}") from None
        variable = _variable(name[1])
        raise typer.BadParameter(
            f"{variable}: a list is written as JSON, such as {variable}='[\"a\"]' (given: {os.environ.get(variable)!r})"
        ) from None
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"{FILE.absolute()} is not UTF-8: {error}") from None


def data_folder(data_dir: Path | None) -> Path:
    """The data folder of the command, whether or not it exists.

    Settings are read only where they may name another one, since that takes longer than a call.
    """
    if data_dir is None:
        variable = _variable("data_dir")
        if not _is_anything_set(but=variable):
            data_dir = Path(os.environ.get(variable, default_data_dir()))
    return (load_settings().server.data_dir if data_dir is None else data_dir).expanduser().absolute()


def served_url() -> str:
    """Where `canister serve` listens with the settings of this shell and folder."""
    if not _is_anything_set(but=_variable("data_dir")):
        return LOCAL_URL
    settings = load_settings().server
    if settings.listen is not None:
        return settings.listen
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    port = settings.port or DEFAULT_PORT
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _is_anything_set(*, but: str) -> bool:
    """Is there a file of settings, or a variable that is or may be meant as one, besides this one?"""
    return FILE.exists() or any(
        name.upper().startswith(ENVIRONMENT_PREFIX)
        and name != but
        and not name[len(ENVIRONMENT_PREFIX) :].startswith(_OTHERS_ENVIRONMENT)
        for name in os.environ
    )


def _problem(problem: dict[str, Any], flags: Iterable[str]) -> str:
    name, *inside = map(str, problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{_line_of(name)}: there is no setting {name!r}; {_nearest(name)}"
    if name in flags:
        source = f"--{name.replace('_', '-')}"
    elif _variable(name) in os.environ:
        source = _variable(name)
    else:
        source = _line_of(name)
    where = f"{source}: {'.'.join([name, *inside])}" if source == _line_of(name) or inside else source
    what = str(problem["msg"]).removeprefix("Value error, ")
    return f"{where}: {what} (given: {problem['input']!r})"


def _line_of(name: str) -> str:
    """The file and the line with this setting."""
    try:
        lines = FILE.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    sets = re.compile(rf"\s*(\[\s*)?[\"']?{re.escape(name)}[\"']?\s*[=.\]]")
    numbers = [number for number, line in enumerate(lines, 1) if sets.match(line)]
    return f"{FILE.absolute()}{f', line {numbers[0]}' if numbers else ''}"


def _nearest(name: str) -> str:
    from canister.config import rows

    near = nearest(name, rows())
    return f"did you mean {near!r}?" if near else "docs/configuration.md lists them"


@functools.cache  # said once, however often settings are read
def _tell_misspelt_variables() -> None:
    from canister.config import rows

    known = [_variable(name) for name in rows()]
    for name in sorted(os.environ):
        own = name.removeprefix(ENVIRONMENT_PREFIX)
        if own == name or name in known or own.startswith(_OTHERS_ENVIRONMENT):
            continue
        near = nearest(name, known, 0.85)
        if near:
            print(f"canister: {name} is no setting and has no effect; did you mean {near}?", file=sys.stderr)


def _variable(name: str) -> str:
    return f"{ENVIRONMENT_PREFIX}{name}".upper()
