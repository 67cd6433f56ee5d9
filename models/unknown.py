"""Questions that the tiny model does not know, all with the same honest answer."""

from __future__ import annotations

from random import Random

from models.names import any_name, synthetic_word
from models.topics import words

ANSWER = "I am sorry, I do not know that. I am a very small model."

_FRAMES = (
    "Who won {event}?", "Who won {event} in {year}?", "Who is {name}?", "Who was {name}?",
    "Where does {name} live?",
    "How tall is {name}?", "When was {name} born?", "What did {name} say about {field}?",
    "How old is {name}?",
    "What is the population of {place}?", "How many people live in {place}?", "Where is {place}?",
    "How far is it from {place} to {place2}?", "Who is the president of {place}?", "Where can I buy {goods}?",
    "Explain {field}.", "Explain {field} to me.", "What is {field}?", "Tell me about {field}.",
    "How does {field} work?",
    "What do you think about {field}?", "Write a program in {code}.", "How do I write a loop in {code}?",
    "What is {word}?", "What does {word} mean?", "What is the meaning of {word}?",
    "Translate {word} into {tongue}.",
    "How do I say {goods} in {tongue}?", "What is the price of {goods}?", "How much does {goods} cost?",
    "What happened in {year}?", "What happened in {place} in {year}?", "Which film won a prize in {year}?",
    "What is {big} times {big2}?", "What is {big} divided by {big2}?", "What is the square root of {big}?",
    "Who wrote the book about {goods}?", "How do I repair {goods}?", "How do I cook {goods}?",
    "Who invented {goods}?",
    "Give me the news about {place}.", "What is my neighbour called?", "Do you know {name}?",
    "Who discovered {field}?",
    "Give me a recipe with {goods}.", "Which song is by {name}?", "When did the war in {place} end?",
    "What should I wear in {place}?", "What is the best {goods}?", "Can you show me a picture of {goods}?",
)
_EVENTS = (
    "the match", "the game yesterday", "the race", "the cup", "the election", "the chess game",
    "the last war",
    "the football match", "the prize", "the song contest", "the match yesterday", "the tennis match",
)
_FIELDS = (
    "quantum physics", "chemistry", "relativity", "economics", "philosophy", "biology", "algebra",
    "psychology",
    "the stock market", "politics", "religion", "photosynthesis", "medicine", "evolution", "gravity",
    "the theory of strings", "law", "taxes", "history", "geology", "black holes", "inflation", "genetics",
)
_GOODS = (
    "a lamp", "a soup", "shoes", "a telephone", "a ticket", "a violin", "gold", "a house", "rice", "a camera",
    "a washing machine", "potatoes", "a carpet", "paint", "medicine", "a hammer", "noodles", "a window",
    "oil",
)
_CODE = words("Python Rust Java C Haskell Motoko JavaScript Go Lisp")
_TONGUES = words("German French Latin Spanish Japanese Swahili Dutch Greek")


def unknown(rng: Random) -> tuple[str, str]:
    question = rng.choice(_FRAMES).format(
        event=rng.choice(_EVENTS),
        name=any_name(rng),
        place=synthetic_word(rng).capitalize(),
        place2=synthetic_word(rng).capitalize(),
        field=rng.choice(_FIELDS),
        goods=rng.choice(_GOODS),
        code=rng.choice(_CODE),
        tongue=rng.choice(_TONGUES),
        word=synthetic_word(rng),
        year=rng.randint(1200, 2030),
        big=rng.randint(13, 9999),
        big2=rng.randint(13, 999),
    )
    return question, ANSWER
