"""The kind of hand-written topic, and how a topic is asked in many ways."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# Ways to ask what a thing is. `{x}` takes the thing with its article, as in "a canister".
DEFINITION_FRAMES = (
    "What is {x}?",
    "What is {x}?",
    "What is {x}?",
    "What's {x}?",
    "What exactly is {x}?",
    "What does {x} mean?",
    "What do you mean by {x}?",
    "What do you know about {x}?",
    "Explain {x}.",
    "Please explain {x}.",
    "Please explain what {x} is.",
    "Explain what {x} is.",
    "Can you explain {x}?",
    "Can you explain what {x} is?",
    "Can you tell me what {x} is?",
    "Could you tell me about {x}?",
    "Tell me about {x}.",
    "Tell me what {x} is.",
    "Tell me something about {x}.",
    "Define {x}.",
    "Describe {x}.",
    "Do you know what {x} is?",
    "I want to know what {x} is.",
    "I have heard of {x}. What is it?",
    "Help me understand {x}.",
    "And what is {x}?",
    "How would you explain {x}?",
    "Could you define {x}?",
    "Could you describe {x}?",
    "Would you explain {x} to me?",
    "Explain {x} to me, please.",
    "I do not understand {x}.",
    "I do not know what {x} is.",
    "Give me a definition of {x}.",
    "What should I know about {x}?",
    "Why is there {x}?",
    "Something about {x}, please.",
    "So what is {x}?",
    "{x}?",
)


@dataclass(frozen=True)
class Topic:
    """One answer, the questions that lead to it, and the nouns that fit DEFINITION_FRAMES."""

    id: str
    answer: str
    questions: tuple[str, ...] = ()
    nouns: tuple[str, ...] = ()

    def all_questions(self) -> tuple[str, ...]:
        framed = tuple(sentence(frame.format(x=noun)) for noun in self.nouns for frame in DEFINITION_FRAMES)
        # A hand-written question is worth several framed ones, otherwise long frames would drown them.
        return self.questions * (1 if not framed else 3) + framed


def words(text: str) -> tuple[str, ...]:
    """The words of a list that is written as one string, which is shorter and easier to read."""
    return tuple(text.split())


def sentence(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def by_id(topics: Iterable[Topic]) -> dict[str, Topic]:
    table: dict[str, Topic] = {}
    for topic in topics:
        if topic.id in table:
            raise ValueError(f"two topics are called {topic.id}")
        table[topic.id] = topic
    return table
