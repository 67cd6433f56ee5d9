"""The servers that are compared, as child processes behind one small interface: a chat that goes on call by call.

Each generates greedily, without penalties, and each call must give exactly as many tokens as were asked for; a peer's
cache must hold the chat so far. What deviates raises, so that no figure rests on less work than it says.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import shutil
import socket
import string
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

from canister.client.local_server import LocalServer
from canister.model_file.gguf import read_gguf
from models.make_bench_model import TITLE
from tests.bench.http_client import Http, HttpError

MODEL_NAME = "models/model.gguf"
GREEDY = ("--samplers", "temperature", "--temp", "0")
START_SECONDS = 180.0
MAX_REPEATED_TOKENS = 8  # that a peer may evaluate again at the start of a call


def words(n_tokens: int, seed: object) -> str:
    """A text of so many tokens of a benchmark model; about as many of others."""
    rng = random.Random(str(seed))
    return "".join(" " + "".join(rng.choices(string.ascii_lowercase, k=2)) for _ in range(n_tokens))


def ends_by_itself(model: Path) -> bool:
    """Whether a model may end its answer. Those that are made for benchmarks never do, and need no flag for it."""
    return not str(read_gguf(model).metadata.get("general.name", "")).startswith(TITLE)


class BenchError(Exception):
    """A server did not do what was to be measured."""


class Chat(ABC):
    """One conversation and its connection."""

    @abstractmethod
    def begin(self, prompt: str) -> None:
        """Take the prompt in; generate nothing that counts."""

    @abstractmethod
    def go_on(self, n_tokens: int) -> None:
        """One call that generates exactly so many tokens."""

    @abstractmethod
    def close(self) -> None: ...


class Server(ABC):
    """A process that serves one model. label: the series that its figures belong to."""

    label: str
    url: str

    @property
    @abstractmethod
    def pid(self) -> int: ...

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def stop(self) -> None: ...

    @abstractmethod
    def chat(self, name: str, slot: int | None = None) -> Chat:
        """A conversation; slot: where a server that can be told may keep it."""

    def prepare(self, n_tokens: int) -> None:  # noqa: B027  most need not be told
        """What a server must be told before calls of so many tokens."""

    def restart(self) -> None:
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


# -- ours


@functools.cache
def known_flags() -> str:
    """Help of `canister serve`: which flags this version has."""
    command = [sys.executable, "-m", "canister", "serve", "--help"]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"}
    ).stdout


def known(*flags: str) -> tuple[str, ...]:
    """A flag and its value, if this version of the server knows it."""
    return flags if f"{flags[0]} " in known_flags() else ()


class Ours(Server):
    """`canister serve` with a model that was uploaded and loaded with `load_flags`; its folder lives as long as it."""

    def __init__(
        self,
        label: str,
        model: Path,
        *,
        n_ctx: int,
        slots: int,
        threads: int,
        flags: tuple[str, ...] = (),
        load_flags: tuple[str, ...] = (),
    ) -> None:
        self.label = label
        self._model = model
        # Without a setting for it, flash attention is a flag of load_model.
        self._load = ["--model", MODEL_NAME, "--ctx-size", str(n_ctx), *load_flags]
        if label == FLASH and not flags:
            self._load += ["-fa", "on"]
        self._serve = ("--slots", str(slots), "--threads", str(threads), "--instruction-limit", "none", *flags)
        self._server: LocalServer | None = None
        self._admin: Http | None = None
        self.answer_flags = GREEDY
        self._ends = ("--ignore-eos",) if ends_by_itself(model) else ()
        self._command: tuple[str, ...] = ("serve",)

    @property
    def url(self) -> str:  # type: ignore[override]
        return self._running().url

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def data_dir(self) -> Path:
        return self._running().data_dir

    @property
    def http_key(self) -> str:
        """API key of its controller."""
        return self._running().api_key

    def start(self) -> None:
        is_new = self._server is None
        if self._server is None:
            self._server = LocalServer(
                Path(tempfile.mkdtemp(prefix="canister-bench-")), *self._serve, command=self._command
            )
        try:
            self._server.start()
            self._wait_until_ready()
            self._admin = self.http()
            if is_new:
                self._admin.put_file(f"/canisters/llama_cpp/files/{MODEL_NAME}", self._model)
                self.call("load_model", {"args": self._load})
        except BaseException:
            self.__exit__()
            raise

    def stop(self) -> None:
        if self._admin is not None:
            self._admin.close()
        self._running().stop()

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._running().data_dir, ignore_errors=True)
        self._server = None

    def http(self) -> Http:
        server = self._running()
        return Http(server.url, server.api_key)

    def call(self, method: str, argument: object) -> Any:
        """A canister call on a connection of the server's controller; the value of Ok."""
        if self._admin is None:
            raise BenchError("the server was not started")
        return call(self._admin, method, argument)

    def prepare(self, n_tokens: int) -> None:
        """Tokens that each following update call may decode; 0: any."""
        self.call("set_max_tokens", {"max_tokens_update": n_tokens, "max_tokens_query": 0})

    def chat(self, name: str, slot: int | None = None) -> OurChat:
        return OurChat(self.http(), name, (*self.answer_flags, *self._ends))

    def chat_of(self, key: str, name: str) -> OurChat:
        """A conversation of the caller with this API key."""
        return OurChat(Http(self.url, key), name, (*self.answer_flags, *self._ends))

    def _running(self) -> LocalServer:
        if self._server is None:
            raise BenchError("the server was not started")
        return self._server

    def _wait_until_ready(self) -> None:
        http = self.http()
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                http.get("/readyz")
                return
            except (HttpError, OSError):
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)
            finally:
                http.close()


