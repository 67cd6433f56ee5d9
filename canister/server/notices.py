"""What `canister serve` prints for a person, beside its log: where it listens, what to do next, that it is stopping."""

from __future__ import annotations

import contextlib
import shlex
import socket
import sys

from canister.config import ServerSettings
from canister.defaults import DEFAULT_PORT, default_data_dir, socket_path
from canister.runtime.host import Host
from canister.server.sockets import url_of
from canister.telemetry.logs import get_logger

log = get_logger(__name__)


def greeting(listener: socket.socket, host: Host) -> str:
    """The first lines for a person, or for a script that reads the first one, once the server serves."""
    url = url_of(listener, for_clients=True)
    options = _options(url, host)
    name = host.default.name
    to = f" --to {shlex.quote(url)}" if "--network" in options else ""
    path, curl = socket_path(url), "curl"
    if path is not None:
        curl, url = f"curl --unix-socket {shlex.quote(path)}", "http://localhost"
    return "\n".join(
        [
            f"listening on {url_of(listener)}",
            f"  canisters       {', '.join(f'{canister.name} ({canister.id})' for canister in host.canisters)}",
            f"  data folder     {host.data_dir}",
            f"  controller      {host.identity.principal}, API key in {host.key_path}",
            f"  documentation   {url}/docs",
            f"  OpenAI clients  {url}/v1 as their base URL, with that key",
            *(
                [f"  AO              {url} as the root of its clients, {url}/ao with the ids"]
                if host.settings.ao
                else []
            ),
            "first calls:",
            f"  {curl} {url}/canisters/{name}/health",
            f'  {curl} -H "Authorization: Bearer $(cat {shlex.quote(str(host.key_path))})" '
            f'-d \'{{"dir": ".", "max_entries": 0}}\' {url}/canisters/{name}/recursive_dir_content_query',
            f"  canister call{options} {name} whoami",
            *([f"  canister ao spawn{to} --name first"] if host.settings.ao else []),
        ]
    )


def next_steps(listener: socket.socket, host: Host) -> str:
    """How to get to the console or a chat from here, for a person who has just started the server at a terminal."""
    options = _options(url_of(listener, for_clients=True), host)
    name = host.default.name
    model = host.default.model
    console = [
        "open its console in a browser; this link counts once, for ten minutes ('canister console' makes another):",
        f"  {url_of(listener, for_clients=True)}/#code={host.codes.make(host.identity.principal)}",
    ]
    if name in host.pending or not model.is_ready or model.engine is not None:
        return "\n".join([*console, "or talk to it, in another terminal:", f"  canister chat{options}"])
    return "\n".join(
        [
            *console,
            "no model is loaded; in another terminal:",
            f"  canister upload{options} FILE.gguf",
            f"  canister models load{options} model.gguf",
            f"  canister chat{options}",
        ]
    )


def _options(url: str, host: Host) -> str:
    """What the client commands need to find this server."""
    settings: ServerSettings = host.settings
    is_default = settings.port == DEFAULT_PORT and url == f"http://127.0.0.1:{DEFAULT_PORT}"
    options = "" if is_default else f" --network {shlex.quote(url)}"
    if host.data_dir != default_data_dir():
        options += f" --data-dir {shlex.quote(str(host.data_dir))}"
    return options


class StopNotices:
    """The notices of a server's end: a line for a person at the terminal, else an event in the log."""

    def __init__(self, settings: ServerSettings) -> None:
        self._for_person = is_for_person(settings)
        self._has_begun = False

    def stopping(self, n_running: int, *, by_ctrl_c: bool) -> None:
        """n_running: calls that the server waits for."""
        self._has_begun = True
        if not self._for_person:
            log.info("stopping", running=n_running)
        elif n_running:
            again = "Ctrl-C again" if by_ctrl_c else "a second signal"
            are, them = ("call is", "it") if n_running == 1 else ("calls are", "them")
            _say(f"stopping: {n_running} {are} running; {again} cancels {them}")
        else:
            _say("stopping")

    def cancelling(self, n_running: int) -> None:
        """A second signal has come."""
        if self._for_person:
            _say(f"cancelling {n_running} {'call' if n_running == 1 else 'calls'}")
        else:
            log.info("cancelling", running=n_running)

    def stopped(self) -> None:
        if not self._has_begun:
            return
        if self._for_person:
            _say("stopped")
        else:
            log.info("stopped")


def is_for_person(settings: ServerSettings) -> bool:
    """Does a person read at a terminal, rather than a program?"""
    return sys.stderr.isatty() and settings.log_format != "json"


def tell(text: str) -> None:
    """Print on stdout. Who reads it may read the first line alone and leave, which is no reason to end."""
    try:
        print(text, flush=True)
    except OSError:
        sys.stdout = None  # nor is what is left to be written at the end


def _say(text: str) -> None:
    """Print over the ^C with which a terminal echoes Ctrl-C. The terminal may be gone by now."""
    with contextlib.suppress(OSError):
        print(f"\r{text}", file=sys.stderr, flush=True)
