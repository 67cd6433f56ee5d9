"""Names for the recall lessons: a list of real ones, and synthetic ones without limit.

The synthetic names matter most: no list can hold them, so the network has to learn to copy a name
from the chat instead of learning names by heart.
"""

from __future__ import annotations

from random import Random

from models.topics import words

REAL_NAMES = words(
    """
    Adam Agnes Aisha Alan Albert Alexander Alice Amara Amir Andrea Andrew Angela Anita Anna Anton Arthur
    Astrid Aziz Barbara Beatrice Ben Benjamin Bernard Bianca Boris Brenda Brian Bruno Carla Carlos Caroline
    Cecilia
    Charles Charlotte Chen Chloe Chris Christina Claire Claudia Clara Colin Cora Daniel Daria David Deborah
    Denis Diana Diego Dora Doris Edgar Edith Eduardo Edward Elena Elias Elisa Elizabeth Ella Emil Emily Emma
    Eric Erika Ernest Esther Eva Fabian Fatima Felix Fiona Florian Frank Fred Frieda Gabriel George Gerald
    Gloria Grace Greta Gustav Hana Hannah Harold Harry Hassan Heidi Helen Henry Herbert Hiro Hugo Ian Ida Igor
    Ingrid Irene Iris Isaac Isabel Ivan Jack Jacob James Jane Jasmine Jason Jenny Jim Joan Johanna John Jonas
    Jorge Joseph Josephine Joy Juan Judith Julia Julian Karen Karl Kate Keiko Kenji Kevin Kim Kira Klara Kurt
    Lara Laura Lea Leila Leo Leonard Lily Lina Linda Lisa Liv Louis Louise Lucas Lucy Ludwig Luis Luna Magda
    Marco Margaret Maria Mark Marta Martin Mary Matteo Max Maya Mia Michael Mike Milan Mina Miriam Mohamed
    Monica Moritz Nadia Naomi Nathan Nele Nick Nicole Nina Noah Nora Olaf Oliver Olivia Omar Oscar Otto Pablo
    Paul Paula Pedro Peter Petra Philip Pia Priya Rachel Rafael Ralph Ravi Rebecca Richard Rita Robert Roman
    Rosa Ruby Rudolf Ruth Ryan Sally Sam Samuel Sandra Sara Sarah Sebastian Silvia Simon Sofia Sonja Stefan
    Stella Steven Susan Sven Tamara Tanja Thomas Tim Tina Tobias Tom Uma Ursula Valentina Vera Victor Vincent
    Viola Walter Wanda Wendy William Xenia Yara Yasmin Yoko Yuki Yusuf Zara Zoe
    """
)

# Never in the training text, real or by chance: the check asks for names from this list.
HELD_OUT_NAMES = (
    "Bartholomew", "Calliope", "Dmitri", "Evangeline", "Ferdinand", "Gwendolyn", "Horatio", "Imogen",
    "Jedediah", "Katarzyna", "Leopold", "Marigold", "Nikolai", "Ophelia", "Penelope", "Quentin", "Rosalind",
    "Svetlana", "Thaddeus", "Ulrich", "Violet", "Winifred", "Xavier", "Yvonne", "Zelda", "Zorblax", "Kimbra",
    "Tundo", "Vexira", "Olmar",
)

_ONSETS = words(
    "b c d f g h j k l m n p r s t v w z br ch cl cr dr fl fr gl gr kl kr pl pr qu sch sh sk sl sm sn sp"
    " st str sw"
    " th tr tw vl wr x y"
)
_VOWELS = words("a a a e e e i i o o u ai au ea ee ei ia ie io oa oo ou y")
_CODAS = words("b ck d f g k l ll m n n n nd ng nn p r r rd rk rn s ss st t tt v x z th sh")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def synthetic_word(rng: Random) -> str:
    """A lower-case word of one to four made-up syllables, or sometimes of plain random letters."""
    while True:
        if rng.random() < 0.12:
            word = "".join(rng.choice(_LETTERS) for _ in range(rng.randint(3, 9)))
        else:
            parts: list[str] = []
            for _ in range(rng.choices((1, 2, 3, 4), weights=(2, 6, 4, 1))[0]):
                if rng.random() < 0.88:
                    parts.append(rng.choice(_ONSETS))
                parts.append(rng.choice(_VOWELS))
                if rng.random() < 0.35:
                    parts.append(rng.choice(_CODAS))
            word = "".join(parts)
        if 3 <= len(word) <= 14 and word.capitalize() not in HELD_OUT_NAMES:
            return word


def any_name(rng: Random) -> str:
    """A name to be learnt by copying: mostly made-up, sometimes with two parts."""
    if rng.random() < 0.3:
        return rng.choice(REAL_NAMES)
    name = synthetic_word(rng).capitalize()
    return f"{name} {synthetic_word(rng).capitalize()}" if rng.random() < 0.04 else name
