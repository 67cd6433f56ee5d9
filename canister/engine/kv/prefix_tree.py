"""Which of many token sequences begins most like a given one: a radix tree, with a node where sequences part or end.

A look-up follows one path from the root, so its time depends on the length of the sequence, not on the number of known
ones. Nothing here knows what a sequence stands for; it is called by a key.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from canister.engine.request import Flags, Tokens, common_prefix

Symbols = NDArray[np.int32]

K = TypeVar("K")


def symbols(tokens: Tokens, generated: Flags) -> Symbols:
    """One number for each position, equal where a token agrees in itself and in whether it was generated."""
    return tokens * np.int32(2) + generated


class _Node(Generic[K]):
    """label: the symbols from the parent to here. keys: of the sequences that end here.

    some: the key of a sequence that ends here or below. Ordered dictionaries: their first entry is found at once,
    whatever was removed before it.
    """

    __slots__ = ("children", "keys", "label", "parent", "some")

    def __init__(self, label: Symbols, parent: _Node[K] | None, some: K | None) -> None:
        self.label = label
        self.parent = parent
        self.some = some
        self.keys: OrderedDict[K, None] | None = None
        self.children: OrderedDict[int, _Node[K]] | None = None

    def adopt(self, child: _Node[K]) -> None:
        if self.children is None:
            self.children = OrderedDict()
        self.children[int(child.label[0])] = child
        child.parent = self


class PrefixTree(Generic[K]):
    """Sequences by key. For one thread at a time."""

    def __init__(self) -> None:
        self._root: _Node[K] = _Node(np.empty(0, np.int32), None, None)
        self._where: dict[K, _Node[K]] = {}

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, key: K) -> bool:
        return key in self._where

    def add(self, key: K, sequence: Symbols) -> None:
        """Know a sequence by this key, instead of its former one."""
        self.discard(key)
        node, n = self._reach(sequence)
        if n < len(sequence):
            leaf = _Node(sequence[n:].copy(), node, key)
            node.adopt(leaf)
            node = leaf
        if node.keys is None:
            node.keys = OrderedDict()
        node.keys[key] = None
        self._where[key] = node
        if self._root.some is None:
            self._root.some = key

    def discard(self, key: K) -> None:
        """Forget a sequence; nothing happens when it is not known."""
        node = self._where.pop(key, None)
        if node is None:
            return
        assert node.keys is not None
        del node.keys[key]
        if not node.keys:
            node.keys = None
            node = self._prune(node)
        above: _Node[K] | None = node
        while above is not None:
            if above.some == key:
                above.some = _some_of(above)
            above = above.parent

    def longest(self, sequence: Symbols, *, whole: bool = False) -> tuple[int, K] | None:
        """The largest number of leading symbols in which a known sequence agrees with this one, and the key of such a
        sequence.

        whole: count only known sequences that agree from beginning to end. None: not a single symbol agrees.
        """
        node, n = self._root, 0
        best: tuple[int, K] | None = None
        while n < len(sequence) and node.children is not None:
            child = node.children.get(int(sequence[n]))
            if child is None:
                break
            n_agreeing = common_prefix(child.label, sequence[n:])
            n += n_agreeing
            node = child
            is_reached = n_agreeing == len(child.label)
            if not whole:
                assert child.some is not None
                best = n, child.some
            elif is_reached and child.keys:
                best = n, next(iter(child.keys))
            if not is_reached:
                break
        return best

    def _reach(self, sequence: Symbols) -> tuple[_Node[K], int]:
        """The node where this sequence leaves the tree or ends in it, and how far they agree.

        The node is made where it lies within an edge.
        """
        node, n = self._root, 0
        while n < len(sequence) and node.children is not None:
            child = node.children.get(int(sequence[n]))
            if child is None:
                break
            n_agreeing = common_prefix(child.label, sequence[n:])
            n += n_agreeing
            if n_agreeing < len(child.label):
                return self._split(child, n_agreeing), n
            node = child
        return node, n

    def _split(self, node: _Node[K], at: int) -> _Node[K]:
        """A node within the edge that leads to this one."""
        assert node.parent is not None
        upper = _Node(node.label[:at].copy(), node.parent, node.some)
        node.parent.adopt(upper)
        node.label = node.label[at:].copy()
        upper.adopt(node)
        return upper

    def _prune(self, node: _Node[K]) -> _Node[K]:
        """Remove a node that no sequence needs any more, and its parents likewise. Returns the lowest node that is
        left.
        """
        parent = node.parent
        if parent is not None and not node.children:
            assert parent.children is not None
            del parent.children[int(node.label[0])]
            node, parent = parent, parent.parent
        if parent is None or node.keys or node.children is None or len(node.children) != 1:
            return node
        [child] = node.children.values()
        child.label = np.concatenate((node.label, child.label))
        parent.adopt(child)
        return child


def _some_of(node: _Node[K]) -> K | None:
    if node.keys:
        return next(iter(node.keys))
    return next(iter(node.children.values())).some if node.children else None
