"""The tree over the records of a canister: RFC 6962's Merkle tree, so that any of its verifiers can be used.

A *node* (level, n) is the hash of the records n·2^level … (n+1)·2^level - 1. A node never changes once its last record
is there, so whoever keeps the nodes that each record completes (one on average) appends with O(log n) hashes, and
proves with O(log n) nodes that a record is there, or that a tree is the beginning of another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256().digest()
MAX_SIZE = 1 << 62
NOTHING: Mapping[tuple[int, int], bytes] = MappingProxyType({})

Node = Callable[[int, int], bytes]
"""(level, n) → the hash of a node that is complete."""


class ProofError(ValueError):
    """A proof that proves nothing. The message says what does not fit."""


def leaf_hash(record: bytes) -> bytes:
    """The node (0, n) of record n."""
    return hashlib.sha256(b"\0" + record).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def completed(index: int, leaf: bytes, node: Node) -> list[bytes]:
    """The nodes above its leaf that record number `index` completes, from level 1 up."""
    found: list[bytes] = []
    below, level = leaf, 0
    while index >> level & 1:
        below = node_hash(node(level, (index >> level) - 1), below)
        found.append(below)
        level += 1
    return found


def node_of(
    record: Callable[[int], bytes | None],
    completed_by: Callable[[int], bytes | None],
    known: Mapping[tuple[int, int], bytes] = NOTHING,
) -> Node:
    """The nodes of a chain that keeps each record with the nodes that it completes, one behind the other.

    record, completed_by: those of a number; None: kept no more, which is a ProofError for who needs it. known: nodes
    that need not be read.
    """

    def node(level: int, n: int) -> bytes:
        found = known.get((level, n))
        if found is not None:
            return found
        if level == 0:
            data = record(n)
            if data is None:
                raise ProofError(f"record {n} is kept no more")
            return leaf_hash(data)
        nodes = completed_by(((n + 1) << level) - 1)
        if nodes is None:
            raise ProofError(f"the records up to {(n + 1) << level} are kept no more")
        at = HASH_BYTES * (level - 1)
        return nodes[at : at + HASH_BYTES]

    return node


def whole_ends(size: int) -> list[int]:
    """The records that complete the tree of the first `size`: all that later proofs need of these, if they go."""
    ends: list[int] = []
    start = 0
    for level in reversed(range(size.bit_length())):
        if size >> level & 1:
            start += 1 << level
            ends.append(start - 1)
    return ends


def first_kept(lowest: Sequence[int], n_kept: int, size: int) -> int:
    """From which record on all of `size` are kept, where n_kept are. lowest: the numbers of the first 65 of them."""
    return next((first for n_below, first in enumerate(lowest) if n_kept - n_below == size - first), size)


def root(size: int, node: Node) -> bytes:
    """The head of a tree of `size` records."""
    return _hash_of(0, size, node) if size else EMPTY_ROOT


def inclusion_path(index: int, size: int, node: Node) -> list[bytes]:
    """What proves that record `index` is one of `size`: the hashes beside the way up, from the leaf on."""
    if not 0 <= index < size:
        raise ProofError(f"there is no record {index} among {size}")
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(_hash_of(middle, end, node))
            end = middle
        else:
            path.append(_hash_of(start, middle, node))
            start = middle
    return path[::-1]


def consistency_path(old: int, new: int, node: Node) -> list[bytes]:
    """What proves that the tree of `old` records is the beginning of that of `new`."""
    if not 0 <= old <= new:
        raise ProofError(f"{old} records are not the beginning of {new}")
    if old in (0, new):
        return []
    path: list[bytes] = []
    start, end, is_whole = 0, new, True
    while end > old:
        middle = start + _split(end - start)
        if old <= middle:
            path.append(_hash_of(middle, end, node))
            end = middle
        else:
            path.append(_hash_of(start, middle, node))
            start, is_whole = middle, False
    if not is_whole:
        path.append(_hash_of(start, end, node))
    return path[::-1]


def root_from(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """The head of the tree in which this path puts a leaf. ProofError for a path of another length."""
    if not 0 <= index < size <= MAX_SIZE:
        raise ProofError(f"record {index} cannot be one of {size}")
    found, n, last = leaf, index, size - 1
    for other in path:
        if len(other) != HASH_BYTES:
            raise ProofError(f"a hash of {len(other)} bytes in the path")
        if last == 0:
            raise ProofError("the path goes on above the head")
        if n & 1 or n == last:
            found = node_hash(other, found)
            while not n & 1 and n:
                n, last = n >> 1, last >> 1
        else:
            found = node_hash(found, other)
        n, last = n >> 1, last >> 1
    if last:
        raise ProofError("the path ends below the head")
    return found


def check_consistency(old: int, old_root: bytes, new: int, new_root: bytes, path: Sequence[bytes]) -> None:
    """Is the tree of `old` records the beginning of that of `new`? ProofError."""
    if not 0 <= old <= new <= MAX_SIZE:
        raise ProofError(f"{old} records are not the beginning of {new}")
    if old in (0, new):
        if path or old_root != (EMPTY_ROOT if old == 0 else new_root):
            raise ProofError(f"two heads of {new} records differ" if old else "the head of no records is another")
        return
    hashes = list(path)
    if old & (old - 1) == 0:
        hashes.insert(0, old_root)
    if not hashes:
        raise ProofError("the path is empty")
    n, last = old - 1, new - 1
    while n & 1:
        n, last = n >> 1, last >> 1
    was = now = hashes[0]
    for other in hashes[1:]:
        if last == 0:
            raise ProofError("the path goes on above the head")
        if n & 1 or n == last:
            was, now = node_hash(other, was), node_hash(other, now)
            while not n & 1 and n:
                n, last = n >> 1, last >> 1
        else:
            now = node_hash(now, other)
        n, last = n >> 1, last >> 1
    if last:
        raise ProofError("the path ends below the head")
    if was != old_root or now != new_root:
        raise ProofError(f"the {old} records of the older head are not the first of the {new} of the newer one")


def _split(n: int) -> int:
    """The largest power of two below n."""
    return 1 << ((n - 1).bit_length() - 1)


def _hash_of(start: int, end: int, node: Node) -> bytes:
    """The hash of records start … end - 1, where start is a multiple of the power of two that holds them."""
    n = end - start
    if n & (n - 1) == 0:
        level = n.bit_length() - 1
        return node(level, start >> level)
    middle = start + _split(n)
    return node_hash(_hash_of(start, middle, node), _hash_of(middle, end, node))
