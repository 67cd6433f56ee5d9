"""Arweave's deep hash: SHA-384 over nested lists of bytes, each with its kind and length."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Hashed:
    """Bytes that are not at hand: how many they are, and their SHA-384. So a large file is never read as a whole."""

    n_bytes: int
    sha384: bytes


Tree: TypeAlias = "bytes | Hashed | Sequence[Tree]"


def deep_hash(tree: Tree) -> bytes:
    if isinstance(tree, bytes):
        tree = Hashed(len(tree), _sha384(tree))
    if isinstance(tree, Hashed):
        return _sha384(_sha384(b"blob%d" % tree.n_bytes) + tree.sha384)
    hashed = _sha384(b"list%d" % len(tree))
    for part in tree:
        hashed = _sha384(hashed + deep_hash(part))
    return hashed


def _sha384(data: bytes) -> bytes:
    return hashlib.sha384(data).digest()
