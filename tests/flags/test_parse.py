"""Flags as clients write them → RunArgs, or an error that names the fault and the nearest flag."""

from __future__ import annotations

import contextlib
import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canister.flags.params import SamplingParams
from canister.flags.parse import ArgsError, DraftParams, PlacementParams, RopeParams, RunArgs, parse, render_flags
from canister.flags.table import FLAGS, Effect, Flag
from canister.flags.values import KV_TYPES

COUNTING = [flag for flag in FLAGS if flag.effect is Effect.COUNTS]
IGNORED = [flag for flag in FLAGS if flag.effect is Effect.IGNORED]
REFUSED = [flag for flag in FLAGS if flag.effect is Effect.REFUSED]

SAMPLES = {
    "JSON": '{"a": 1}',
    "PATH": "models/a.gguf",
    "TEXT": "hello",
    "N": "1",
    "N|all|auto": "7",
    "N,N,…": "3,1",
    "on|off|auto": "on",
    "NAME;NAME;…": "top_k;temperature",
    "LETTERS": "kt",
    "TOKEN±BIAS": "15043-1",
    "SCHEMA": '{"type": "object"}',
}


def sample(flag: Flag) -> list[str]:
    """A value that the flag takes, as it would stand on the command line."""
    return [SAMPLES.get(flag.kind.shape, flag.kind.shape.split("|")[0])] if flag.kind else []


def message(*args: str) -> str:
    with pytest.raises(ArgsError) as caught:
        parse(args)
    assert str(caught.value).startswith("Cannot parse args.")
    assert (caught.value.record_status, caught.value.http_status) == (500, 400)
    return str(caught.value)


def test_no_flags_gives_the_defaults_of_llama_completion() -> None:
    assert parse([]) == RunArgs()
    assert parse([]).sampling == SamplingParams()


def test_a_call_as_the_original_clients_write_it() -> None:
    line = (
        "--prompt-cache prompt.cache --prompt-cache-all --cache-type-k q8_0 -ctv q8_0 --repeat-penalty 1.1"
        " --temp 0.6 -sp -p <|im_start|>user\\nHi<|im_end|>\\n -n 512 --print-token-count 1 -no-cnv -t 4"
    )
    args = parse(line.split())
    assert args.prompt == "<|im_start|>user\nHi<|im_end|>\n"
    assert (args.prompt_cache, args.prompt_cache_all, args.special, args.n_predict) == (
        "prompt.cache",
        True,
        True,
        512,
    )
    assert (args.cache_type_k, args.cache_type_v) == ("q8_0", "q8_0")
    assert (args.sampling.repeat_penalty, args.sampling.temperature) == (1.1, 0.6)
    assert {"--prompt", "--n-predict", "--cache-type-v", "--conversation"} <= args.given


@pytest.mark.parametrize("flag", COUNTING, ids=lambda flag: flag.canonical)
def test_each_spelling_sets_the_same_field(flag: Flag) -> None:
    results = {parse([name, *sample(flag)]) for name in flag.names}
    assert len(results) == 1
    assert results.pop().given == {flag.canonical}


@pytest.mark.parametrize("flag", IGNORED, ids=lambda flag: flag.canonical)
def test_flags_without_effect_change_nothing(flag: Flag) -> None:
    for name in (*flag.names, *flag.off):
        assert dataclasses.replace(parse([name, *sample(flag)]), given=frozenset()) == RunArgs()


@pytest.mark.parametrize("flag", REFUSED, ids=lambda flag: flag.canonical)
def test_refused_flags_say_why_whatever_follows(flag: Flag) -> None:
    for name in flag.names:
        assert message(name, "x") == message(name) == f"Cannot parse args. {name} is refused: {flag.note}."


def test_no_spelling_stands_for_two_flags() -> None:
    names = [name for flag in FLAGS for name in (*flag.names, *flag.off)]
    assert len(names) == len(set(names))


