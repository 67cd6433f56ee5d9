"""What a typed text means: a command, a question, or neither."""

from __future__ import annotations

import pytest

from canister.cli.talk.choices import CHOICES, Choices, NoChoice
from canister.cli.talk.commands import COMMANDS, help_text, meant
from canister.cli.talk.named import name_of


@pytest.mark.parametrize(
    ("typed", "kind", "text"),
    [
        ("Who?", None, "Who?"),
        ("  Who? ", None, "Who?"),
        ("", None, ""),
        ("/new", "new", ""),
        ("/NEW ", "new", ""),
        ("/system Be\nbrief.", "system", "Be\nbrief."),
        ("/set temp 1", "set", "temp 1"),
        ("/exit", "quit", ""),
        ("exit", "quit", ""),
        ("Bye", "quit", ""),
        ("exit the room", None, "exit the room"),
        ("/etc/hosts - what is it?", None, "/etc/hosts - what is it?"),
        ("/nonsense\nbut more", None, "/nonsense\nbut more"),
        (" /new", None, "/new"),
    ],
)
def test_what_is_meant(typed: str, kind: str | None, text: str) -> None:
    found = meant(typed)
    assert (found.command.kind if found.command else None, found.text, found.problem) == (kind, text, "")


def test_what_is_meant_by_nothing() -> None:
    assert "/nonsense is not known" in meant("/nonsense").problem
    assert "/calls stands alone" in meant("/calls please").problem


def test_help_has_every_command() -> None:
    assert all(word in help_text() for command in COMMANDS for word in command.words)


def test_choices_become_flags() -> None:
    choices = Choices()
    assert choices.flags() == ["--temp", "0"]
    choices.set("temp", "0.75")
    choices.set("seed", "42")
    choices.set("top-k", "5")
    assert choices.flags() == ["--temp", "0.75", "--seed", "42", "--top-k", "5"]
    choices.set("max-tokens", "9")
    assert choices.answer_tokens == 9
    again = Choices({"seed": 1})
    again.take({**choices.chosen, "of another version": 1, "min-p": 7, "top-p": "x"})
    assert again.chosen == {"seed": 1, "temp": 0.75, "top-k": 5, "max-tokens": 9}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("temp", "-1"),
        ("temp", "nan"),
        ("temp", "inf"),
        ("seed", "1.5"),
        ("seed", "-1"),
        ("top-p", "0"),
        ("max-tokens", "1"),
        ("x", "1"),
    ],
)
def test_what_cannot_be_chosen(name: str, text: str) -> None:
    choices = Choices()
    with pytest.raises(NoChoice) as caught:
        choices.set(name, text)
    assert name in str(caught.value)
    assert choices.chosen == {}


def test_every_choice_is_told() -> None:
    assert [line.split()[0] for line in Choices().told().splitlines()] == list(CHOICES)


@pytest.mark.parametrize(
    ("question", "name"),
    [
        ("Who are you?", "who-are-you"),
        ("What is a canister and why would anybody want one?", "what-is-a-canister-and-why"),
        ("/etc/hosts …", "etc-hosts"),
        ("Größe?", "größe"),
        ("何ですか", "何ですか"),
        ("???", "chat"),
        ("x" * 99, "x" * 40),
    ],
)
def test_a_name_is_made_of_the_first_words(question: str, name: str) -> None:
    assert name_of(question) == name
