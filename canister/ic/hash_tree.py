"""Hash trees: the content of a certificate, as a Merkle tree of labels and leaves. Pure functions, no I/O.

In CBOR a node is `[0]`, `[1, left, right]`, `[2, label, tree]`, `[3, bytes]` or, cut off, `[4, hash]`.
Source: IC interface specification, "Certification".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from canister.ic.cbor import Encodable

HASH_BYTES = 32

Content = bytes | Mapping[bytes, "Content"]
"""What a tree is made of: a leaf, or subtrees by their labels."""


class TreeError(ValueError):
    """A value that is no hash tree, or a path that ends in another kind of node."""


@dataclass(frozen=True, slots=True)
class Empty:
    pass


@dataclass(frozen=True, slots=True)
class Fork:
    left: Tree
    right: Tree


@dataclass(frozen=True, slots=True)
class Labeled:
    label: bytes
    tree: Tree


@dataclass(frozen=True, slots=True)
class Leaf:
    value: bytes


@dataclass(frozen=True, slots=True)
class Pruned:
    """A subtree of which only the hash is given."""

    digest: bytes


Tree = Empty | Fork | Labeled | Leaf | Pruned


def build(content: Content) -> Tree:
    """The tree of this content, with sorted labels and of the least depth."""
    if isinstance(content, bytes):
        return Leaf(content)
    return _balanced([Labeled(label, build(content[label])) for label in sorted(content)])


def digest(tree: Tree) -> bytes:
    """The root hash, 32 bytes."""
    match tree:
        case Empty():
            return _hash("empty")
        case Fork(left, right):
            return _hash("fork", digest(left), digest(right))
        case Labeled(label, inner):
            return _hash("labeled", label, digest(inner))
        case Leaf(value):
            return _hash("leaf", value)
        case Pruned(known):
            return known


def to_value(tree: Tree) -> Encodable:
    """The tree as a value for CBOR."""
    match tree:
        case Empty():
            return [0]
        case Fork(left, right):
            return [1, to_value(left), to_value(right)]
        case Labeled(label, inner):
            return [2, label, to_value(inner)]
        case Leaf(value):
            return [3, value]
        case Pruned(known):
            return [4, known]


def from_value(value: object) -> Tree:
    """The tree in a value from CBOR. Raises TreeError."""
    match value:
        case [0]:
            return Empty()
        case [1, left, right]:
            return Fork(from_value(left), from_value(right))
        case [2, bytes(label), inner]:
            return Labeled(label, from_value(inner))
        case [3, bytes(leaf)]:
            return Leaf(leaf)
        case [4, bytes(known)] if len(known) == HASH_BYTES:
            return Pruned(known)
    raise TreeError(f"{value!r:.60} is no node of a hash tree")


def find(tree: Tree, path: Iterable[bytes]) -> Tree | None:
    """The subtree at a path; None if it is absent or cut off."""
    found: Tree | None = tree
    for label in path:
        if found is None:
            return None
        found = _child(found, label)
    return found


def leaf(tree: Tree, *path: bytes) -> bytes | None:
    """The value at a path, None if the tree does not hold it. TreeError when it is no leaf."""
    found = find(tree, path)
    if found is None:
        return None
    if not isinstance(found, Leaf):
        raise TreeError(f"there is no leaf at {'/'.join(repr(label)[2:-1] for label in path)}")
    return found.value


def children(tree: Tree) -> list[tuple[bytes, Tree]]:
    """Labels and subtrees at the top of a tree, in its order, without those that are cut off."""
    match tree:
        case Labeled(label, inner):
            return [(label, inner)]
        case Fork(left, right):
            return children(left) + children(right)
    return []


def _child(tree: Tree, label: bytes) -> Tree | None:
    return next((inner for known, inner in children(tree) if known == label), None)


def _balanced(nodes: Sequence[Labeled]) -> Tree:
    if not nodes:
        return Empty()
    if len(nodes) == 1:
        return nodes[0]
    middle = len(nodes) // 2
    return Fork(_balanced(nodes[:middle]), _balanced(nodes[middle:]))


def _hash(domain: str, *parts: bytes) -> bytes:
    name = f"ic-hashtree-{domain}".encode()
    return hashlib.sha256(bytes([len(name)]) + name + b"".join(parts)).digest()
