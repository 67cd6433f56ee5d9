"""`canister ao console PROCESS`: Lua typed by a person runs in the process, and what that prints meanwhile is shown."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from canister.cli.shared.ao import ProcessId, To, WalletFile, connected, shown_result, tell_stranger

if TYPE_CHECKING:
    from canister.client.ao.network import Network

POLL_SECONDS = 1.0
HELP = """Lua runs in the process, and its value is printed. Beside it:
  .load FILE   run a file
  .help        this
  .exit        leave, as Ctrl-D does"""


def console(process: ProcessId, wallet: WalletFile = None, to: To = None) -> None:
    """Talk to a process of one's own.

    Each line is Lua that runs in it. Messages that it prints meanwhile are shown as they come. `.help` tells more.
    """
    with connected(to, wallet) as network:
        prompt = _prompt(network, process) if sys.stdin.isatty() else ""
        over = threading.Event()
        watch = threading.Thread(target=_watch, args=(network, process, over), daemon=True)
        if sys.stdin.isatty():
            watch.start()
        try:
            while True:
                line = input(prompt if sys.stdin.isatty() else "")
                if line.strip() in (".exit", ".quit"):
                    return
                prompt = _run(network, process, line) or prompt
        except EOFError:
            return
        finally:
            over.set()


def _run(network: Network, process: str, line: str) -> str | None:
    """The next prompt, if it is told."""
    word, _, rest = line.strip().partition(" ")
    if not word:
        return None
    if word == ".help":
        print(HELP)
        return None
    source = line
    if word == ".load":
        try:
            source = Path(rest.strip()).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            print(f"{rest.strip()}: {error}", file=sys.stderr)
            return None
    told = network.result(process, network.send(process, [("Action", "Eval")], source.encode()))
    if not sys.stdin.isatty():  # a person was told before the first prompt
        tell_stranger(network, process, told)
    text = shown_result(told)
    if text:
        print(text)
    if told.get("Error"):
        print(f"error: {told['Error']}", file=sys.stderr)
    return _prompt_of(told)


def _prompt_of(told: Mapping[str, object]) -> str | None:
    output = told.get("Output")
    prompt = output.get("prompt") if isinstance(output, dict) else None
    return prompt if isinstance(prompt, str) and prompt else None


def _prompt(network: Network, process: str) -> str:
    """Also whether this wallet may evaluate there: who may not is told at once."""
    told = network.result(process, network.send(process, [("Action", "Eval")], b"return Prompt()"))
    if told.get("Error"):
        print(f"error: {told['Error']}", file=sys.stderr)
    tell_stranger(network, process, told)
    return _prompt_of(told) or "aos> "


def _watch(network: Network, process: str, over: threading.Event) -> None:
    """What the process prints of messages of others."""
    from canister.client.errors import ClientError

    cursor = network.last_cursor(process)
    while not over.wait(POLL_SECONDS):
        try:
            for place, told in network.results(process, cursor):
                cursor = place
                output = told.get("Output")
                if isinstance(output, dict) and output.get("print"):
                    print(f"\n{shown_result(told)}")
        except ClientError:
            continue  # the next line that a person types tells them