def test_every_field_can_be_set_by_a_flag() -> None:
    reached = {flag.field for flag in COUNTING}
    own = {field.name for field in dataclasses.fields(RunArgs)} - {"sampling", "rope", "placement", "draft", "given"}
    sampling = {f"sampling.{field.name}" for field in dataclasses.fields(SamplingParams)}
    rope = {f"rope.{field.name}" for field in dataclasses.fields(RopeParams)}
    placement = {f"placement.{field.name}" for field in dataclasses.fields(PlacementParams)}
    draft = {f"draft.{field.name}" for field in dataclasses.fields(DraftParams)}
    of_the_server = {
        "sampling.lark",
        "sampling.grammar_triggers",
        "sampling.grammar_quiet",
    }  # llama-completion has no --min-keep either
    assert reached == own | sampling - of_the_server - {"sampling.min_keep"} | rope | placement | draft


@pytest.mark.parametrize(
    ("args", "field", "value"),
    [
        (["--ctx_size", "4096"], "ctx_size", 4096),
        (["-c", "0"], "ctx_size", 0),
        (["-c", "3"], "ctx_size", 8),
        (["-n", "-1"], "n_predict", -1),
        (["-n", " +7"], "n_predict", 7),
        (["-n", "1", "--predict", "2"], "n_predict", 2),
        (["--keep", "-1"], "keep", -1),
        (["-s", "-1"], "seed", None),
        (["-s", "4294967295"], "seed", None),
        (["-s", "4294967294"], "seed", 4294967294),
        (["-r", "a", "-r", "b\\n"], "reverse_prompts", ("a", "b\n")),
        (["-fa"], "flash_attn", "on"),
        (["-fa", "-c", "8"], "flash_attn", "on"),
        (["-fa", "0"], "flash_attn", "off"),
        (["-fa", "-1"], "flash_attn", "auto"),
        (["--context-shift", "--no-context-shift"], "context_shift", False),
        (["-lv", "5"], "log_verbosity", 5),
        (["-v"], "log_verbosity", 2**31 - 1),
        (["-p", "-n"], "prompt", "-n"),
    ],
)
def test_values(args: list[str], field: str, value: object) -> None:
    assert getattr(parse(args), field) == value


@pytest.mark.parametrize(
    ("args", "field", "value"),
    [
        (["--samplers", "TOP-K;minp;temp;"], "samplers", ("top_k", "min_p", "temperature")),
        (["--samplers", ""], "samplers", ()),
        (["--sampling-seq", "ekt"], "samplers", ("penalties", "top_k", "temperature")),
        (["--temp", "-3"], "temperature", 0.0),
        (["--top-p", "1e-1"], "top_p", 0.1),
        (["--min-p", ".5"], "min_p", 0.5),
        (["--repeat-last-n", "-1"], "repeat_last_n", -1),
        (["-l", "15043+1.5", "-l", "2-inf"], "logit_bias", ((15043, 1.5), (2, -math.inf))),
        (
            ["--dry-sequence-breaker", "a", "--dry-sequence-breaker", "\\t"],
            "dry_sequence_breakers",
            ("a", "\t"),
        ),
        (["--dry-sequence-breaker", "a", "--dry-sequence-breaker", "none"], "dry_sequence_breakers", ()),
        (["--grammar", 'root ::= "a"', "-j", "{}"], "grammar", ""),
        (["-j", "{}", "--grammar", 'root ::= "a"'], "json_schema", ""),
        (["-j", '{"type":"object"}'], "json_schema", '{"type":"object"}'),
    ],
)
def test_sampling_values(args: list[str], field: str, value: object) -> None:
    assert getattr(parse(args).sampling, field) == value


