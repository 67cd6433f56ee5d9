"""The harness of the benchmarks: everything runs once, nothing that failed is taken for fast."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.make_bench_model import SHAPES, write
from tests.bench import suite
from tests.bench.http_client import HttpError
from tests.bench.memory import kv_bytes_per_token
from tests.bench.results import Row, read
from tests.bench.servers import BenchError, Ours, ends_by_itself, known, words
from tests.bench.suite import Bench, Options, alternating, begin, together, tokens_per_second
from tests.harness import CHAT_MODEL

ENDLESS = ("-n", "-1", "--ignore-eos", "--context-shift")


@given(st.lists(st.integers(), min_size=1, max_size=5, unique=True))
def test_every_side_has_every_place_equally_often(sides: list[int]) -> None:
    rounds = [alternating(sides, number) for number in range(len(sides))]
    assert all(sorted(each) == sorted(sides) for each in rounds)
    assert all(sorted(place) == sorted(sides) for place in zip(*rounds, strict=True))


@given(st.integers(1, 20), st.integers(1, 8))
def test_all_work_is_done_once(n: int, at_once: int) -> None:
    done: Counter[int] = Counter()
    together([lambda number=number: done.update([number]) for number in range(n)], at_once)  # type: ignore[misc]
    assert done == Counter(range(n))


def test_work_that_fails_is_told() -> None:
    def fail() -> None:
        raise BenchError("less than was asked for")

    with pytest.raises(BenchError, match="less than"):
        together([lambda: None, fail, lambda: None])


def options(folder: Path, **changed: object) -> Options:
    values: dict[str, object] = {"model": CHAT_MODEL, "rounds": 1, "threads": 1, "scale": 1.0, "out": folder}
    return Options(**{**values, "llama_server": None, **changed})  # type: ignore[arg-type]


def test_a_benchmark_that_fails_writes_no_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_: Options) -> list[Row]:
        raise BenchError("the peer's cache did not hold")

    assert not suite.run(Bench("broken", "a title", fail), options(tmp_path))
    assert not list(tmp_path.iterdir())
    assert "the peer's cache did not hold" in capsys.readouterr().err


def test_results_have_their_conditions(tmp_path: Path) -> None:
    row = Row("what", 1.0, None, "ms", 1.0, 4.0, at_least=False)
    assert suite.run(Bench("good", "a title", lambda _: [row]), options(tmp_path, rounds=7))
    saved = read(tmp_path / "good.json")
    assert (saved.rows, saved.rounds, saved.model) == ([row], 7, CHAT_MODEL.name)
    assert saved.machine["cores"] >= 1


@pytest.mark.parametrize(
    ("line", "rounds", "scale"),
    [("", 10, 1.0), ("--quick", 3, 1.0), ("--smoke", 1, 0.1), ("--smoke --rounds 4", 4, 0.1)],
)
def test_options(line: str, rounds: int, scale: float) -> None:
    parser = argparse.ArgumentParser()
    suite.add_options(parser)
    read_ones = suite.read_options(parser.parse_args(["--model", str(CHAT_MODEL), *line.split()]))
    assert (read_ones.rounds, read_ones.scale, read_ones.model) == (rounds, scale, CHAT_MODEL)


def test_the_size_of_a_token_in_the_kv_memory() -> None:
    assert kv_bytes_per_token(CHAT_MODEL) % (2 * 2) == 0


# -- our side of the comparison, on the shipped model


@pytest.fixture(scope="module")
def server() -> Iterator[Ours]:
    with Ours("ours", CHAT_MODEL, n_ctx=512, slots=2, threads=1) as server:
        yield server


def test_chats_go_on_together(server: Ours) -> None:
    chats = [server.chat(f"together-{n}") for n in range(2)]
    begin(server, chats, [words(5, n) for n in range(2)])
    assert tokens_per_second(server, chats, 3, 4) > 0
    for chat in chats:
        assert chat.run("", "-n", "0")["n_prompt_tokens"] > 3 * 4
        chat.close()


def test_a_call_that_gives_too_little_is_no_measurement(server: Ours) -> None:
    chat = server.chat("little")
    begin(server, [chat], [words(5, 1)])
    server.prepare(3)
    with pytest.raises(BenchError, match="4 tokens were asked for"):
        chat.go_on(4)
    chat.close()
    cut = server.chat("cut")
    with pytest.raises(BenchError, match="remain"):
        cut.begin(words(20, 1))
    cut.close()


def test_a_chat_survives_a_restart(server: Ours) -> None:
    chat = server.chat("restart")
    begin(server, [chat], [words(5, 1)])
    n_tokens = chat.run("", "-n", "0")["n_prompt_tokens"]
    server.restart()
    chat.close()
    again = server.chat("restart")
    assert again.run("", "-n", "0")["n_prompt_tokens_cached"] == n_tokens
    again.close()


def test_a_file_is_sent_as_it_is(server: Ours, tmp_path: Path) -> None:
    file = tmp_path / "some.bin"
    file.write_bytes(bytes(range(256)) * 5000)
    http = server.http()
    sent = http.put_file("/canisters/llama_cpp/files/some.bin", file)["Ok"]
    assert sent["filesha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    paced = http.put_file("/canisters/llama_cpp/files/paced.bin", file, bytes_per_second=1e9)["Ok"]
    assert paced["filesha256"] == sent["filesha256"]
    with pytest.raises(HttpError, match="404"):
        http.post("/canisters/llama_cpp/no_such_method", {})
    http.close()


def test_a_call_that_is_left_is_rolled_back(server: Ours) -> None:
    chat = server.chat("left")
    begin(server, [chat], [words(5, 1)])
    n_tokens = chat.run("", "-n", "0")["n_prompt_tokens"]
    leaver = server.http()
    leaver.post_and_leave("/canisters/llama_cpp/run_update", chat.argument("", *ENDLESS), 0.0)
    assert chat.run("", "-n", "0")["n_prompt_tokens"] == n_tokens
    leaver.close()
    chat.close()


def test_flags_of_other_versions_are_left_out() -> None:
    assert known("--slots", "3") == ("--slots", "3")
    assert known("--slot", "3") == ()
    assert known("--no-such-flag", "3") == ()


def test_a_made_model_goes_on_without_end_on_a_server_as_users_start_it(tmp_path: Path) -> None:
    """It is no shipped model: the server tries it in a child process of its own first."""
    shape = dataclasses.replace(SHAPES["kv05"], n_layers=2, n_vocab=1600, n_text=1500)
    model = write(tmp_path / "made.gguf", shape)
    assert not ends_by_itself(model)
    with Ours("ours", model, n_ctx=256, slots=1, threads=1) as server:
        chat = server.chat("made")
        begin(server, [chat], [words(5, 1)])
        assert tokens_per_second(server, [chat], 2, 100) > 0
        chat.close()
