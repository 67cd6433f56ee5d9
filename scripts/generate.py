"""Writes the files that are made from the interface and the tables of flags and settings: `python -m scripts.generate`.

With `--check` nothing is written: it tells which files are not current, and exits 1 if there are any.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel

from canister.api import codec
from canister.api.examples import EXAMPLES
from canister.api.methods import METHODS, Method
from canister.api.record_types import Candid
from canister.cli import app
from canister.cli.shared.help import render_cli_help, render_configuration
from canister.flags.parse import render_flags
from canister.ic import did
from canister.ic.annotations import result_name
from canister.server.doors import conversations
from canister.server.pages import openapi
from scripts.console_types import render_types
from scripts.openai_page import render_openai

ROOT = Path(__file__).resolve().parent.parent

_METHODS_HEAD = """\
# Methods

Made from `canister/api/methods.py` by `python -m scripts.generate`; do not edit. Types are those of
[`canister.did`](../canister.did); `GET /docs` of a running server shows them as JSON.

Who may call: **anyone**; **named**: everybody but the anonymous caller; **controller**; **admin query**: a controller,
or a holder of AdminQuery or AdminUpdate; **admin update**: a controller, or a holder of AdminUpdate; **inference**: as
admin query for a query and as admin update for an update, and every named caller while the access level is 1.
"""


_REST_HEAD = """\
## Conversations, over REST alone

For clients that talk in turns, as `canister chat` does. What `apply-template` makes is for `run_update -p`; the form
of the first two is that of llama.cpp's server, and they answer below `/` too. The prompt cache of a named chat
is `chat-NAME`. Bodies and answers are in [openapi.json](openapi.json).

| request | who | |
|---|---|---|"""


def render_did() -> str:
    head = (
        "// The canister's interface, made from canister/api/methods.py by `python -m scripts.generate`; do not edit.\n"
        "\n"
    )
    return head + did.render(METHODS, codec.MARKS)


def render_methods() -> str:
    """docs/methods.md: one table per group, then one example of a call for each method with an argument."""
    lines = [_METHODS_HEAD]
    groups = dict.fromkeys(method.group for method in METHODS)
    for group in groups:
        methods = [method for method in METHODS if method.group == group]
        lines += [f"## {group.capitalize()}", "", "| method | kind | who | takes → gives | |", "|---|---|---|---|---|"]
        lines += [_row(method) for method in methods]
        with_argument = [method for method in methods if method.arg is not None]
        if with_argument:
            lines += ["", "Arguments, for example:", "", "```sh"]
            lines += [
                f"canister call llama_cpp {method.name} {_shell(json.dumps(EXAMPLES[method.name]))}"
                for method in with_argument
            ]
            lines.append("```")
        lines.append("")
    lines += [_REST_HEAD, *map(_rest_row, _rest_operations()), ""]
    return "\n".join(lines)


def _rest_operations() -> list[tuple[str, str, Method]]:
    """Path, verb and row of what REST offers beside the methods; once, where it is offered at two paths."""
    return [
        (path, verb, row)
        for path, verbs in conversations.PATHS.items()
        if path.startswith("/canisters/")
        for verb, row in verbs.items()
    ]


def _rest_row(operation: tuple[str, str, Method]) -> str:
    path, verb, row = operation
    return f"| `{verb} {path}` | inference | {row.doc.splitlines()[0]} |"


def _row(method: Method) -> str:
    takes = "()" if method.arg is None else type_name(method.arg)
    if method.err is None:
        gives = type_name(method.ok)
    else:
        gives = result_name(method.ok) or f"Ok: {type_name(method.ok)}; Err: {type_name(method.err)}"
    summary = method.doc.splitlines()[0].replace("|", "\\|")
    role = "inference" if method.access.startswith("inference_") else method.access.replace("_", " ")
    return f"| `{method.name}` | {method.mode} | {role} | {takes} → {gives} | {summary} |"


def type_name(annotation: Any) -> str:
    """A type as the tables of the specification write it."""
    if get_origin(annotation) is list:
        return f"vec {type_name(get_args(annotation)[0])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation.__name__
    marks = [mark for mark in getattr(annotation, "__metadata__", ()) if isinstance(mark, Candid)]
    return marks[0].type


def _shell(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def generated() -> dict[str, str]:
    """Path below the project's root → content."""
    return {
        "canister.did": render_did(),
        "console/src/interface.d.ts": render_types(),
        "docs/methods.md": render_methods(),
        "docs/flags.md": render_flags(),
        "canister/client/methods.py": render_calls(),
        "docs/cli.md": render_cli_help(app),
        "docs/configuration.md": render_configuration(),
        "docs/openai.md": render_openai(),
        "docs/openapi.json": json.dumps(openapi.document(), indent=1, ensure_ascii=False) + "\n",
    }


_CALLS_HEAD = '''\
"""One typed method per row of the interface table, for the clients. Made by `python -m scripts.generate`; do not edit.

Each is `call` with a name that is checked; what may be raised and how long is waited is said there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from canister.api.records import (
        %s,
    )
    from canister.client.result import Piece, Result


class MethodCalls(ABC):
    @abstractmethod
    async def call(self, name: str, arg: object = None, *, timeout_seconds: float | None = None) -> Result[Any]: ...

    async def stream(self, name: str, arg: object = None) -> AsyncGenerator[Piece | Result[Any]]:
        """Call a run: its text while it goes on, where the way to the server has that; at last its result."""
        yield await self.call(name, arg)
'''


_INSIDE = " " * 8


def render_calls() -> str:
    """canister/client/methods.py: what type checkers and editors know of the methods."""
    lines, records = [], set[str]()
    for method in METHODS:
        taken = "" if method.arg is None else f", arg: {_python_type(method.arg, records)}"
        given = "" if method.arg is None else ", arg"
        lines += [
            "",
            f"    async def {method.name}(self{taken}) -> Result[{_python_type(method.ok, records)}]:",
            *textwrap.wrap(
                f'"""{method.doc.splitlines()[0]}"""', 120, initial_indent=_INSIDE, subsequent_indent=_INSIDE
            ),
            f'        return await self.call("{method.name}"{given})',
        ]
    return _CALLS_HEAD % ",\n        ".join(sorted(records, key=str.lower)) + "\n".join(lines) + "\n"


def _python_type(annotation: Any, records: set[str]) -> str:
    """An annotation as source; the records that it names are added to `records`."""
    if get_origin(annotation) is Annotated:
        return _python_type(get_args(annotation)[0], records)
    if get_origin(annotation) is list:
        return f"list[{_python_type(get_args(annotation)[0], records)}]"
    if issubclass(annotation, BaseModel):
        records.add(annotation.__name__)
    return str(annotation.__name__)


def stale(root: Path = ROOT) -> list[str]:
    """Files that are missing or not what would be generated now."""
    return [name for name, content in generated().items() if _read(root / name) != content]


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is not current")
    options = parser.parse_args(arguments)
    names = stale()
    for name in names:
        if options.check:
            print(f"{name} is not current: run python -m scripts.generate", file=sys.stderr)
            continue
        (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / name).write_text(generated()[name], encoding="utf-8")
        print(f"wrote {name}")
    return 1 if options.check and names else 0


if __name__ == "__main__":
    sys.exit(main())