@pytest.mark.parametrize("name", KV_TYPES)
def test_kv_types(name: str) -> None:
    assert parse(["-ctk", name]).cache_type_k == parse(["-ctv", name]).cache_type_v == name


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (r"a\nb\rc\td", "a\nb\rc\td"),
        (r"\'\"\\n", "'\"\\n"),
        (r"\x41\xe2\x82\xac", "A€"),
        (r"\q\x4\xzz\ ", r"\q\x4\xzz\ "),
        ("end\\", "end\\"),
    ],
)
def test_escapes(written: str, read: str) -> None:
    assert parse(["-p", written]).prompt == read
    assert parse(["--no-escape", "-p", written]).prompt == written
    assert parse(["-p", written, "-e", "--no-escape"]).prompt == written


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--ctx-sizee", "1"], ["Unknown flag", "--ctx-sizee", "the nearest known flag is --ctx-size."]),
        (["--top-k=5"], ["Flag and value are two arguments.", "the nearest known flag is --top-k."]),
        (["-p hello"], ["Flag and value are two arguments.", "the nearest known flag is -p."]),
        (["hello"], ["Expected a flag", "'hello'"]),
        ([""], ["Expected a flag", "''"]),
        (["--model"], ["--model needs a value"]),
        (["-c", "1k"], ["-c", "'1k' is not a whole number"]),
        (["-c", "1.5"], ["not a whole number"]),
        (["-c", ""], ["not a whole number"]),
        (["-c", "٣"], ["not a whole number"]),
        (["-c", "-1"], ["out of range: 0 to 2147483647"]),
        (["-c", "9" * 100_000], ["out of range: 0 to 2147483647"]),
        (["-n", "-3"], ["out of range: -2 to 2147483647"]),
        (["--temp", "nan"], ["not a finite number"]),
        (["--temp", "inf"], ["not a finite number"]),
        (["--temp", "1e39"], ["out of range"]),
        (["--temp", "1e999999"], ["out of range"]),
        (["--temp", "0.5x"], ["not a finite number"]),
        (["--repeat-penalty", "0"], ["greater than 0"]),
        (["-ctk", "q9_0"], ["'q9_0' is none of f32, f16"]),
        (["-fa", "maybe"], ["'maybe' is none of on, off, auto"]),
        (["--samplers", "top_k;magic"], ["'magic' is no sampler"]),
        (["--samplers", "top_k;" * 100], ["more than 64 samplers"]),
        (["--sampler-seq", "q"], ["'q' is the letter of no sampler"]),
        (["-l", "15043"], ["TOKEN+BIAS"]),
        (["-l", "-5+1"], ["out of range"]),
        (["-j", "{"], ["is not JSON"]),
        (["-j", "[" * 100_000], ["is not JSON"]),
        (["-t", "four"], ["'four' is not a whole number"]),
        (["-p", r"\xff"], ["--prompt", "not UTF-8"]),
        (["-p", "a\0b"], ["Argument 2", "U+0000"]),
        (["\ud800"], ["Argument 1", "U+D800"]),
        (["--hf-repo", "a/b"], ["--hf-repo is refused", "upload the file"]),
    ],
)
def test_errors_name_the_fault(args: list[str], words: list[str]) -> None:
    text = message(*args)
    assert all(word in text for word in words), text
    assert len(text) < 500


def test_environment_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_ARG_CTX_SIZE", "99")
    monkeypatch.setenv("LLAMA_ARG_TEMPERATURE", "0.1")
    assert parse([]) == RunArgs()


NAMES = st.sampled_from([name for flag in FLAGS for name in (*flag.names, *flag.off)])
WORDS = st.one_of(
    NAMES,
    st.text(max_size=30),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(["", "-", "--", "-1", "none", "\\x", "\\xff", "5+1", "on", "{}", "\ud800", "top_k;;p"]),
)


@given(st.lists(WORDS, max_size=12))
@settings(max_examples=300)
def test_any_arguments_parse_or_are_refused(args: list[str]) -> None:
    try:
        parsed = parse(args)
    except ArgsError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert refusal.startswith("Cannot parse args. ")
        return
    assert parsed.given <= {flag.canonical for flag in FLAGS}
    parsed.prompt.encode()


@given(st.text(alphabet="\\xn0aF\"'€", max_size=40))
def test_escaping_a_text_and_reading_it_gives_it_back(text: str) -> None:
    assert parse(["-p", text.replace("\\", "\\\\")]).prompt == text


@pytest.mark.parametrize(
    "args",
    [["-" + "a" * 2_000_000], ["-p", "\\x" * 1_000_000], ["--temp", "0" * 2_000_000], ["-r", "x"] * 100_000],
    ids=lambda args: args[0][:2],
)
def test_long_arguments_come_to_an_end(args: list[str]) -> None:
    with contextlib.suppress(ArgsError):
        parse(args)


def test_the_docs_page_has_every_flag() -> None:
    page = render_flags()
    for flag in FLAGS:
        assert all(f"`{name}`" in page for name in (*flag.names, *flag.off))
    assert page == render_flags()
