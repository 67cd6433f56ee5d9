"""The server killed (SIGKILL) while texts are read: the embedding model comes back, and the vectors are the same."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from canister.client.local_server import LocalServer
from tests.crash.test_kill import wait_until_ready
from tests.embedding_models import embedding_model

TEXTS = ["hello world", "the cat sat on the mat " * 10] * 40


def vectors(server: LocalServer) -> list[list[float]]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.api_key, max_retries=0, timeout=60) as client:
        return [item.embedding for item in client.embeddings.create(model="llama_cpp", input=TEXTS).data]


@pytest.mark.parametrize("n_kills", [1, pytest.param(5, marks=pytest.mark.nightly)])
def test_killed_while_it_reads(tmp_path: Path, n_kills: int) -> None:
    model = embedding_model(tmp_path / "bert.gguf")
    with LocalServer(tmp_path / "data", "-m", str(model), "--exact", "on") as server:
        wait_until_ready(server)
        before = vectors(server)
        for _ in range(n_kills):
            failures: list[Any] = []
            is_under_way = threading.Event()

            def ask(failures: list[Any] = failures, is_under_way: threading.Event = is_under_way) -> None:
                try:
                    while True:
                        vectors(server)
                        is_under_way.set()
                except (openai.APIConnectionError, httpx.HTTPError) as error:
                    failures.append(error)

            asking = threading.Thread(target=ask)
            asking.start()
            assert is_under_way.wait(60)
            server.kill()
            asking.join()
            assert failures
            server.start()
            wait_until_ready(server)
            assert vectors(server) == before
