"""The peers' side: what they give is checked before it counts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

import pytest

from tests.bench import peers
from tests.bench.http_client import Http
from tests.bench.servers import BenchError, LlamaChat, LlamaServer, PythonChat, ends_by_itself
from tests.harness import CHAT_MODEL


class Answers:
    """Stands for a connection: gives these answers in turn, keeps what was asked."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self._answers = list(answers)
        self.asked: list[dict[str, Any]] = []

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(body)
        return self._answers.pop(0)


def completion(text: str, n_tokens: int, evaluated: int) -> dict[str, Any]:
    return {"content": text, "tokens_predicted": n_tokens, "timings": {"prompt_n": evaluated}}


def test_a_chat_with_llama_server_sends_all_its_text_each_time() -> None:
    http = Answers(completion(" x", 1, 100), completion(" one two", 2, 1), completion(" three four", 2, 1))
    chat = LlamaChat(cast(Http, http), slot=3, ignore_eos=False)
    chat.begin("a prompt")
    chat.go_on(2)
    chat.go_on(2)
    assert [body["prompt"] for body in http.asked] == ["a prompt", "a prompt", "a prompt one two"]
    assert [body["n_predict"] for body in http.asked] == [1, 2, 2]
    assert all(body["id_slot"] == 3 and body["cache_prompt"] and body["temperature"] == 0 for body in http.asked)


def test_a_peer_that_lost_the_chat_is_not_compared() -> None:
    http = Answers(completion("", 1, 100), completion(" one two", 2, 100))
    chat = LlamaChat(cast(Http, http), slot=None, ignore_eos=False)
    chat.begin("a prompt")
    with pytest.raises(BenchError, match="evaluated 100 tokens of the chat again"):
        chat.go_on(2)


def test_after_a_restart_a_peer_may_evaluate_all_again() -> None:
    http = Answers(completion(" one two", 2, 100))
    LlamaChat(cast(Http, http), None, False, text="from before").go_on(2)
    assert http.asked[0]["prompt"] == "from before"


def test_too_few_tokens_of_a_peer_are_no_measurement() -> None:
    chat = LlamaChat(cast(Http, Answers(completion(" one", 1, 1))), None, False)
    with pytest.raises(BenchError, match="2 tokens were asked for, 1 came"):
        chat.go_on(2)
    answer = {"usage": {"completion_tokens": 1}, "choices": [{"text": " one"}]}
    with pytest.raises(BenchError, match="2 tokens were asked for"):
        PythonChat(cast(Http, Answers(answer))).go_on(2)


def test_a_peer_that_does_not_start_tells_why() -> None:
    # This program takes -m for something else.
    no_server = LlamaServer("broken", Path(sys.executable), CHAT_MODEL, n_ctx=64, slots=1, threads=1)
    with pytest.raises(BenchError, match=r"did not start:\n(.|\n)*llama-canister-tiny"):
        no_server.start()


def test_a_named_binary_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="LLAMA_SERVER"):
        peers.llama_server(tmp_path / "llama-server")


def test_the_python_server_gets_what_its_package_asks_for() -> None:
    names = [requirement.partition(">")[0].partition("<")[0] for requirement in peers.server_requirements()]
    assert {"fastapi", "starlette-context", "uvicorn"} <= set(names)
    assert "pytest" not in names


def test_our_llama_cpp_tells_what_it_was_compiled_for() -> None:
    features = peers.our_features()
    assert features.startswith("CPU : ")
    assert " = 1" in features


def test_a_real_model_may_end_by_itself() -> None:
    assert ends_by_itself(CHAT_MODEL)
