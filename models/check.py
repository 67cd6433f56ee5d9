"""Checks the shipped model: its SHA-256 and its greedy answers to the listed questions.

`python models/check.py` needs only llama-cpp-python. It ends with status 1 and a list of what is
wrong when the file is not the one in SHA256SUMS, or when an answer is not as questions.json expects.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict, cast

if not __package__:  # Started as a file: make the package importable from anywhere.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import llama_cpp

from models.chatml import Message, render

HERE = Path(__file__).resolve().parent
MODEL = HERE / "llama-canister-tiny.gguf"
SUMS = HERE / "SHA256SUMS"
QUESTIONS = HERE / "questions.json"
LONGEST_ANSWER = 400


class _Entry(TypedDict):
    id: str
    question: str
    expect: list[str]


class Entry(_Entry, total=False):
    """One listed question, as questions.json holds it."""

    system: str
    turns: list[str]
    held_out: list[str]
    answer: str


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; temperature 0 always takes the most likely one."""

    temperature: float = 0.0
    repeat_penalty: float = 1.0


GREEDY = Sampling()


@dataclass(frozen=True)
class Answer:
    """What the model wrote, and whether it ended its turn by itself."""

    text: str
    ended: bool


@dataclass(frozen=True)
class Outcome:
    """One question that was asked; `missing` holds the expectations that its answer lacks."""

    id: str
    question: str
    answer: Answer
    missing: tuple[str, ...]

    @property
    def good(self) -> bool:
        return self.answer.ended and not self.missing


def load_questions(path: Path = QUESTIONS) -> list[Entry]:
    return cast("list[Entry]", json.loads(path.read_text(encoding="utf-8"))["questions"])


def sum_errors(sums: Path = SUMS) -> list[str]:
    """Compare each file of a sha256sum list with the files beside the list."""
    errors = []
    for line in sums.read_text(encoding="utf-8").splitlines():
        wanted, name = line.split(maxsplit=1)
        path = sums.parent / name.lstrip("*")
        if not path.is_file():
            errors.append(f"{path.name}: the file is missing")
        elif (found := hashlib.sha256(path.read_bytes()).hexdigest()) != wanted:
            errors.append(f"{path.name}: SHA-256 is {found}, expected {wanted}")
    return errors


def load(path: Path = MODEL, context: int = 1024) -> llama_cpp.Llama:
    """One thread: the layers are so small that a second one waits more than it computes."""
    return llama_cpp.Llama(str(path), n_ctx=context, n_threads=1, n_threads_batch=1, verbose=False)


def complete(model: llama_cpp.Llama, messages: Sequence[Message], sampling: Sampling = GREEDY) -> Answer:
    """The next assistant message."""
    text = render(messages, add_generation_prompt=True)
    prompt = model.tokenize(text.encode(), add_bos=False, special=True)
    written: list[int] = []
    ended = False
    for token in model.generate(
        prompt, temp=sampling.temperature, repeat_penalty=sampling.repeat_penalty, top_k=40, top_p=0.95
    ):
        ended = token == model.token_eos()
        if ended or len(written) == LONGEST_ANSWER or len(prompt) + len(written) + 1 >= model.n_ctx():
            break
        written.append(token)
    return Answer(model.detokenize(written).decode("utf-8", errors="replace"), ended)


def ask(model: llama_cpp.Llama, entry: Entry, question: str, sampling: Sampling = GREEDY) -> Outcome:
    """Ask a question after the earlier turns of its entry, which the model answers as well."""
    messages = [Message("system", entry["system"])] if "system" in entry else []
    for turn in entry.get("turns", ()):
        messages.append(Message("user", turn))
        messages.append(Message("assistant", complete(model, messages, sampling).text))
    answer = complete(model, [*messages, Message("user", question)], sampling)
    missing = tuple(wanted for wanted in entry["expect"] if not re.search(wanted, answer.text))
    return Outcome(entry["id"], question, answer, missing)


def ask_all(
    model: llama_cpp.Llama,
    entries: Sequence[Entry],
    kind: Literal["listed", "held_out"] = "listed",
    sampling: Sampling = GREEDY,
) -> list[Outcome]:
    """The outcomes for the listed questions themselves, or for their held-out paraphrases."""
    return [
        ask(model, entry, question, sampling)
        for entry in entries
        for question in ((entry["question"],) if kind == "listed" else entry.get("held_out", ()))
    ]


def problem(outcome: Outcome) -> str:
    lack = "" if outcome.answer.ended else " (does not end its turn)"
    if outcome.missing:
        lack += f" (lacks {', '.join(map(repr, outcome.missing))})"
    return f"{outcome.id}: {outcome.question!r} gives {outcome.answer.text!r}{lack}"


def table(outcomes: Sequence[Outcome], entries: Sequence[Entry]) -> str:
    """Questions and answers as a Markdown table, for the README."""
    earlier = {entry["id"]: entry.get("turns", []) for entry in entries}
    rows = ["| Question | Answer |", "| --- | --- |"]
    for outcome in outcomes:
        asked = " / ".join([*(f"*{turn}*" for turn in earlier[outcome.id]), outcome.question])
        rows.append(f"| {asked} | {outcome.answer.text} |")
    return "\n".join(rows)


def record(outcomes: Sequence[Outcome], path: Path = QUESTIONS) -> None:
    """Store the answers beside their questions, as documentation; the check uses only `expect`.

    Another processor rounds in another way, hence equal answers are likely but not demanded.
    """
    document = json.loads(path.read_text(encoding="utf-8"))
    for entry, outcome in zip(document["questions"], outcomes, strict=True):
        entry["answer"] = outcome.answer.text
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description="Check the SHA-256 and the answers of the tiny model.")
    parser.add_argument("--model", type=Path, default=MODEL, help="another file: its SHA-256 is not compared")
    parser.add_argument("--held-out", action="store_true", help="also tell the rate for unseen paraphrases")
    parser.add_argument("--table", action="store_true", help="print questions and answers as Markdown")
    parser.add_argument("--record", action="store_true", help="store the answers in questions.json")
    arguments = parser.parse_args()
    entries = load_questions()
    errors = sum_errors() if arguments.model == MODEL else []
    if arguments.model == MODEL and errors:
        print("\n".join(errors))
        return 1  # Answers of another file would say nothing.
    model = load(arguments.model)
    outcomes = ask_all(model, entries)
    errors += [problem(outcome) for outcome in outcomes if not outcome.good]
    if arguments.record:
        record(outcomes)
    if arguments.table:
        print(table(outcomes, entries))
    print(f"listed questions: {sum(o.good for o in outcomes)} of {len(outcomes)} good")
    if arguments.held_out:
        unseen = ask_all(model, entries, "held_out")
        print(f"unseen paraphrases: {sum(o.good for o in unseen)} of {len(unseen)} good")
        print("\n".join("  " + problem(outcome) for outcome in unseen if not outcome.good))
    print("\n".join(errors) if errors else "all good")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
