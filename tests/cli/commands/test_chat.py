"""`canister chat`: which server it talks to, what it sends, and what a person at a terminal sees."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from canister.client.local_server import LocalServer
from canister.model_file.shipped import shipped_model
from tests.cli.conftest import Command
from tests.cli.terminal import SECONDS, Terminal
from tests.engine import tiny_models

LOAD = ["--model", "models/chat.gguf", "--ctx-size", "2048"]
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


@pytest.fixture(autouse=True)
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where typed lines are kept."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "llama-canister" / "chat_history"


def client(server: LocalServer) -> httpx.Client:
    headers = {"Authorization": f"Bearer {server.api_key}"}
    return httpx.Client(base_url=server.url, headers=headers, timeout=SECONDS)


def load(server: LocalServer, model: Path, *flags: str) -> None:
    with client(server) as http:
        http.put("/canisters/llama_cpp/files/models/chat.gguf", content=model.read_bytes()).raise_for_status()
        http.post("/load_model", json={"args": ["--model", "models/chat.gguf", *flags]}).raise_for_status()


@pytest.fixture
def loaded_server(running_server: LocalServer, model: Path) -> Iterator[LocalServer]:
    """The running server with a model; it may decode few tokens in a call. No chats are kept there."""
    load(running_server, model, "--ctx-size", "2048")
    with client(running_server) as http:
        http.post("/set_max_tokens", json={"max_tokens_update": 4, "max_tokens_query": 4}).raise_for_status()
        yield running_server
        http.post("/set_max_tokens", json={"max_tokens_update": 0, "max_tokens_query": 0}).raise_for_status()
        for chat in http.get("/canisters/llama_cpp/chats").json()["chats"]:
            http.delete(f"/canisters/llama_cpp/chats/{chat['name']}").raise_for_status()


@pytest.fixture
def local(loaded_server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> LocalServer:
    """As if it had been started with the settings of this shell."""
    monkeypatch.setenv("CANISTER_PORT", loaded_server.url.rpartition(":")[2])
    monkeypatch.setenv("CANISTER_DATA_DIR", str(loaded_server.data_dir))
    return loaded_server


def on(server: LocalServer, *options: str) -> list[str]:
    return [*CHAT, "--url", server.url, "--api-key", server.api_key, "--max-tokens", "32", *options]


def caches(server: LocalServer) -> list[str]:
    found = server.data_dir.glob("canisters/*/stable/.canister_cache/*/sessions/chat-*")
    return sorted(path.name for path in found if not path.name.endswith(".icppfmt"))


def kept(server: LocalServer, name: str) -> list[tuple[str, str]]:
    """Who said what in a kept chat."""
    with client(server) as http:
        chat = http.get(f"/canisters/llama_cpp/chats/{name}").raise_for_status().json()
    return [(message["role"], message["content"]) for message in chat["messages"]]


def questions(server: LocalServer, name: str) -> list[str]:
    return [text for role, text in kept(server, name) if role == "user"]


# -- which server


def test_one_question_on_a_server_of_ones_own(canister: Command, model: Path, scratch: Path) -> None:
    done = canister("chat", "-m", model, "--max-tokens", "24", "--calls", "Who are you?")
    assert done.code == 0
    answer = done.out.strip()
    assert answer
    lines = done.err.splitlines()
    assert lines[0] == f"starting a server with {model.name}, for this chat alone …"
    for start in ("listening on http://127", "file_upload_chunk", "load_model", "set_max_tokens", "new_chat"):
        assert any(line.startswith(start) for line in lines), start
    calls = [line for line in lines if re.match(r"call \d", line)]
    assert len(calls) >= 3
    first, last = calls[0].split(), calls[-1].split()
    assert first[2] == "0"  # nothing cached
    assert int(last[2]) > 0
    assert last[3:5] == ["0", "0"]  # nothing ingested, nothing remaining
    assert list(scratch.iterdir()) == []


def test_the_server_that_runs_is_talked_to(canister: Command, local: LocalServer, scratch: Path) -> None:
    done = canister("chat", "--max-tokens", "12", "Who are you?")
    assert done.code == 0
    assert done.out.strip()
    assert re.fullmatch(
        rf"talking to models/chat\.gguf \(.*, 2,048 tokens of context\) in canister llama_cpp at {local.url}\n",
        done.err,
    )
    assert caches(local) == []  # a single question is not kept
    with client(local) as http:
        assert http.get("/canisters/llama_cpp/chats").json() == {"chats": []}


def test_a_server_that_is_named_must_be_there(
    canister: Command, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANISTER_URL", "http://127.0.0.1:1")
    done = canister("chat", "Hi")
    assert (done.code, done.out) == (1, "")
    assert "No answer from http://127.0.0.1:1" in done.err
    assert "starting" not in done.err


def test_a_server_that_cannot_be_used_is_told_and_another_started(
    canister: Command, tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LocalServer(tmp_path / "empty") as server:
        monkeypatch.setenv("CANISTER_PORT", server.url.rpartition(":")[2])
        monkeypatch.setenv("CANISTER_DATA_DIR", str(server.data_dir))
        done = canister("chat", "--max-tokens", "4", "Hi")
        assert done.code == 0
        assert done.err.startswith(f"the server at {server.url} has no model loaded; starting a server with ")
        done = canister("chat", "--max-tokens", "4", "--canister", "other", "Hi")
        assert done.err.startswith(f"the server at {server.url} has no canister other; starting a server with ")
    assert list(scratch.iterdir()) == []


def test_a_file_that_is_no_model_is_told_before_a_server_is_started(
    canister: Command, tmp_path: Path, scratch: Path
) -> None:
    for name, content, told in (
        ("README.md", b"# A text, not a model\n", "Not a GGUF file"),
        ("broken.gguf", b"GGUF", "broken.gguf"),
    ):
        (tmp_path / name).write_bytes(content)
        done = canister("chat", "-m", tmp_path / name, "Hi")
        assert (done.code, done.out) == (1, "")
        assert told in done.err
        assert "starting" not in done.err
    assert list(scratch.iterdir()) == []


def test_wrong_usage(canister: Command, tmp_path: Path) -> None:
    assert canister("chat", "--url", "local", "-m", "x.gguf", "Hi").code == 2
    assert canister("chat", "--temporary", "--resume", "x", "Hi").code == 2
    assert canister("chat", "-m", tmp_path / "none.gguf", "Hi").code == 2
    assert canister("chat", "  ").code == 2
    assert canister("chat", "--forget", "--resume", "x").code == 2


def test_told_to_end_it_leaves_nothing_behind(model: Path, scratch: Path) -> None:
    command = [*CHAT, "-m", str(model), "--calls"]
    with Terminal(command) as terminal:
        terminal.wait_for("> ")
        folder = next(scratch.iterdir())
        pid = int((folder / "lock").read_text())
        while terminal.process.poll() is None:  # one that comes just before input() waits is seen at the next key
            terminal.process.send_signal(signal.SIGTERM)
            time.sleep(0.1)
        assert terminal.end() == 128 + signal.SIGTERM
    assert list(scratch.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


# -- one question


def test_answer_alone_is_on_stdout(canister: Command, loaded_server: LocalServer) -> None:
    options = ("--url", loaded_server.url, "--data-dir", loaded_server.data_dir, "--max-tokens", "12")
    done = canister("chat", *options, "Who are you?")
    assert (done.code, done.err) == (0, "")
    assert done.out.strip()
    assert canister("chat", *options, "--calls", "Who are you?").out.strip() == done.out.strip()
    assert caches(loaded_server) == []


def test_question_from_a_pipe(loaded_server: LocalServer) -> None:
    done = subprocess.run(on(loaded_server), input="Who are you?", capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0
    assert done.stdout.strip()


def test_who_signs_chats_too(canister: Command, loaded_server: LocalServer) -> None:
    with client(loaded_server) as http:
        http.post("/set_access", json={"level": 1, "explanation": ""}).raise_for_status()
        try:
            canister("identity", "new", "bob")
            options = ("--url", loaded_server.url, "--max-tokens", "12")
            signed = canister("chat", *options, "--identity", "bob", "Who are you?")
            by_key = canister("chat", *options, "--data-dir", loaded_server.data_dir, "Who are you?")
            assert (signed.code, signed.out) == (0, by_key.out)
            assert "ChatML is used" in signed.err
        finally:
            http.post("/set_access", json={"level": 0, "explanation": ""}).raise_for_status()


def test_chats_of_who_signs_cannot_be_taken_up(canister: Command, loaded_server: LocalServer) -> None:
    canister("identity", "new", "carol")
    for name in (("--resume", "something"), ("--system", "Be kind.", "--resume=")):
        done = canister("chat", "--url", loaded_server.url, "--identity", "carol", *name, "Hi")
        assert (done.code, done.out) == (1, "")
        assert "chats of identities that sign are not kept" in done.err


def test_who_may_not_chat_is_told_who_called(canister: Command, loaded_server: LocalServer) -> None:
    done = canister("chat", "--url", loaded_server.url, "--anonymous", "Hi")
    assert (done.code, done.out) == (1, "")
    assert "Access Denied. The call was made as 2vxsx-fae" in done.err


def test_draws_follow_the_seed(canister: Command, loaded_server: LocalServer) -> None:
    options = ("--url", loaded_server.url, "--data-dir", loaded_server.data_dir, "--max-tokens", "24", "--temp", "9")
    said = [canister("chat", *options, "--raw", "--seed", seed, "A ").out for seed in (7, 7, 8, 9, 10)]
    assert said[0] == said[1]
    assert len(set(said)) > 1


# -- templates


def test_the_models_own_template_is_used(canister: Command, tmp_path: Path, scratch: Path) -> None:
    template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[a]{% endif %}{% if not enable_thinking %}[n]{% endif %}"
    )
    own = tiny_models.llama_model(tmp_path / "own.gguf", changes={"tokenizer.chat_template": template})
    bare = tiny_models.llama_model(tmp_path / "bare.gguf")

    def ingested(*options: object) -> tuple[int, str]:
        done = canister("chat", "--max-tokens", "2", "--calls", *options)
        assert done.code == 0, done.err
        calls = [line.split() for line in done.err.splitlines() if re.match(r"call \d", line)]
        return sum(int(call[3]) for call in calls), done.err

    # The vocabulary has a token for each byte, and one for BOS.
    n_templated, told = ingested("-m", own, "--no-think", "--system", "be", "xyz")
    assert "template" not in told
    n_raw, told = ingested("-m", own, "--raw", "--system", "be", "xyz")
    assert "template" not in told
    assert n_templated - n_raw == len("[system][user][a][n]")
    n_bare, told = ingested("-m", bare, "xyz")
    assert "the model has no chat template: texts go to it as they are, as with --raw\n" in told
    assert n_bare == n_raw - len("be")


# -- a conversation


def test_conversation_on_a_terminal(loaded_server: LocalServer) -> None:
    with Terminal(on(loaded_server)) as terminal:
        terminal.wait_for("talking to models/chat.gguf .*\n> ")
        shown = terminal.ask("Who are you?")
        n_used = int(re.search(r"\((\d+) of 2,048 tokens\)\n> ", shown)[1])  # type: ignore[index]
        assert caches(loaded_server) == ["chat-who-are-you"]
        assert "calls are shown" in terminal.ask("/calls")
        shown = terminal.ask("And what is a canister?")
        cached = int(shown.partition("call 1 ")[2].split()[0])
        assert cached == n_used  # the prompt of the second turn begins with all that the first one decoded
        shown = terminal.ask("/new")
        assert "kept as who-are-you: canister chat --resume who-are-you\na new conversation begins" in shown
        terminal.type("Tell me a story.\n")
        terminal.wait_for(r"call 3 ")
        terminal.wait_for(r"call \d+ [^\n]*'\n")  # some of the answer
        terminal.type("\x03")
        terminal.wait_for(r"\(stopped\)\n> ")
        terminal.type("\x04")
        terminal.wait_for("kept as tell-me-a-story")
        assert terminal.end() == 0
    assert questions(loaded_server, "who-are-you") == ["Who are you?", "And what is a canister?"]
    assert caches(loaded_server) == ["chat-tell-me-a-story", "chat-who-are-you"]


def test_chats_are_listed_shown_taken_up_and_removed(canister: Command, local: LocalServer) -> None:
    for _ in range(2):
        with Terminal(on(local, "--system", "Be brief.", "--temp", "0.5", "--seed", "3")) as terminal:
            terminal.wait_for("> ")
            terminal.ask("Who are you?")
            terminal.type("exit\n")
            assert terminal.end() == 0
    listed = canister("chats", "list").out.splitlines()
    assert [line.split()[0] for line in listed] == ["NAME", "who-are-you-2", "who-are-you"]

    before = kept(local, "who-are-you")
    done = canister("chat", "--resume", "who-are-you", "--max-tokens", "8", "Why?")
    assert done.code == 0
    assert "\ngoing on with who-are-you, 3 messages\n" in done.err
    after = kept(local, "who-are-you")
    assert after[:3] == before
    assert [text for _, text in after[3:]] == ["Why?", after[4][1]]
    assert after[4][1].strip() == done.out.strip()
    with client(local) as http:  # what was chosen stays with the chat
        settings = http.get("/canisters/llama_cpp/chats/who-are-you").json()["settings"]
    assert settings == {"temp": 0.5, "seed": 3, "max-tokens": 8}

    with Terminal([*CHAT, "--resume", "--calls"]) as terminal:
        shown = terminal.wait_for("\n> .*\n> ")
        assert "going on with who-are-you, 5 messages" in shown
        assert "> Why?" in shown
        assert int(terminal.ask("And?").partition("call 1 ")[2].split()[0]) > 20  # the prompt cache was there
        terminal.type("/bye\n")
        assert terminal.end() == 0

    shown = canister("chats", "show", "who-are-you").out
    assert shown.startswith("[system] Be brief.\n\n> Who are you?\n\n")
    missing = canister("chats", "show", "nobody")
    assert (missing.code, missing.err) == (1, "canister: there is no chat 'nobody'\n")
    assert canister("chat", "--resume", "nobody", "Hi").code == 1
    assert canister("chats", "rm", "who-are-you", "who-are-you-2").out == "removed who-are-you\nremoved who-are-you-2\n"
    assert canister("chats", "list").out == "no chat is kept here yet\n"
    assert caches(local) == []


def test_a_conversation_that_is_to_be_forgotten(loaded_server: LocalServer) -> None:
    with Terminal(on(loaded_server)) as terminal:
        terminal.wait_for("> ")
        terminal.ask("Who are you?")
        assert "forgotten; a new conversation begins" in terminal.ask("/forget")
        assert caches(loaded_server) == []
        terminal.type("\x04")
        assert terminal.end() == 0
    with Terminal(on(loaded_server, "--forget")) as terminal:
        terminal.wait_for("> ")
        terminal.ask("Who are you?")
        assert len(caches(loaded_server)) == 1
        terminal.type("\x04")
        assert terminal.end() == 0
    assert caches(loaded_server) == []
    with client(loaded_server) as http:
        assert http.get("/canisters/llama_cpp/chats").json() == {"chats": []}


def test_a_refused_question_is_not_part_of_the_conversation(loaded_server: LocalServer, model: Path) -> None:
    load(loaded_server, model, "--ctx-size", "256")
    with Terminal(on(loaded_server)) as terminal:
        terminal.wait_for("> ")
        typed = "What is a canister and why would anybody want it? " * 40
        shown = terminal.ask(typed)
        assert re.search(r"this is too long: it has [\d,]+ tokens, and there is room for 252; shorten it.*\n> ", shown)
        assert re.search(r"\(\d+ of 256 tokens\)\n> ", terminal.ask("Who are you?"))
        shown = terminal.ask(typed)
        assert "the conversation is full: with this question it has " in shown
        assert "/new begins another conversation, /keep-system leaves the oldest turns out" in shown
        terminal.ask("Are you sure?")
        terminal.type("quit\n")
        terminal.wait_for("kept as")
    assert questions(loaded_server, "who-are-you") == ["Who are you?", "Are you sure?"]


def test_a_server_that_goes_away_is_waited_for(tmp_path: Path, model: Path) -> None:
    with LocalServer(tmp_path / "server") as server:
        load(server, model)
        with Terminal(on(server)) as terminal:
            terminal.wait_for("> ")
            terminal.ask("Who are you?")
            server.kill()
            terminal.type("Are you there?\n")
            terminal.wait_for("the server went away; waiting for it …")
            server.start()
            shown = terminal.wait_for(r"\(\d+ of 1,024 tokens\)\n> ")
            assert "No answer from" not in shown
            assert "could not be kept" not in shown
            terminal.type("\x04")
            terminal.wait_for("kept as")
        assert questions(server, "who-are-you") == ["Who are you?", "Are you there?"]


def test_an_answer_that_breaks_off_goes_on_when_the_server_is_back(tmp_path: Path, model: Path) -> None:
    with LocalServer(tmp_path / "server") as server:
        load(server, model)
        with client(server) as http:
            http.post("/set_max_tokens", json={"max_tokens_update": 2, "max_tokens_query": 2}).raise_for_status()
        line = on(server, "--max-tokens", "200", "--system", "You tell long stories.", "Tell me a story about the sea.")
        whole = subprocess.run(line, capture_output=True, text=True, timeout=SECONDS)
        with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asked:
            assert asked.stdout is not None
            begun = os.read(asked.stdout.fileno(), 8)
            server.kill()
            server.start()
            rest, told = asked.communicate(timeout=SECONDS)
        assert asked.returncode == 0, told
        assert (begun + rest).decode() == whole.stdout
        assert told.decode().count("the server went away") == 1


def test_a_full_context(loaded_server: LocalServer, model: Path) -> None:
    load(loaded_server, model, "--ctx-size", "96")
    with Terminal(on(loaded_server)) as terminal:
        terminal.wait_for("> ")
        for _ in range(8):
            shown = terminal.ask("Tell me about canisters.")
            if "is full" in shown:
                break
        else:
            raise AssertionError(shown)
        assert "/new begins another" in shown
        for _ in range(2):  # the conversation is where it was
            assert "the conversation is full: with this question it has " in terminal.ask("Tell me about canisters.")
        assert "when the context is full, the oldest turns are left out" in terminal.ask("/keep-system")
        assert re.search(r"oldest messages were left out to make room\)\n\(\d+ of 96", terminal.ask("Who are you?"))
        assert "when the context is full, it ends there" in terminal.ask("/keep-system")
        assert "a new conversation begins" in terminal.ask("/new")
        assert re.search(r"\(\d+ of 96 tokens", terminal.ask("Who are you?"))
        terminal.type("\x04")
        assert terminal.end() == 0


def test_the_oldest_turns_are_left_out(loaded_server: LocalServer, model: Path) -> None:
    load(loaded_server, model, "--ctx-size", "96")
    with Terminal(on(loaded_server, "--keep-system", "--system", "Be brief.")) as terminal:
        terminal.wait_for("> ")
        said = [terminal.ask(f"Tell me about canisters, {n}.") for n in range(6)]
        assert all(re.search(r"\(\d+ of 96 tokens\)\n> $", shown) for shown in said)
        assert "oldest messages were left out to make room" in "".join(said)
        terminal.type("\x04")
        terminal.wait_for("kept as tell-me-about-canisters-0")
    # What the model no longer sees is kept all the same.
    assert len(questions(loaded_server, "tell-me-about-canisters-0")) == 6
    with client(loaded_server) as http:
        settings = http.get("/canisters/llama_cpp/chats/tell-me-about-canisters-0").json()["settings"]
    assert settings["left-out"] >= 2


# -- what is typed


def test_commands(loaded_server: LocalServer) -> None:
    with Terminal(on(loaded_server)) as terminal:
        terminal.wait_for("> ")
        for word in ("/help", "/?"):
            assert "/system [TEXT]" in terminal.ask(word)
        assert "/nonsense is not known: /help" in terminal.ask("/nonsense")
        assert "/new stands alone" in terminal.ask("/new one")
        assert "nothing was said yet" in terminal.ask("/context")
        assert "no system prompt" in terminal.ask("/system")
        assert "the system prompt is set" in terminal.ask("/system Be brief.")
        assert "Be brief." in terminal.ask("/system")
        assert "temp is 0.7" in terminal.ask("/set temp 0.7")
        assert re.search(r"temp +0\.7 ", terminal.ask("/set"))
        assert "temp is a number from 0 on" in terminal.ask("/set temp hot")
        assert "there is no 'heat' to set; there are temp, seed" in terminal.ask("/set heat 1")
        terminal.ask("/etc/hosts - what is it?")
        terminal.ask(" /help")
        assert re.search(r"\(\d+ of 2,048 tokens\)", terminal.ask("/context"))
        terminal.type("exit\n")
        terminal.wait_for("kept as etc-hosts-what-is-it")
        assert terminal.end() == 0
    assert [said for said in kept(loaded_server, "etc-hosts-what-is-it") if said[0] != "assistant"] == [
        ("system", "Be brief."),
        ("user", "/etc/hosts - what is it?"),
        ("user", "/help"),
    ]


@pytest.mark.parametrize("word", ["/quit", "/exit", "/bye", "exit", "quit", "bye"])
def test_words_that_leave(loaded_server: LocalServer, word: str) -> None:
    with Terminal(on(loaded_server)) as terminal:
        terminal.wait_for("> ")
        terminal.type(f"{word}\n")
        assert terminal.end() == 0


def test_several_lines_are_one_question(loaded_server: LocalServer) -> None:
    with Terminal(on(loaded_server, "--max-tokens", "2"), kind="xterm") as terminal:
        terminal.wait_for("> ")
        terminal.type("\x1b[200~pasted one\npasted two\npasted three\x1b[201~")
        terminal.wait_for("three")
        terminal.type("\n")
        terminal.wait_for(r"tokens\)\n.*> ")
        terminal.type('"""quoted one\n\nquoted two"""\n')
        terminal.wait_for(r"tokens\)\n.*> ")
        terminal.type("continued one\\\ncontinued two\n")
        terminal.wait_for(r"tokens\)\n.*> ")
        terminal.type("\x04")
        terminal.wait_for("kept as")
    assert questions(loaded_server, "pasted-one-pasted-two-pasted-three") == [
        "pasted one\npasted two\npasted three",
        "quoted one\n\nquoted two",
        "continued one\ncontinued two",
    ]


def test_typed_lines_are_there_the_next_time(loaded_server: LocalServer, history: Path) -> None:
    for keys in ("One question?\n", "\x1b[A\n"):  # an arrow upwards
        with Terminal(on(loaded_server, "--max-tokens", "2"), kind="xterm") as terminal:
            terminal.wait_for("> ")
            terminal.type(keys)
            terminal.wait_for(r"tokens\)\n.*> ")
            terminal.type("\x04")
            terminal.wait_for("kept as")
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert [json.loads(line) for line in history.read_text().splitlines()] == ["One question?"] * 2
    assert questions(loaded_server, "one-question-2") == ["One question?"]


def test_the_table_of_calls_is_cut_to_the_terminal(loaded_server: LocalServer) -> None:
    with Terminal(on(loaded_server, "--calls"), columns=70) as terminal:
        terminal.wait_for("> ")
        shown = terminal.ask("Who are you?")
        lines = [line for line in shown.splitlines() if re.match(r"call \d|new_chat|run_update", line)]
        assert len(lines) > 4
        assert max(map(len, lines)) <= 70
        assert any(line.endswith("…") for line in lines)
        terminal.type("\x04")
        terminal.wait_for("kept as")
