"""How many ways a grammar has, told from its text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canister.engine.sampling.gbnf_ways import most_pairs
from canister.engine.sampling.grammars import MAX_PAIRS

JSON = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ([^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}))* "\"" ws # with escapes
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws     ::= | " " | "\n" [ \t]{0,20}
"""


@pytest.mark.parametrize(
    ("grammar", "n"),
    [
        ('root ::= "a"', 0),
        ('root ::= "a" "b"', 1),
        ('root ::= "a"? "b"? "c"?', 3),  # a b, a c, b c
        ('root ::= ("a" | "b")*', 4),
        ('root ::= ("a" | "b")+', 4),
        ('root ::= ("a" | "b"){2,3}', 4),
        ('root ::= ("a" | "b"){0,1}', 0),
        ('root ::= ("a" | "b"){0} "c" "d"', 1),
        ('root ::= x x\nx ::= "a"? "b"?', 6),  # a b, a a, a b, b a, b b, and a b of the second
        ('root ::= "x" root | "y"', 2),  # back to the rule itself
        ("root ::= <think> !<[1]> .", 1),
        ('root ::= "?*(|" [?*(|\\]] # ?*(|', 1),  # what stands for itself
    ],
)
def test_pairs(grammar: str, n: int) -> None:
    assert most_pairs(grammar) == n


def test_usual_grammars_have_few() -> None:
    assert most_pairs(JSON) < 100
    words = " | ".join(f'"word {i}"' for i in range(10_000))
    assert most_pairs(f"root ::= {words}") < 100
    assert most_pairs(f"root ::= ( ({words}) [ .,] )*") < MAX_PAIRS


def test_a_long_chain_of_rules() -> None:
    chain = "\n".join(f"x{i} ::= x{i + 1}" for i in range(10_000))
    assert most_pairs(f'root ::= x0\n{chain}\nx10000 ::= "a"? "b"?') == 1


@given(st.text(st.sampled_from('abroot-:=()|?*+{}0,9"[]\\.<>!# \n'), max_size=60))
def test_any_text_is_read(text: str) -> None:
    assert most_pairs(text) >= 0
