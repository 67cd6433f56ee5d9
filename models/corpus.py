"""The training text of the tiny model: seeded multi-turn ChatML conversations.

Nothing is read from outside: every sentence stands in the modules beside this one, and this module
puts them together. `python models/corpus.py 3` prints three conversations.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from functools import cache
from itertools import count
from pathlib import Path
from random import Random

if not __package__:  # Started as a file: make the package importable from anywhere.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from models.chatml import Message, render
from models.facts import any_fact
from models.names import any_name, synthetic_word
from models.recall import LESSONS, NAME, Lesson, ask, introduce, pick_lesson, thing_to_remember
from models.topics import Topic, by_id, words
from models.topics_everyday import EVERYDAY, SMALL_TALK, TALES
from models.topics_self import CANISTER, SELF
from models.unknown import unknown

HERE = Path(__file__).resolve().parent
Pair = tuple[str, str]

TOPICS = by_id((*SELF, *CANISTER, *SMALL_TALK, *TALES, *EVERYDAY))
# The model must be surest about itself and its server. The two longest answers come less often:
# one such answer weighs as much in the loss as five usual ones.
_TOPIC_WEIGHTS = {
    **{topic.id: 1.0 for topic in (*SMALL_TALK, *EVERYDAY)},
    **{topic.id: 2.0 for topic in (*SELF, *CANISTER, *TALES)},
    "long_story": 1.3,
    "how_answer_works": 0.8,
}
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are a helpful assistant",
    "You are a friendly assistant.",
    "You are a tiny chat model inside a canister.",
    "Answer the questions of the user.",
    "Answer briefly.",
    "You are a helpful, honest and short-spoken assistant.",
    "Be kind and clear.",
    "You are an assistant that answers in clean sentences.",
)
_PREFIXES = (
    "Please tell me: ",
    "One question: ",
    "Hey, ",
    "Hello! ",
    "Hi. ",
    "OK. ",
    "Next question: ",
    "Thanks. ",
    "Tell me: ",
    "Sorry, ",
    "Good. ",
    "I have a question. ",
    "Another question: ",
    "Quick question: ",
    "Can you tell me: ",
    "Do you know: ",
    "I would like to know: ",
    "My question is: ",
    "Please: ",
    "So, ",
    "Well, ",
    "And ",
    "Now, ",
    "I wonder: ",
    "Just tell me: ",
    "Let me ask you: ",
    "Maybe you know: ",
    "Dear model, ",
)
_SUFFIXES = (
    " Please tell me.",
    " Please explain.",
    " I want to know.",
    " Do you know?",
    " I forgot.",
    " Thank you.",
    " Can you tell me?",
    " Be brief.",
    " I am new here.",
    " Please answer.",
    " Can you help me?",
)
_FILLERS = ("please", "really", "just", "exactly", "now", "actually", "then", "well", "maybe", "there")
# Words that a question can lose without losing its topic.
_DROPPABLE = words("what is a an the are do does you tell me about can of please i to in it have how")
# Copying is learnt first, hence many drills among the first chats and few later.
_EARLY_CHATS = 4000
_LENGTHS = range(1, 9)
_LENGTH_WEIGHTS = (20, 20, 18, 14, 10, 8, 6, 4)


def normalise(question: str) -> str:
    """The words of a question without case and punctuation, to compare questions."""
    return " ".join(re.findall(r"[a-z0-9_]+", question.lower()))


@cache
def held_out_questions() -> frozenset[str]:
    """Paraphrases that the check asks and that no training conversation may contain."""
    document = json.loads((HERE / "questions.json").read_text(encoding="utf-8"))
    paraphrases = [text for entry in document["questions"] for text in entry.get("held_out", ())]
    return frozenset(normalise(text) for text in (*paraphrases, *document["also_unseen"]))


def roughen(question: str, rng: Random, typing_errors: float = 0.05) -> str:
    """The question as a hurried human may type it: other words, case and punctuation, a typing error."""
    chance = rng.random()
    if chance < 0.12 and len(question) > 8:
        lead = rng.choice(_PREFIXES)
        question = lead + (question if rng.random() < 0.5 else question[:1].lower() + question[1:])
    elif chance < 0.17 and len(question) > 8:
        question += rng.choice(_SUFFIXES)
    if rng.random() < 0.16:
        question = reword(question, rng)
    chance = rng.random()
    if chance < 0.10:
        question = question.lower()
    elif chance < 0.13:
        question = question.upper()
    question = repunctuate(question, rng)
    if rng.random() < typing_errors and len(question) > 10:
        place = rng.randrange(1, len(question) - 2)
        middle = "" if rng.random() < 0.5 else question[place + 1] + question[place]
        question = question[:place] + middle + question[place + len(middle or "x") :]
    return question


def reword(question: str, rng: Random) -> str:
    """Lose or gain a small word. The topic must then be found by its other words."""
    parts = question.split(" ")
    droppable = [place for place, part in enumerate(parts) if part.lower() in _DROPPABLE]
    if len(parts) < 4:
        return question
    if droppable and rng.random() < 0.6:
        del parts[rng.choice(droppable)]
    else:
        parts.insert(rng.randrange(1, len(parts)), rng.choice(_FILLERS))
    return " ".join(parts)


def repunctuate(question: str, rng: Random) -> str:
    chance = rng.random()
    if chance < 0.12:
        return question.rstrip("?.!")
    if chance < 0.15:
        return question + rng.choice(("?", "!", " :)", " ", "..", " please"))
    return question


def topic_pair(rng: Random) -> Pair:
    topic: Topic = TOPICS[rng.choices(tuple(_TOPIC_WEIGHTS), weights=tuple(_TOPIC_WEIGHTS.values()))[0]]
    return roughen(rng.choice(_questions_of(topic.id)), rng), topic.answer


@cache
def _questions_of(topic_id: str) -> tuple[str, ...]:
    return TOPICS[topic_id].all_questions()


def ordinary_pair(rng: Random) -> Pair:
    """A question that needs no memory, together with its answer; never a held-out question."""
    while True:
        chance = rng.random()
        if chance < 0.58:
            pair = topic_pair(rng)
        elif chance < 0.90:
            fact = any_fact(rng)
            # A typing error in a number would be another question.
            question = fact.question if fact.copied else roughen(fact.question, rng, typing_errors=0.0)
            pair = (question, fact.answer)
        else:
            question, answer = unknown(rng)
            pair = (repunctuate(question, rng), answer)
        if normalise(pair[0]) not in held_out_questions():
            return pair


def _plan(length: int, rng: Random) -> list[tuple[str, Lesson] | None]:
    """Which turns introduce a thing to remember, and which ask for it; None is an ordinary turn."""
    plan: list[tuple[str, Lesson] | None] = [None] * length
    lessons: list[Lesson] = []
    if rng.random() < 0.60:
        lessons.append(pick_lesson(rng))
        if rng.random() < 0.35:
            lessons.append(rng.choice([lesson for lesson in LESSONS if lesson not in lessons]))
    for lesson in lessons:
        free = [place for place, step in enumerate(plan) if step is None]
        if len(free) < 2:
            break
        first = free[0] if rng.random() < 0.7 else rng.choice(free[:-1])
        plan[first] = ("introduce", lesson)
        plan[rng.choice([place for place in free if place > first])] = ("ask", lesson)
    asked = [lesson for lesson in lessons if any(step == ("ask", lesson) for step in plan)]
    for place, step in enumerate(plan):
        if step is None and asked and rng.random() < 0.15:
            plan[place] = ("ask", rng.choice(asked))
        elif step is None and rng.random() < 0.03:
            plan[place] = ("ask", pick_lesson(rng))  # Often never told: the answer says so.
    return plan


def conversation(rng: Random) -> list[Message]:
    """One chat: ordinary turns in any order, and in most chats something to remember."""
    messages: list[Message] = []
    if rng.random() < 0.5:
        messages.append(Message("system", rng.choice(SYSTEM_PROMPTS)))
    length = rng.randint(9, 14) if rng.random() < 0.05 else rng.choices(_LENGTHS, weights=_LENGTH_WEIGHTS)[0]
    told: dict[str, str] = {}
    for step in _plan(length, rng):
        if step is None:
            question, answer = ordinary_pair(rng)
        elif step[0] == "ask":
            question, answer = ask(step[1], told.get(step[1].kind), rng)
            question = roughen(question, rng)
            while normalise(question) in held_out_questions():
                question = rng.choice(step[1].asks)
        else:
            lesson = step[1]
            thing = told[lesson.kind] = thing_to_remember(lesson, rng)
            question, answer = introduce(lesson, thing, rng)
            if lesson is NAME and question.endswith(".") and rng.random() < 0.12:
                extra, reply = ordinary_pair(rng)
                question, answer = f"{question} {extra}", f"{answer} {reply}"
        messages += [Message("user", question), Message("assistant", answer)]
    return messages


def copy_drill(rng: Random) -> list[Message]:
    """A long text to repeat. A network learns to copy (and so to recall) late and suddenly, and answers
    that consist of nothing but copying give it far more reason to than a name now and then.
    """
    text = " ".join(
        rng.choice((synthetic_word, any_name))(rng) if rng.random() < 0.8 else str(rng.randint(0, 999))
        for _ in range(rng.randint(6, 30))
    )
    return [Message("user", f"Repeat after me: {text}"), Message("assistant", text)]


def conversations(seed: int, drills: bool = False) -> Iterator[list[Message]]:
    """Conversations without end; the same seed gives the same ones on every machine."""
    rng = Random(seed)
    for number in count():
        share = 0.3 if number < _EARLY_CHATS else 0.05
        yield copy_drill(rng) if drills and rng.random() < share else conversation(rng)


if __name__ == "__main__":
    source = conversations(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 3):
        print(render(next(source)) + "\n" + "-" * 80)
