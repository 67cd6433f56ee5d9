"""The tree of token sequences answers as somebody does who compares the prompt with every one of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canister.engine.kv import prefix_tree
from canister.engine.kv.prefix_tree import PrefixTree, Symbols, _Node, symbols
from canister.engine.request import common_prefix, n_common

Sequence = tuple[list[int], list[bool]]

# Few different tokens, so that sequences have beginnings in common, and some continue others.
sequences = st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=8).map(
    lambda pairs: ([token for token, _ in pairs], [generated for _, generated in pairs])
)
acts = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 9), sequences),
        st.tuples(st.just("go on"), st.integers(0, 9), sequences),
        st.tuples(st.just("discard"), st.integers(0, 9), st.just(([], []))),
    ),
    max_size=50,
)


def arrays(sequence: Sequence) -> tuple[np.ndarray, np.ndarray]:
    return np.array(sequence[0], np.int32), np.array(sequence[1], np.bool_)


def agreeing(a: Sequence, b: Sequence) -> int:
    return n_common(*arrays(a), *arrays(b))


@settings(max_examples=300, deadline=None)
@given(acts, st.lists(sequences, min_size=1, max_size=6))
def test_it_answers_as_a_comparison_with_all(play: list[tuple[str, int, Sequence]], asked: list[Sequence]) -> None:
    tree: PrefixTree[int] = PrefixTree()
    known: dict[int, Sequence] = {}
    for act, key, sequence in play:
        if act == "discard":
            tree.discard(key)
            known.pop(key, None)
        else:
            before = known.get(key, ([], [])) if act == "go on" else ([], [])
            known[key] = before[0] + sequence[0], before[1] + sequence[1]
            tree.add(key, symbols(*arrays(known[key])))
        check(tree, known)
        for wanted in [*asked, *known.values()]:
            expect(tree, known, wanted)


def expect(tree: PrefixTree[int], known: dict[int, Sequence], wanted: Sequence) -> None:
    common = {key: agreeing(sequence, wanted) for key, sequence in known.items()}
    found = tree.longest(symbols(*arrays(wanted)))
    assert (0 if found is None else found[0]) == max(common.values(), default=0)
    if found is not None:
        assert common[found[1]] == found[0] > 0
    whole = {key: n for key, n in common.items() if n == len(known[key][0])}
    found = tree.longest(symbols(*arrays(wanted)), whole=True)
    assert (0 if found is None else found[0]) == max(whole.values(), default=0)
    if found is not None:
        assert whole[found[1]] == found[0] > 0


def check(tree: PrefixTree[int], known: dict[int, Sequence]) -> None:
    """A node is where sequences end or part, and names one of those below it: nothing is left of those that went."""
    assert set(tree._where) == set(known)
    assert len(tree) == len(known)
    held: dict[int, Symbols] = {}

    def look(node: _Node[int], above: Symbols) -> set[int]:
        sequence = np.concatenate((above, node.label))
        keys = set(node.keys or ())
        held.update(dict.fromkeys(keys, sequence))
        children = dict(node.children or {})
        assert node is tree._root or len(keys) + len(children) > 1 or keys
        for symbol, child in children.items():
            assert child.parent is node
            assert len(child.label)
            assert child.label[0] == symbol
            keys |= look(child, sequence)
        assert node.some in keys if keys else node.some is None
        return keys

    look(tree._root, np.empty(0, np.int32))
    assert {key: [*map(int, sequence)] for key, sequence in held.items()} == {
        key: [*map(int, symbols(*arrays(sequence)))] for key, sequence in known.items()
    }


@pytest.mark.parametrize("n_known", [1, 100, 5000])
def test_a_look_up_compares_the_prompt_once_however_many_are_known(
    n_known: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They part from the prompt everywhere, and many have the same beginning."""
    rng = np.random.default_rng(1)
    flags = np.zeros(64, np.bool_)
    prompt = symbols(np.arange(64, dtype=np.int32), flags)
    tree: PrefixTree[int] = PrefixTree()
    for key in range(n_known):
        other = prompt.copy()
        other[key % 63 + 1 :] = rng.integers(1000, 1 << 20, 63 - key % 63)
        tree.add(key, other)
    n_compared = 0

    def count(a: Symbols, b: Symbols) -> int:
        nonlocal n_compared
        n_compared += min(len(a), len(b))
        return common_prefix(a, b)

    monkeypatch.setattr(prefix_tree, "common_prefix", count)
    found = tree.longest(prompt)
    assert found == (min(n_known, 63), found[1] if found else None)
    assert n_compared <= 2 * len(prompt)
