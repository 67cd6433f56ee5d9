"""Families of small facts: tables, frames to ask for them, and one answer sentence each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from models.names import any_name, synthetic_word
from models.topics import sentence, words

Pair = tuple[str, str]
Family = Callable[[Random], Pair]


def _table(text: str) -> dict[str, str]:
    """A table that is written as `key=value;key=value`."""
    return {key: value for key, _, value in (pair.partition("=") for pair in text.split(";"))}


CAPITALS = _table(
    "France=Paris;Germany=Berlin;Italy=Rome;Spain=Madrid;Portugal=Lisbon;England=London;Ireland=Dublin;"
    "Scotland=Edinburgh;Norway=Oslo;Sweden=Stockholm;Denmark=Copenhagen;Finland=Helsinki;Poland=Warsaw;"
    "Austria=Vienna;Switzerland=Bern;Belgium=Brussels;Greece=Athens;Hungary=Budapest;Russia=Moscow;"
    "Turkey=Ankara;Egypt=Cairo;Kenya=Nairobi;Japan=Tokyo;China=Beijing;India=New Delhi;Australia=Canberra;"
    "Canada=Ottawa;Mexico=Mexico City;Brazil=Brasilia;Argentina=Buenos Aires;Chile=Santiago;Peru=Lima;"
    "Cuba=Havana;Iceland=Reykjavik;Ukraine=Kyiv;Romania=Bucharest;Bulgaria=Sofia;Croatia=Zagreb;"
    "Thailand=Bangkok;South Korea=Seoul;Nepal=Kathmandu;Morocco=Rabat"
)
COUNTRY_OF = {city: country for country, city in CAPITALS.items()}
CAPITAL_FRAMES = (
    "What is the capital of {x}?", "What is the capital of {x}?", "What is the capital of {x}?",
    "What's the capital of {x}?", "Which city is the capital of {x}?", "Tell me the capital of {x}.",
    "Do you know the capital of {x}?", "Name the capital of {x}.", "And the capital of {x}?",
    "What is {x}'s capital?", "Capital of {x}?", "I want to know the capital of {x}.",
)

LANGUAGES = _table(
    "France=French;Germany=German;Italy=Italian;Spain=Spanish;Portugal=Portuguese;England=English;"
    "Sweden=Swedish;Norway=Norwegian;Denmark=Danish;Poland=Polish;Austria=German;Greece=Greek;Russia=Russian;"
    "Turkey=Turkish;Japan=Japanese;China=Chinese;Brazil=Portuguese;Mexico=Spanish;Hungary=Hungarian"
)
COLOURS = {
    "sky": "blue", "grass": "green", "snow": "white", "blood": "red", "coal": "black", "milk": "white",
    "sea": "blue", "sun": "yellow", "banana": "yellow", "lemon": "yellow", "tomato": "red",
    "strawberry": "red",
    "carrot": "orange", "orange": "orange", "night": "black", "cucumber": "green", "chocolate": "brown",
    "earth": "brown", "elephant": "grey", "frog": "green", "cherry": "red", "leaf": "green", "plum": "purple",
}
COLOUR_FRAMES = (
    "What {c} is {x}?", "What {c} is {x}?", "What {c} is {x}?", "Which {c} is {x}?",
    "What {c} does {x} have?",
    "Which {c} does {x} have?", "Tell me the {c} of {x}.", "What is the {c} of {x}?",
    "Do you know what {c} {x} is?", "And what {c} is {x}?",
)
NO_ARTICLE = {"grass", "snow", "blood", "coal", "milk", "chocolate"}
ARTICLE_THE = {"sky", "sea", "sun", "night", "earth"}

SOUNDS = {
    "cat": "meow", "dog": "woof", "cow": "moo", "duck": "quack", "sheep": "baa", "pig": "oink",
    "horse": "neigh",
    "bird": "tweet", "frog": "croak", "bee": "buzz", "lion": "roar", "mouse": "squeak", "hen": "cluck",
}
SOUND_FRAMES = (
    "What does {x} say?", "What sound does {x} make?", "Which sound does {x} make?", "How does {x} sound?",
    "What noise does {x} make?", "And what does {x} say?",
)
LEGS = {
    "spider": "eight", "cat": "four", "dog": "four", "cow": "four", "horse": "four", "bird": "two",
    "hen": "two",
    "ant": "six", "bee": "six", "fly": "six", "beetle": "six", "llama": "four", "mouse": "four",
    "frog": "four",
    "fish": "no", "snake": "no", "human": "two", "duck": "two",
}
LEG_FRAMES = (
    "How many legs does {x} have?", "How many legs does {x} have?", "How many legs has {x}?",
    "Do you know how many legs {x} has?", "How many feet does {x} have?", "Has {x} many legs?",
    "And how many legs does {x} have?",
    "Tell me how many legs {x} has.",
)
BABIES = {
    "cat": "kitten", "dog": "puppy", "cow": "calf", "horse": "foal", "sheep": "lamb", "pig": "piglet",
    "hen": "chick", "duck": "duckling", "lion": "cub", "frog": "tadpole", "goat": "kid", "llama": "cria",
}
OPPOSITES = (
    "hot cold,big small,day night,good bad,fast slow,up down,left right,black white,old young,open closed,"
    "happy sad,light dark,high low,long short,wet dry,full empty,early late,hard soft,rich poor,loud quiet,"
    "strong weak,near far,clean dirty,summer winter,love hate,yes no,front back,inside outside,first last"
)
OPPOSITE_OF = {a: b for pair in OPPOSITES.split(",") for a, b in (words(pair), words(pair)[::-1])}
OPPOSITE_FRAMES = (
    "What is the opposite of {x}?", "What is the opposite of {x}?", "Opposite of {x}?",
    "What's the opposite of {x}?",
    "Tell me the opposite of {x}.", "Which word is the opposite of {x}?", "And the opposite of {x}?",
)
DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = words(
    "January February March April May June July August September October November December"
)
SIDES = {"triangle": "three", "square": "four", "rectangle": "four", "pentagon": "five", "hexagon": "six"}
NUMBERS = words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    " seventeen eighteen nineteen twenty"
)
THINGS = words(
    "cats dogs tea coffee pizza music books football chess apples rain snow summer winter flowers llamas"
    " trains"
    " bicycles bread cheese chocolate mountains swimming dancing painting games stories cake horses birds"
    " stars"
)
HEROES = words("cat dog fox bear mouse bird frog horse dragon robot rabbit wolf lion duck pig snail fish"
" cow owl bee")


def with_article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def capital(rng: Random) -> Pair:
    country = "France" if rng.random() < 0.08 else rng.choice(tuple(CAPITALS))
    return rng.choice(CAPITAL_FRAMES).format(x=country), f"The capital of {country} is {CAPITALS[country]}."


def country_of(rng: Random) -> Pair:
    city = rng.choice(tuple(COUNTRY_OF))
    frame = rng.choice(("Where is {x}?", "In which country is {x}?", "Which country is {x} in?"))
    return frame.format(x=city), f"{city} is the capital of {COUNTRY_OF[city]}."


def spoken(rng: Random) -> Pair:
    country = rng.choice(tuple(LANGUAGES))
    frame = rng.choice(
        ("What language do people speak in {x}?", "Which language is spoken in {x}?",
         "What do people speak in {x}?", "What is the language of {x}?")
    )
    return frame.format(x=country), f"People in {country} speak {LANGUAGES[country]}."


def colour(rng: Random) -> Pair:
    noun = "sky" if rng.random() < 0.12 else rng.choice(tuple(COLOURS))
    thing = with_article(noun)
    if noun in NO_ARTICLE or noun in ARTICLE_THE:
        thing = noun if noun in NO_ARTICLE else f"the {noun}"
    word = rng.choice(("colour", "colour", "color"))
    return rng.choice(COLOUR_FRAMES).format(x=thing, c=word), f"{sentence(thing)} is {COLOURS[noun]}."


def sound(rng: Random) -> Pair:
    animal = rng.choice(tuple(SOUNDS))
    thing = with_article(animal)
    return rng.choice(SOUND_FRAMES).format(x=thing), f"{sentence(thing)} says {SOUNDS[animal]}."


def legs(rng: Random) -> Pair:
    animal = rng.choice(tuple(LEGS))
    thing = with_article(animal)
    return rng.choice(LEG_FRAMES).format(x=thing), f"{sentence(thing)} has {LEGS[animal]} legs."


def baby(rng: Random) -> Pair:
    animal = rng.choice(tuple(BABIES))
    frame = rng.choice(
        ("What is a baby {x} called?", "What do you call a baby {x}?", "What is the name for a young {x}?",
         "How do you call a young {x}?")
    )
    return frame.format(x=animal), f"A baby {animal} is called a {BABIES[animal]}."


def opposite(rng: Random) -> Pair:
    word = rng.choice(tuple(OPPOSITE_OF))
    return rng.choice(OPPOSITE_FRAMES).format(x=word), f"The opposite of {word} is {OPPOSITE_OF[word]}."


def neighbour(rng: Random) -> Pair:
    cycle, kind = (DAYS, "day") if rng.random() < 0.6 else (MONTHS, "month")
    place = rng.randrange(len(cycle))
    step, word = rng.choice(((1, "after"), (-1, "before")))
    frame = rng.choice(
        ("What {k} comes {w} {x}?", "Which {k} comes {w} {x}?", "What comes {w} {x}?",
         "Which {k} is {w} {x}?")
    )
    here, there = cycle[place], cycle[(place + step) % len(cycle)]
    return frame.format(k=kind, w=word, x=here), f"{there} comes {word} {here}."


def arithmetic(rng: Random) -> Pair:
    a, b = rng.randint(0, 10), rng.randint(0, 10)
    plus = rng.random() < 0.65
    if not plus and b > a:
        a, b = b, a
    word = "plus" if plus else "minus"
    sign = "+" if plus else "-"
    if rng.random() < 0.5:
        left, op, right = (NUMBERS[a], word, NUMBERS[b])
    else:
        left, op, right = (str(a), rng.choice((word, sign)), str(b))
    frame = rng.choice(
        ("What is {q}?", "What is {q}?", "How much is {q}?", "{q}", "{q}?", "Calculate {q}.", "What's {q}?")
    )
    result = a + b if plus else a - b
    return sentence(frame.format(q=f"{left} {op} {right}")), f"{a} {word} {b} is {result}."


def counting(rng: Random) -> Pair:
    end = rng.randint(3, 12)
    word = NUMBERS[end] if rng.random() < 0.6 else str(end)
    frame = rng.choice(("Count to {x}.", "Count from one to {x}.", "Can you count to {x}?",
    "Please count to {x}."))
    return frame.format(x=word), sentence(", ".join(NUMBERS[1 : end + 1])) + "."


def sides(rng: Random) -> Pair:
    shape = rng.choice(tuple(SIDES))
    frame = rng.choice(
        ("How many sides does a {x} have?", "What is a {x}?", "How many corners does a {x} have?")
    )
    return frame.format(x=shape), f"A {shape} is a shape with {SIDES[shape]} sides."


def repeat(rng: Random) -> Pair:
    """Plain copying: it teaches the network to look back, which recalling a name needs."""
    if rng.random() < 0.7:
        text = " ".join(
            rng.choice((synthetic_word(rng), rng.choice(THINGS), any_name(rng)))
            for _ in range(rng.randint(1, 4))
        )
    else:
        text = str(rng.randint(0, 9999))
    frame = rng.choice(("Repeat after me: {x}", "Say {x}", "Repeat: {x}", "Please say {x}", "Write {x}",
    "Repeat {x}"))
    return frame.format(x=text), text


def liking(rng: Random) -> Pair:
    thing = rng.choice(THINGS) if rng.random() < 0.6 else synthetic_word(rng)
    frame = rng.choice(("I like {x}.", "I love {x}.", "I like {x} very much.", "My hobby is {x}.",
    "I enjoy {x}."))
    return frame.format(x=thing), f"That is nice! What do you like about {thing}?"


def hero_story(rng: Random) -> Pair:
    hero = rng.choice(HEROES)
    thing = with_article(hero)
    frame = rng.choice(
        ("Tell me a story about {x}.", "Tell me a short story about {x}.", "Write a story about {x}.",
         "Do you know a story about {x}?", "I want a story about {x}.")
    )
    return frame.format(x=thing), (
        f"Once there was {thing} who could not sleep. The {hero} went out into the garden and looked at"
        " the moon."
        f" \"You are awake too,\" said the moon. They talked until the morning, and after that the {hero} was"
        " never lonely again."
    )


FAMILIES: tuple[tuple[Family, float], ...] = (
    (capital, 3.0), (country_of, 0.7), (spoken, 1.0), (colour, 2.0), (sound, 1.0), (legs, 1.5), (baby, 0.7),
    (opposite, 1.6), (neighbour, 1.5), (arithmetic, 3.0), (counting, 0.7), (sides, 0.4), (repeat, 2.5),
    (liking, 1.0), (hero_story, 1.0),
)


# Their answers repeat the user's own words, so nobody may change the question afterwards.
_COPYING: frozenset[Family] = frozenset((repeat, liking))


@dataclass(frozen=True)
class Fact:
    """A question with its answer; `copied` says that the answer repeats letters of the question."""

    question: str
    answer: str
    copied: bool


def any_fact(rng: Random) -> Fact:
    families, weights = zip(*FAMILIES, strict=True)
    family: Family = rng.choices(families, weights=weights)[0]
    return Fact(*family(rng), copied=family in _COPYING)