class Herd(Ours):
    """`canister herd serve`: a door, and workers that each get `threads` and `slots`."""

    def __init__(self, label: str, model: Path, *, workers: int, n_ctx: int, slots: int, threads: int) -> None:
        super().__init__(label, model, n_ctx=n_ctx, slots=slots, threads=threads, flags=("--workers", str(workers)))
        self._command = ("herd", "serve")


def call(http: Http, method: str, argument: object) -> Any:
    answer = http.post(f"/canisters/llama_cpp/{method}", argument)
    if "Ok" not in answer:
        raise BenchError(f"{method}: {answer}")
    return answer["Ok"]


class OurChat(Chat):
    def __init__(self, http: Http, name: str, flags: tuple[str, ...]) -> None:
        self.http = http
        self.name = name
        self._flags = flags

    def begin(self, prompt: str) -> None:
        """Needs `prepare(0)` before it, else the prompt goes in in pieces."""
        record = self.run(prompt, "-n", "0")
        if record["n_prompt_tokens_remaining"]:
            raise BenchError(f"{record['n_prompt_tokens_remaining']} tokens of the prompt remain")

    def go_on(self, n_tokens: int) -> None:
        """Needs `prepare(n_tokens)` before it."""
        record = self.run("")
        if record["n_tokens_generated"] != n_tokens:
            raise BenchError(f"{n_tokens} tokens were asked for: {record}")

    def run(self, prompt: str, *flags: str) -> dict[str, Any]:
        """One run_update; its record."""
        record: dict[str, Any] = call(self.http, "run_update", self.argument(prompt, *flags))
        return record

    def argument(self, prompt: str, *flags: str) -> dict[str, list[str]]:
        return {"args": ["--prompt-cache", self.name, "--prompt-cache-all", *self._flags, *flags, "-p", prompt]}

    def close(self) -> None:
        self.http.close()


# -- peers


