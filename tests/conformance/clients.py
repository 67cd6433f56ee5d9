"""Other people's agents as child processes: each is told what to do in JSON lines, and knows nothing of this package.

They are installed from PyPI and npm beside their drivers, into folders that are not part of the project.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from canister.ic.identity import KeyKind

HERE = Path(__file__).resolve().parent
INSTALL_SECONDS = 300

Json = Any


class NotInstalled(Exception):
    """Why an agent cannot be had here."""


class Failed(Exception):
    """What an agent said instead of an answer."""


@dataclass(frozen=True)
class Agent:
    """key_kinds: those that it can sign with. polls_rejects: it can tell of a reject that it had to poll for.

    sets_clock: it finds out the server's time when its own is wrong. delegates: it can act for another key.
    """

    name: str
    language: Literal["python", "node"]
    key_kinds: tuple[KeyKind, ...] = ("ed25519", "secp256k1", "prime256v1")
    polls_rejects: bool = True
    sets_clock: bool = False
    delegates: bool = False


AGENTS = (
    Agent("icp-py-core", "python"),
    Agent("ic-py", "python", key_kinds=("ed25519", "secp256k1")),
    Agent("dfinity-agent", "node", sets_clock=True, delegates=True),
    # It throws on a reject that it has polled for, whatever the server says.
    Agent("icp-sdk-core", "node", polls_rejects=False, sets_clock=True, delegates=True),
)


def install(language: str) -> list[str]:
    """The command that runs the drivers of a language, installed if they are not yet. Raises NotInstalled."""
    return _install_python() if language == "python" else _install_node()


def _install_python() -> list[str]:
    folder = HERE / "python" / ".venv"
    python = folder / "bin" / "python"
    wanted = (HERE / "python" / "requirements.txt").read_text(encoding="utf-8")
    mark = folder / "installed.txt"
    if not mark.exists() or mark.read_text(encoding="utf-8") != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(folder)])
        _run([str(python), "-m", "pip", "install", "--quiet", "-r", str(HERE / "python" / "requirements.txt")])
        mark.write_text(wanted, encoding="utf-8")
    return [str(python), str(HERE / "python" / "driver.py")]


def _install_node() -> list[str]:
    folder = HERE / "node"
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        raise NotInstalled("node and npm are not on this machine")
    wanted = (folder / "package-lock.json").read_text(encoding="utf-8")
    mark = folder / "node_modules" / "installed.txt"
    if not mark.exists() or mark.read_text(encoding="utf-8") != wanted:
        _run(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder)])
        mark.write_text(wanted, encoding="utf-8")
    return [node, str(folder / "driver.mjs")]


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or error.stdout or "").strip().splitlines()
        raise NotInstalled(f"{' '.join(command[:4])} failed: {lines[-1] if lines else error}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalled(f"{' '.join(command[:4])} failed: {error}") from None


class Client:
    """One agent, in a process of its own."""

    def __init__(self, command: list[str], agent: Agent) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        self.agent = agent
        self._process = subprocess.Popen(
            [*command, agent.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def open(
        self,
        url: str,
        canister: str,
        root_key: str,
        kind: str = "anonymous",
        secret: str | None = None,
        *,
        delegated: bool = False,
        clock_seconds: int = 0,
    ) -> str:
        """Make the agent's identity and connect it; gives its principal. secret: hex; None makes a new key."""
        identity = {"kind": kind, "secret": secret, "delegated": delegated}
        more = {"root_key": root_key} if self.agent.language == "python" else {}
        principal: str = self._ask(
            "open", url=url, canister=canister, identity=identity, clock_seconds=clock_seconds, **more
        )
        return principal

    def call(self, method: str, arg: Json = None) -> Json:
        """What a method answered, with blobs as `{"hex": …}`. Raises Failed."""
        return self._ask("call", method=method, arg=arg)

    def ok(self, method: str, arg: Json = None) -> Json:
        """The value inside Ok."""
        answer = self.call(method, arg)
        assert list(answer) == ["Ok"], answer
        return answer["Ok"]

    def call_wrongly(self, method: str, arg: Json = None) -> Json:
        """Call a method with a text as argument, or as what it is not."""
        return self._ask("call_wrongly", method=method, arg=arg)

    def _ask(self, operation: str, **given: Json) -> Json:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({"operation": operation, **given}), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise Failed(f"the driver of {self.agent.name} ended with {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer["value"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
