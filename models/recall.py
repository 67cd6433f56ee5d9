"""Recall lessons: things that the user says about himself or herself, and later asks for."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from models.names import any_name, synthetic_word
from models.topics import words

Pair = tuple[str, str]


@dataclass(frozen=True)
class Lesson:
    """One kind of thing to remember."""

    kind: str
    intros: tuple[str, ...]
    reply: str
    asks: tuple[str, ...]
    recall: str
    missing: str


NAME = Lesson(
    kind="name",
    intros=(
        "My name is {x}.", "My name is {x}.", "My name is {x}.", "Hello, my name is {x}.",
        "Hi, my name is {x}.",
        "Hello! My name is {x}.", "Hi! My name is {x}.", "I am {x}.", "Hello, I am {x}.", "Hi, I'm {x}.",
        "I'm {x}.",
        "Call me {x}.", "Please call me {x}.", "You can call me {x}.", "They call me {x}.", "My name's {x}.",
        "My friends call me {x}.", "Hey, {x} here.", "This is {x}.", "I am called {x}.",
        "Please remember my name: {x}.", "My name is {x}. Please remember it.", "My name is {x}",
        "Good morning, my name is {x}.", "my name is {x}",
        "My name is {x}. How are you?", "My name is {x}. I am new here.",
        "Hello, I am {x}. Nice to meet you.",
        "My first name is {x}.", "My mother called me {x}.", "The name is {x}.", "I go by the name of {x}.",
    ),
    reply="Nice to meet you, {x}!",
    asks=(
        "What is my name?", "What is my name?", "What is my name?", "What's my name?",
        "Do you remember my name?",
        "Do you know my name?", "Who am I?", "Tell me my name.", "What was my name?",
        "Can you tell me my name?",
        "What did I say my name was?", "And what is my name?", "Do you still know my name?", "Say my name.",
        "How am I called?", "What am I called?", "Please tell me my name.", "Now, what is my name?",
        "Have I told you my name?", "Did you forget my name?", "Could you say my name?",
        "What is the name that I told you?",
        "Have you forgotten my name?", "I told you my name. What is it?", "Who are you talking to?",
        "Who is talking to you?",
        "Can you still tell my name?", "Which name did I tell you?", "My name?", "Remember my name?",
    ),
    recall="Your name is {x}.",
    missing="You have not told me your name yet.",
)
COLOUR = Lesson(
    kind="colour",
    intros=(
        "My favourite colour is {x}.", "My favorite color is {x}.", "I like the colour {x} best.",
        "The colour that I like best is {x}.", "{x} is my favourite colour.",
    ),
    reply="I will remember that you like {x}.",
    asks=(
        "What is my favourite colour?", "What is my favorite color?", "Which colour do I like best?",
        "Do you remember my favourite colour?", "Tell me my favourite colour.", "What colour do I like?",
    ),
    recall="Your favourite colour is {x}.",
    missing="You have not told me your favourite colour yet.",
)
CITY = Lesson(
    kind="city",
    intros=("I live in {x}.", "I come from {x}.", "My home is in {x}.", "I am from {x}.",
            "I live in the city of {x}."),
    reply="{x} sounds like a good place to live.",
    asks=("Where do I live?", "Where do I come from?", "In which city do I live?",
          "Do you remember where I live?",
          "Tell me where I live.", "Where am I from?"),
    recall="You live in {x}.",
    missing="You have not told me where you live yet.",
)
PET = Lesson(
    kind="pet",
    intros=("My dog is called {x}.", "My cat is called {x}.", "I have a dog called {x}.",
            "I have a cat called {x}.",
            "The name of my pet is {x}.", "My pet is called {x}."),
    reply="{x} is a lovely name for a pet.",
    asks=("What is my pet called?", "What is the name of my pet?", "Do you remember the name of my pet?",
          "How is my pet called?", "What is my pet's name?"),
    recall="Your pet is called {x}.",
    missing="You have not told me about your pet yet.",
)
AGE = Lesson(
    kind="age",
    intros=("I am {x} years old.", "I'm {x} years old.", "My age is {x}."),
    reply="Thank you for telling me that you are {x}.",
    asks=("How old am I?", "What is my age?", "Do you remember how old I am?", "Tell me my age."),
    recall="You are {x} years old.",
    missing="You have not told me your age yet.",
)
LESSONS = (NAME, COLOUR, CITY, PET, AGE)
_WEIGHTS = (10.0, 2.5, 2.0, 2.0, 1.0)
_COLOURS = words(
    "red blue green yellow orange purple pink brown black white grey gold silver violet turquoise"
)


def thing_to_remember(lesson: Lesson, rng: Random) -> str:
    if lesson.kind == "colour":
        return rng.choice(_COLOURS) if rng.random() < 0.85 else synthetic_word(rng)
    if lesson.kind == "age":
        return str(rng.randint(4, 99))
    return any_name(rng)


def pick_lesson(rng: Random) -> Lesson:
    return rng.choices(LESSONS, weights=_WEIGHTS)[0]


def introduce(lesson: Lesson, thing: str, rng: Random) -> Pair:
    intro = rng.choice(lesson.intros).format(x=thing)
    return intro, lesson.reply.format(x=thing)


def ask(lesson: Lesson, thing: str | None, rng: Random) -> Pair:
    """The question, and the honest answer when the user never told the thing."""
    return rng.choice(lesson.asks), lesson.missing if thing is None else lesson.recall.format(x=thing)