class Peer(Server):
    """A server that somebody else wrote: a command, and a path that answers when it is ready."""

    ready_path: str

    def __init__(self, label: str, command: list[str], environment: dict[str, str] | None = None) -> None:
        self.label = label
        self._command = command
        self._environment = os.environ | (environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed when it stops
        self._process = subprocess.Popen(
            [*self._command, "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=self._environment,
            start_new_session=True,
        )
        end = time.monotonic() + START_SECONDS
        while True:
            http = Http(self.url)
            try:
                http.get(self.ready_path)
                return
            except (HttpError, OSError):
                if self._process.poll() is not None or time.monotonic() > end:
                    self._log.seek(0)
                    text = self._log.read().decode(errors="replace")
                    self.stop()
                    raise BenchError(f"{self._command[0]} did not start:\n{text[-2000:]}") from None
                time.sleep(0.05)
            finally:
                http.close()

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._log is not None:
            self._log.close()


class LlamaServer(Peer):
    """llama-server with its defaults, flash attention among them, and so many slots of n_ctx tokens each.

    flags: more of its flags. settings: of its requests, instead of greedy ones.
    """

    ready_path = "/health"

    def __init__(
        self,
        label: str,
        binary: Path,
        model: Path,
        *,
        n_ctx: int,
        slots: int,
        threads: int,
        flags: tuple[str, ...] = (),
        settings: Mapping[str, object] | None = None,
    ) -> None:
        sizes = ["-c", str(n_ctx * slots), "--parallel", str(slots), "-t", str(threads), "-tb", str(threads)]
        super().__init__(label, [str(binary), "-m", str(model), *sizes, "--host", "127.0.0.1", "--no-webui", *flags])
        self._settings = settings or {}
        self._ignore_eos = ends_by_itself(model)

    def chat(self, name: str, slot: int | None = None) -> LlamaChat:
        return LlamaChat(Http(self.url), slot, self._ignore_eos, settings=self._settings)


@dataclass
class LlamaChat(Chat):
    """The client keeps the text and sends all of it each time; the server finds what it knows."""

    http: Http
    slot: int | None
    ignore_eos: bool
    text: str = ""
    is_known: bool = False
    settings: Mapping[str, object] = field(default_factory=dict)

    def begin(self, prompt: str) -> None:
        self.text = prompt
        self._complete(1)
        self.is_known = True

    def go_on(self, n_tokens: int) -> None:
        answer = self._complete(n_tokens)
        if answer["tokens_predicted"] != n_tokens:
            raise BenchError(f"{n_tokens} tokens were asked for, {answer['tokens_predicted']} came")
        if self.is_known and answer["timings"]["prompt_n"] > MAX_REPEATED_TOKENS:
            raise BenchError(f"llama-server evaluated {answer['timings']['prompt_n']} tokens of the chat again")
        self.text += answer["content"]
        self.is_known = True

    def _complete(self, n_tokens: int) -> dict[str, Any]:
        body = {
            "prompt": self.text,
            "n_predict": n_tokens,
            "cache_prompt": True,
            "temperature": 0,
            "samplers": ["temperature"],
            "ignore_eos": self.ignore_eos,
            **self.settings,
        }
        if self.slot is not None:
            body["id_slot"] = self.slot
        answer: dict[str, Any] = self.http.post("/completion", body)
        return answer

    def close(self) -> None:
        self.http.close()


class PythonServer(Peer):
    """The server that comes with llama-cpp-python; with_cache: its RAM cache on.

    The cache counts only KV state, but keeps the logits of all tokens too, 200 MB for a chat of 300 tokens of q05;
    so it gets a size that holds some three states of each of four chats.
    """

    ready_path = "/v1/models"

    def __init__(self, label: str, python: Path, model: Path, *, n_ctx: int, threads: int, with_cache: bool) -> None:
        command = [str(python), "-m", "llama_cpp.server", "--model", str(model), "--n_ctx", str(n_ctx)]
        command += ["--n_threads", str(threads), "--n_threads_batch", str(threads), "--verbose", "false"]
        if with_cache:
            command += ["--cache", "true", "--cache_size", str(64 << 20)]
        super().__init__(label, command)

    def chat(self, name: str, slot: int | None = None) -> PythonChat:
        return PythonChat(Http(self.url))


@dataclass
class PythonChat(Chat):
    http: Http
    text: str = ""

    def begin(self, prompt: str) -> None:
        self.text = prompt
        self._complete(1)

    def go_on(self, n_tokens: int) -> None:
        answer = self._complete(n_tokens)
        if answer["usage"]["completion_tokens"] != n_tokens:
            raise BenchError(f"{n_tokens} tokens were asked for: {answer['usage']}")
        self.text += answer["choices"][0]["text"]

    def _complete(self, n_tokens: int) -> dict[str, Any]:
        body = {"prompt": self.text, "max_tokens": n_tokens, "temperature": 0}
        answer: dict[str, Any] = self.http.post("/v1/completions", body)
        return answer

    def close(self) -> None:
        self.http.close()


def processor_seconds(pid: int) -> float:
    """That a process has taken, of all its threads; the kernel counts in hundredths."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with contextlib.closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


# -- the two ways in which we run

EXACT = "ours, exact"
FLASH = "ours, flash attention"


def variants(model: Path, *, n_ctx: int, slots: int, threads: int) -> list[Ours]:
    """Our server as it is by default, and with flash attention instead of exactness."""
    return [
        Ours(EXACT, model, n_ctx=n_ctx, slots=slots, threads=threads, flags=known("--exact", "auto")),
        Ours(FLASH, model, n_ctx=n_ctx, slots=slots, threads=threads, flags=known("--exact", "off")),
    ]
