"""`canister estimate`: one call, a conversation, a table, a picture."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from canister.metering import fees
from canister.metering.cost_model import CostContext, CostModel, Work
from canister.model_file.gguf import read_gguf
from canister.model_file.shape import read_shape
from tests.cli.conftest import Command
from tests.shapes import F16, GEMMA3_270M, Q8_0, SMOLLM2_135M, write_model

FLAGS = "--ctx-size 2048 --batch-size 8 -ctk q8_0 -ctv q8_0"
CONTEXT = CostContext(2048, 8, 8, "q8_0", "q8_0")
ONE = ("--prompt-tokens", 30, "--cached-tokens", 12, "--generate", 5)
TALK = ("--prompt-tokens", 40, "--answer-tokens", 200)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "smol.gguf", SMOLLM2_135M, Q8_0)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "gemma.gguf", GEMMA3_270M, Q8_0)


def found(canister: Command, *arguments: object) -> Any:
    done = canister("estimate", *arguments, "--json")
    assert (done.code, done.err) == (0, "")
    return json.loads(done.out)


def test_one_call_is_the_formula(canister: Command, model: Path) -> None:
    call = found(canister, model, "--args", FLAGS, *ONE, "--request-bytes", 100)
    cost = CostModel(read_shape(read_gguf(model)), CONTEXT).cost(
        Work(loaded=12, reused=12, prompt=18, generated=5, sampled=5, saves=2)
    )
    assert call["parts"] == cost.parts()
    assert call["instructions"] == cost.total == sum(call["parts"].values())
    assert call["cycles"] == fees.update_cycles(cost.total, 100)
    assert call["limit"] == 40_000_000_000
    assert call["fits"] is True
    assert call["estimates"] == []
    for name in ("instructions", "cycles", "limit", "max_generate"):
        assert type(call[name]) is int
    assert all(type(part) is int for part in call["parts"].values())


def test_the_most_tokens_are_the_most(canister: Command, model: Path) -> None:
    prompt = ("--prompt-tokens", 30, "--cached-tokens", 12)
    most = found(canister, model, "--args", FLAGS, *prompt, "--generate", 0)["max_generate"]
    assert found(canister, model, "--args", FLAGS, *prompt, "--generate", most)["fits"] is True
    assert found(canister, model, "--args", FLAGS, *prompt, "--generate", most + 1)["fits"] is False


def test_nothing_but_the_fixed_part(canister: Command, model: Path) -> None:
    call = found(canister, model)
    assert call["n_ctx"] == SMOLLM2_135M.n_ctx_train
    parts = call["parts"]
    assert [parts[name] for name in ("session", "prompt", "generate", "sampling", "save")] == [0] * 5
    assert min(parts["clear"], parts["pagein"], parts["base"]) > 0


def test_saves_follow_from_the_prompt_unless_given(canister: Command, model: Path) -> None:
    def save(*arguments: object) -> int:
        part = found(canister, model, "--prompt-tokens", 20, *arguments)["parts"]["save"]
        assert isinstance(part, int)
        return part

    assert save() == 2 * save("--cached-tokens", 20) == 2 * save("--saves", 1)
    assert save("--saves", 0) == 0
    assert found(canister, model, "--prompt-tokens", 20, "--cached-tokens", 0)["parts"]["session"] == 0


def test_prices_and_limits(canister: Command, model: Path) -> None:
    mainnet, legacy = found(canister, model, *ONE), found(canister, model, *ONE, "--page-cost", "legacy")
    assert legacy["parts"]["pagein"] == 0 < mainnet["parts"]["pagein"]
    assert found(canister, model, *ONE, "--nodes", 26)["cycles"] == 2 * mainnet["cycles"]
    none = found(canister, model, "--args", FLAGS, *ONE, "--instruction-limit", "none")
    assert (none["limit"], none["fits"], none["max_generate"]) == (None, True, 2048 - 30)
    tight = found(canister, model, *ONE, "--instruction-limit", 10**6)
    assert (tight["limit"], tight["fits"], tight["max_generate"]) == (10**6, False, 0)
    penalized = found(canister, model, "--args", "--repeat-penalty 1.1", *ONE)
    sampling = mainnet["parts"]["sampling"]
    assert penalized["parts"]["sampling"] == sampling + 5 * 122 * SMOLLM2_135M.vocabulary


def test_one_call_as_a_page(canister: Command, model: Path, tmp_path: Path) -> None:
    done = canister("estimate", model, "--args", FLAGS, *ONE)
    assert (done.code, done.err) == (0, "")
    assert "context 2,048 tokens, batch 8, KV q8_0/q8_0" in done.out
    assert "clearing the KV cache" in done.out
    assert "fits" in done.out
    assert "estimated:" not in done.out
    strange = write_model(tmp_path / "strange.gguf", SMOLLM2_135M, lambda *_: "iq4_nl")
    shown = canister("estimate", strange, "--args", "-ctk q4_0").out
    assert "estimated: The weight type iq4_nl" in shown
    assert "estimated: The KV type q4_0" in shown


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--prompt-tokens", 4, "--cached-tokens", 5), 1, "5 cached of 4 prompt tokens"),
        (("--prompt-tokens", 8192, "--generate", 1), 1, "do not fit a context of 8192"),
        (("--prompt-tokens", 0, "--answer-tokens", 5), 1, "make no conversation"),
        (("--prompt-tokens", 8000, "--answer-tokens", 500), 1, "does not fit a context of 8192"),
        (("--prompt-tokens", 5, "--answer-tokens", 5, "--instruction-limit", 10**6), 1, "No token fits"),
        (("--prompt-tokens", -1), 2, "--prompt-tokens"),
        (("--generate", -1), 2, "--generate"),
        (("--args", "--ctx-sise 4096"), 2, "--ctx-size"),
        (("--args", "'"), 2, "No closing quotation"),
        (("--ctx-sizes", "4096,x"), 2, "2048,4096,8192"),
        (("--ctx-sizes", ""), 2, "2048,4096,8192"),
        (("--instruction-limit", "0"), 2, "'none'"),
        (("--max-tokens", 5), 2, "--answer-tokens"),
        ((*TALK, "--generate", 0), 2, "of one call"),
        (("--plot", "out.svg"), 2, "--answer-tokens"),
        ((*TALK, "--plot", "out.gif"), 2, ".svg, .png, .pdf"),
    ],
)
def test_what_cannot_be_asked(
    canister: Command, model: Path, arguments: tuple[object, ...], code: int, says: str
) -> None:
    done = canister("estimate", model, *arguments)
    assert (done.code, done.out) == (code, "")
    assert says in " ".join(done.err.replace("│", " ").split())


def test_the_error_names_only_what_was_given(canister: Command, model: Path) -> None:
    counts = ("--prompt-tokens", 4, "--cached-tokens", 5, "--generate", 1)
    assert "1 generated make no sense" in canister("estimate", model, *counts).err
    assert "1 generated, 3 saves make no sense" in canister("estimate", model, *counts, "--saves", 3).err


def test_a_prompt_is_for_a_loaded_model(canister: Command, model: Path) -> None:
    for line, told in (
        (
            (model, "--prompt", "hi", "--answer-tokens", 10),
            "with a FILE give the length of the prompt: --prompt-tokens",
        ),
        ((), "give --prompt TEXT for the model loaded in --canister, or a FILE"),
        (("--answer-tokens", 5), "or a FILE"),
    ):
        done = canister("estimate", *line)
        assert (done.code, done.out) == (2, "")
        assert told in " ".join(done.err.split())
    assert canister("estimate", "--args", "--prompt-cache chat.cache", "-n", "http://127.0.0.1:1").code == 1


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_a_table_is_no_wider_than_the_terminal(
    canister: Command, model: Path, other: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    head, *lines = canister("estimate", model, other, *TALK).out.splitlines()
    assert [line.split()[0] for line in lines] == ["smol.gguf", "gemma.gguf"]
    if width == 200:
        assert "seconds" in head
    if width >= 80:
        assert max(map(len, (head, *lines))) <= width
    assert "USD" in head


def test_files_that_are_no_models(canister: Command, tmp_path: Path) -> None:
    assert canister("estimate", tmp_path / "none.gguf").code == 2
    (tmp_path / "text.gguf").write_text("no model")
    done = canister("estimate", tmp_path / "text.gguf")
    assert done.code == 1
    assert "text.gguf" in done.err


def test_a_conversation(canister: Command, model: Path) -> None:
    talk = found(canister, model, "--args", FLAGS, *TALK)
    calls = talk["calls"]
    assert talk["n_calls"] == len(calls)
    assert sum(call["prompt"] for call in calls) == 40
    assert sum(call["generated"] for call in calls) == 200
    assert talk["instructions"] == sum(call["instructions"] for call in calls)
    assert talk["cycles"] == sum(call["cycles"] for call in calls)
    assert max(call["instructions"] for call in calls) <= talk["limit"]
    assert talk["tokens_per_call_first"] >= talk["tokens_per_call_last"] > 0
    assert talk["usd"] == pytest.approx(1.366 * talk["xdr"])
    few = found(canister, model, "--args", FLAGS, *TALK, "--max-tokens", 7)
    assert max(call["prompt"] + call["generated"] for call in few["calls"]) == 7
    shown = canister("estimate", model, "--args", FLAGS, *TALK).out
    assert f"{talk['cycles']:,}" in shown
    assert f"{talk['tokens_per_call_last']:,} at the end" in shown


def test_a_table(canister: Command, model: Path, other: Path) -> None:
    arguments = (model, other, "--ctx-sizes", "128,2048,4096", *TALK)
    rows = found(canister, *arguments)
    assert [(row["model"], row["n_ctx"]) for row in rows] == [
        (name, n_ctx) for name in ("smol.gguf", "gemma.gguf") for n_ctx in (128, 2048, 4096)
    ]
    assert "does not fit a context of 128" in rows[0]["error"]
    alone = found(canister, model, "--args", "-c 4096", *TALK)
    assert rows[2] == alone
    done = canister("estimate", *arguments)
    assert done.code == 0
    assert [line.split()[:2] for line in done.out.splitlines()[1:]] == [
        [row["model"], f"{row['n_ctx']:,}"] for row in rows
    ]
    assert done.err.count("does not fit a context of 128") == 2
    assert canister("estimate", model, "--ctx-sizes", "64,128", *TALK).code == 1
    assert "most tokens" in canister("estimate", model, "--ctx-sizes", "64,128").out


def test_picture(canister: Command, model: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("one.svg", "two.svg"):
        done = canister("estimate", model, "--ctx-sizes", "2048,4096", *TALK, "--plot", tmp_path / name)
        assert (done.code, done.err) == (0, f"drew {tmp_path / name}\n")
    text = (tmp_path / "one.svg").read_text(encoding="utf-8")
    for label in ("tokens per call", "cycles so far (10⁹)", "US dollars", "smol.gguf, context 4,096", "the prompt"):
        assert label in text
    assert (tmp_path / "two.svg").read_text(encoding="utf-8") == text
    for name, magic in (("one.png", b"\x89PNG"), ("one.pdf", b"%PDF")):
        assert canister("estimate", model, *TALK, "--plot", tmp_path / name).code == 0
        assert (tmp_path / name).read_bytes().startswith(magic)
    done = canister("estimate", model, *TALK, "--plot", tmp_path / "no folder" / "x.svg")
    assert done.code == 1
    assert "no folder" in done.err


def test_picture_without_the_extra(canister: Command, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = canister("estimate", model, *TALK, "--plot", "out.svg")
    assert (done.code, done.out) == (1, "")
    assert "pip install 'llama-canister[plot]'" in done.err


def test_it_loads_nothing_heavy(model: Path) -> None:
    code = (
        "import sys; from canister.cli import app; app(sys.argv[1:], standalone_mode=False);"
        "print([name for name in ('llama_cpp', 'sqlalchemy', 'fastapi', 'matplotlib') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, "estimate", str(model), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_weights_are_not_read(canister: Command, tmp_path: Path) -> None:
    file = write_model(tmp_path / "f16.gguf", GEMMA3_270M, F16)
    before = found(canister, file)
    size = file.stat().st_size
    with file.open("r+b") as opened:
        opened.seek(size - 4096)
        opened.write(b"\xff" * 4096)
    assert found(canister, file) == before
