"""Which call of an answer comes next, and what of its output is the answer."""

from __future__ import annotations

import pytest

from canister.api.chain import Chain
from canister.api.records import RunOutputRecord


def record(
    output: str, conversation: str, *, remaining: int = 0, generated: int = 0, eog: bool = False
) -> RunOutputRecord:
    return RunOutputRecord(
        status_code=200,
        output=output,
        conversation=conversation,
        generated_eog=eog,
        n_tokens_generated=generated,
        n_prompt_tokens_remaining=remaining,
    )


def flag(chain: Chain, name: str) -> str:
    arg = chain.next()
    assert arg is not None
    return arg.args[arg.args.index(name) + 1]


def generating(conversation: str, n_left: int = 10, **options: tuple[str, ...]) -> Chain:
    chain = Chain("p", "c", n_left, **options)
    chain.took(record("x", conversation), is_shown=False)
    return chain


def test_the_prompt_goes_in_and_then_the_answer_comes_out() -> None:
    chain = Chain("said so far", "chat", 10, ("--temp", "0"))
    assert (flag(chain, "-p"), flag(chain, "-n"), flag(chain, "--temp")) == ("said so far", "1", "0")
    assert chain.shown("echo", is_echo=False) == ""
    assert chain.took(record("", "said", remaining=2), is_shown=False) == ""
    assert flag(chain, "-p") == "said so far"
    assert chain.took(record("H", "said so far"), is_shown=False) == ""
    assert (flag(chain, "-p"), flag(chain, "-n")) == ("", "10")
    assert chain.took(record("Hel", "said so farHel", generated=3), is_shown=False) == "Hel"
    assert flag(chain, "-n") == "7"
    assert chain.shown("lo", is_echo=False) == "lo"
    assert chain.took(record("lo", "said so farHello", generated=2, eog=True), is_shown=True) == ""
    assert (chain.next(), chain.finish, chain.answer) == (None, "stop", "Hello")


def test_a_prompt_of_which_nothing_more_goes_in_is_stuck() -> None:
    chain = Chain("p", "c", 10)
    for _ in range(2):
        chain.took(record("", "", remaining=7), is_shown=False)
    assert (chain.next(), chain.finish) == (None, "stuck")


@pytest.mark.parametrize(("generated", "finish"), [(9, "length"), (10, "length"), (0, "full"), (3, None)])
def test_how_an_answer_ends(generated: int, finish: str | None) -> None:
    chain = generating("p")
    chain.took(record("abc", "pabc", generated=generated), is_shown=False)
    assert chain.finish == finish


def test_a_stop_string_ends_it_also_when_calls_cut_it() -> None:
    chain = generating("p", stops=("END",))
    assert flag(chain, "-r") == "END"
    chain.took(record("so E", "pso E", generated=2), is_shown=False)
    assert chain.finish is None
    chain.took(record("ND", "pso END", generated=1), is_shown=False)
    assert chain.finish == "stop"


@pytest.mark.parametrize(
    ("before", "output", "after", "eog", "answer"),
    [
        ("I am a", " cat", "I am a cat", False, " cat"),
        ("I am a", " a cat", "I am a cat", False, " cat"),  # " a" is echoed
        ("I am a", " a cat!", "I am a cat", False, " cat!"),  # and "!" was sampled last, so it is not kept
        ("I am a", " a", "I am a", True, ""),  # the end came at once
        ("I am a", " a", "I am a", False, ""),  # a full context
        ("hel", "lo", "hello", False, "lo"),
        ("aaaa", "aa", "aaaaaa", False, "aa"),
        ("price: \ufffd", "€!", "price: €!", False, "€!"),  # the character was not complete
        ("a long text", " other", "text other", False, " other"),  # a context shift
    ],
)
def test_a_token_that_is_echoed_is_no_part_of_the_answer(
    before: str, output: str, after: str, eog: bool, answer: str
) -> None:
    chain = generating(before)
    n_generated = 0 if before == after else 2
    assert chain.took(record(output, after, generated=n_generated, eog=eog), is_shown=False) == answer


def test_a_piece_that_is_echoed_is_no_part_of_the_answer() -> None:
    chain = generating("I am a")
    assert [chain.shown(" a", is_echo=True), chain.shown(" cat", is_echo=False)] == ["", " cat"]
    assert chain.answer == " cat"
