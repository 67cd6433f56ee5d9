"""Measures what the README says about the tiny model: `python models/evaluate.py`.

Beyond the listed questions that check.py demands, it counts unseen paraphrases, names that are not
in the training text, random sampling, a repeat penalty, and long chats. Takes about two minutes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

if not __package__:  # Started as a file: make the package importable from anywhere.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import llama_cpp

from models.chatml import Message
from models.check import GREEDY, MODEL, Outcome, Sampling, ask_all, complete, load, load_questions, problem
from models.facts import CAPITALS
from models.names import HELD_OUT_NAMES, REAL_NAMES, synthetic_word

INTRODUCTIONS = ("My name is {x}.", "Hello, my name is {x}.", "I am {x}.")
BETWEEN = (
    "What is a canister?",
    "What is the capital of Italy?",
    "Tell me a joke.",
    "How big are you?",
    "What is the opposite of big?",
    "What is a trap?",
    "Thank you!",
    "How many legs does a dog have?",
)


@dataclass(frozen=True)
class Rate:
    """How many of some attempts were good, and what went wrong in the others."""

    label: str
    good: int
    total: int
    failures: tuple[str, ...]


def rate_of(label: str, outcomes: list[Outcome]) -> Rate:
    failures = tuple(problem(outcome) for outcome in outcomes if not outcome.good)
    return Rate(label, len(outcomes) - len(failures), len(outcomes), failures)


def recalls(model: llama_cpp.Llama, names: list[str], between: int, rng: Random) -> Iterator[str]:
    """Tell a name, talk about other things, ask for the name; gives what was wrong, or ''."""
    for name in names:
        turns = [rng.choice(INTRODUCTIONS).format(x=name), *rng.sample(BETWEEN, between), "What is my name?"]
        messages: list[Message] = []
        for turn in turns:
            messages.append(Message("user", turn))
            messages.append(Message("assistant", complete(model, messages).text))
        answer = messages[-1].content
        yield "" if answer == f"Your name is {name}." else f"{name}: {answer!r}"


def recall_rate(label: str, model: llama_cpp.Llama, names: list[str], between: int) -> Rate:
    failures = tuple(filter(None, recalls(model, names, between, Random(between))))
    return Rate(label, len(names) - len(failures), len(names), failures)


def fact_rate(label: str, model: llama_cpp.Llama, pairs: list[tuple[str, str]]) -> Rate:
    failures = []
    for question, wanted in pairs:
        found = complete(model, [Message("user", question)]).text
        if found != wanted:
            failures.append(f"{question!r} gives {found!r}")
    return Rate(label, len(pairs) - len(failures), len(pairs), tuple(failures))


def rates(model: llama_cpp.Llama) -> Iterator[Rate]:
    entries = load_questions()
    made_up = [synthetic_word(Random(number)).capitalize() for number in range(10_000, 10_060)]
    yield rate_of("listed questions, greedy", ask_all(model, entries))
    yield rate_of("unseen paraphrases, greedy", ask_all(model, entries, "held_out"))
    for temperature in (0.7, 1.0):
        sampling = Sampling(temperature)
        outcomes = [outcome for _ in range(3) for outcome in ask_all(model, entries, sampling=sampling)]
        yield rate_of(f"listed questions, temperature {temperature}, 3 times", outcomes)
    penalty = Sampling(GREEDY.temperature, repeat_penalty=1.1)
    yield rate_of("listed questions, repeat penalty 1.1", ask_all(model, entries, sampling=penalty))
    capitals = [
        (f"What is the capital of {land}?", f"The capital of {land} is {city}.") for land, city in CAPITALS.items()
    ]
    yield fact_rate("capitals of the training text", model, capitals)
    sums = [(f"What is {a} plus {b}?", f"{a} plus {b} is {a + b}.") for a in range(11) for b in range(11)]
    yield fact_rate("sums of numbers up to ten", model, sums)
    yield recall_rate("recall of listed names, 1 turn between", model, list(REAL_NAMES[::5]), 1)
    yield recall_rate("recall of unseen names, 1 turn between", model, list(HELD_OUT_NAMES), 1)
    yield recall_rate("recall of unseen names, 4 turns between", model, list(HELD_OUT_NAMES), 4)
    yield recall_rate("recall of made-up names, 1 turn between", model, made_up, 1)
    yield recall_rate("recall of made-up names, 4 turns between", model, made_up, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the answers of the tiny model.")
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--failures", action="store_true", help="also print what went wrong")
    arguments = parser.parse_args()
    for rate in rates(load(arguments.model)):
        print(f"{rate.label}: {rate.good} of {rate.total} ({rate.good / rate.total:.0%})", flush=True)
        if arguments.failures:
            print("\n".join("    " + failure for failure in rate.failures))


if __name__ == "__main__":
    main()
