"""`canister chat`: with a server of its own and with a running one, in a pipe and on a terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import httpx
import pytest

from canister.cli.local import LocalServer
from canister.shipped import shipped_model
from tests.cli.conftest import Command

SECONDS = 60.0
LOAD = ["--model", "models/chat.gguf", "--ctx-size", "2048"]
# Makes standard input the controlling terminal, so that Ctrl-C reaches the program, and becomes the program. Tests that
# run in the background of a shell have inherited that it is ignored.
TAKE_TERMINAL = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""
CHAT = [sys.executable, "-m", "canister", "chat"]


@pytest.fixture
def model(story_model: Path) -> Path:
    """The shipped model, or one that only tells stories."""
    return shipped_model() or story_model


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made, so that one sees what is left of them."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


@pytest.fixture
def loaded_server(running_server: LocalServer, model: Path) -> Iterator[LocalServer]:
    """The running server with a model; it may decode few tokens in a call."""
    headers = {"Authorization": f"Bearer {running_server.api_key}"}
    with httpx.Client(base_url=running_server.url, headers=headers, timeout=SECONDS) as http:
        http.put("/canisters/llama_cpp/files/models/chat.gguf", content=model.read_bytes()).raise_for_status()
        http.post("/load_model", json={"args": LOAD}).raise_for_status()
        http.post("/set_max_tokens", json={"max_tokens_update": 4, "max_tokens_query": 4}).raise_for_status()
        yield running_server
        http.post("/set_max_tokens", json={"max_tokens_update": 0, "max_tokens_query": 0}).raise_for_status()


def caches(server: LocalServer) -> list[Path]:
    return list(server.data_dir.glob("canisters/*/stable/.canister_cache/*/sessions/chat-*"))


def test_one_question_on_a_server_of_ones_own(canister: Command, model: Path, scratch: Path) -> None:
    done = canister("chat", "-m", model, "--max-tokens", "24", "--calls", "Who are you?")
    assert done.code == 0
    answer = done.out.strip()
    assert answer
    lines = done.err.splitlines()
    for start in ("listening on http://127", "file_upload_chunk", "load_model", "set_max_tokens", "new_chat"):
        assert any(line.startswith(start) for line in lines), start
    calls = [line for line in lines if re.match(r"call \d", line)]
    assert len(calls) >= 3
    first, last = calls[0].split(), calls[-1].split()
    assert first[2] == "0"  # nothing cached
    assert int(last[2]) > 0
    assert last[3:5] == ["0", "0"]  # nothing ingested, nothing remaining
    assert list(scratch.iterdir()) == []


def test_answer_alone_is_on_stdout(canister: Command, loaded_server: LocalServer) -> None:
    options = ("--url", loaded_server.url, "--data-dir", loaded_server.data_dir, "--max-tokens", "12")
    done = canister("chat", *options, "Who are you?")
    assert (done.code, done.err) == (0, "")
    assert done.out.strip()
    assert canister("chat", *options, "--calls", "Who are you?").out.strip() == done.out.strip()
    assert caches(loaded_server) == []


def test_question_from_a_pipe(loaded_server: LocalServer) -> None:
    command = [*CHAT, "--url", loaded_server.url, "--api-key", loaded_server.api_key, "--max-tokens", "6"]
    done = subprocess.run(command, input="Who are you?", capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0
    assert done.stdout.strip()


def test_wrong_usage(canister: Command, tmp_path: Path) -> None:
    assert canister("chat", "--url", "local", "-m", "x.gguf", "Hi").code == 2
    assert canister("chat", "-m", tmp_path / "none.gguf", "Hi").code == 2
    assert canister("chat", "  ").code == 2


def test_model_that_cannot_be_loaded(canister: Command, tmp_path: Path, scratch: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    done = canister("chat", "-m", tmp_path / "broken.gguf", "Hi")
    assert (done.code, done.out) == (1, "")
    assert "models/model.gguf" in done.err
    assert list(scratch.iterdir()) == []


def test_told_to_end_it_leaves_nothing_behind(model: Path, scratch: Path) -> None:
    command = [*CHAT, "-m", str(model), "--calls"]
    with Terminal(command) as terminal:
        terminal.wait_for("> ")
        folder = next(scratch.iterdir())
        pid = int((folder / "lock").read_text())
        time.sleep(0.5)  # until input() waits: a signal that comes just before waits for the next key
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.end() == 128 + signal.SIGTERM
    assert list(scratch.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_conversation_on_a_terminal(loaded_server: LocalServer) -> None:
    options = ["--url", loaded_server.url, "--api-key", loaded_server.api_key, "--max-tokens", "32"]
    with Terminal([*CHAT, *options]) as terminal:
        terminal.wait_for("> ")
        terminal.type("Who are you?\n")
        terminal.wait_for(r"\n> ")
        assert caches(loaded_server)
        terminal.type("/calls\n")
        terminal.wait_for("> ")
        terminal.type("And what is a canister?\n")
        shown = terminal.wait_for(r"call 1 .*\n> ")
        cached = int(shown.partition("call 1 ")[2].split()[0])
        assert cached > 10  # the first turn was in the cache
        terminal.type("/new\n")
        terminal.wait_for("> ")
        assert caches(loaded_server) == []
        terminal.type("Tell me a story.\n")
        terminal.wait_for(r"call 3 ")
        terminal.type("\x03")
        terminal.wait_for(r"\(stopped\)\n> ")
        terminal.type("/nonsense\n")
        terminal.wait_for(r"/nonsense is not known.*\n> ")
        terminal.type("\x04")
        assert terminal.end() == 0
    assert caches(loaded_server) == []


class Terminal:
    """A program on a terminal, and the person at it."""

    def __init__(self, command: list[str]) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, *command],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "dumb"},
            start_new_session=True,
        )
        os.close(theirs)
        self._text = ""

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def wait_for(self, pattern: str) -> str:
        """What was shown until the pattern came, which is then behind us."""
        end = time.monotonic() + SECONDS
        while (found := re.search(pattern, self._text, re.DOTALL)) is None:
            assert time.monotonic() < end, self._text
            if select.select([self._ours], [], [], 0.1)[0]:
                try:
                    self._text += os.read(self._ours, 65536).decode(errors="replace").replace("\r", "")
                except OSError:  # the program is gone
                    raise AssertionError(f"ended instead of {pattern!r}: {self._text}") from None
        text, self._text = self._text[: found.end()], self._text[found.end() :]
        return text

    def end(self) -> int:
        """Wait until the program has left; gives its exit code."""
        return self.process.wait(SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
