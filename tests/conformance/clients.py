"""Other people's agents as child processes: each is told what to do in JSON lines, and knows nothing of this package.

They are installed from PyPI and npm by `make clients`, into folders that are not part of the project.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from canister.ic.identity import KeyKind

HERE = Path(__file__).resolve().parent
CLIENTS = HERE.parents[1] / ".clients"

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


def driver(agent: Agent) -> list[str]:
    """The command that runs an agent's driver. Raises NotInstalled."""
    name = "agents" if agent.language == "python" else "agents_node"
    place, note = CLIENTS / name, CLIENTS / f"{name}.missing"
    if note.exists():
        raise NotInstalled(note.read_text(encoding="utf-8"))
    if not place.is_dir():
        raise NotInstalled("`make test` installs it, or `make clients`")
    if agent.language == "python":
        return [str(place / "bin" / "python"), str(HERE / "python" / "driver.py"), agent.name]
    node = shutil.which("node")
    if node is None:
        raise NotInstalled("node is not on this machine")
    # Node looks for packages from where a script lies; another test process may be reading it.
    ours = place / f"driver.{os.getpid()}.mjs"
    shutil.copy(HERE / "node" / "driver.mjs", ours)
    os.replace(ours, place / "driver.mjs")
    return [node, str(place / "driver.mjs"), agent.name]


class Client:
    """One agent, in a process of its own; opened again, it is somebody else."""

    def __init__(self, agent: Agent) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        self.agent = agent
        self.principal = ""
        self._process = subprocess.Popen(
            driver(agent),
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
        self.principal = self._ask(
            "open", url=url, canister=canister, identity=identity, clock_seconds=clock_seconds, **more
        )
        return self.principal

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

    def certified_data(self, certificate: str, root_key: str, canister: str) -> str:
        """What the agent's own check finds in a certificate that is in hex, as everything here is. Raises Failed."""
        given = {"certificate": {"hex": certificate}, "root_key": {"hex": root_key}}
        return str(self._ask("certified_data", canister=canister, **given)["hex"])

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

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
