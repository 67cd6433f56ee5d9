"""Data in chunks of at most 256 KiB, the Merkle root that stands for all of it, and a proof of each chunk's place.

leaf   H(H(H(chunk)) H(end))            end: where the chunk ends, as 32 bytes
node   H(H(left) H(right) H(at))        at: where the left side ends
proof  left right at  …  H(chunk) end   from the root down to the chunk
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from canister.ao.encoding import Malformed, sha256

MAX_CHUNK_BYTES = 256 * 1024
MIN_CHUNK_BYTES = 32 * 1024  # of the last one, where there are others
_NUMBER_BYTES = 32
_HASH_BYTES = 32
_LEAF_BYTES = _HASH_BYTES + _NUMBER_BYTES
_NODE_BYTES = 2 * _HASH_BYTES + _NUMBER_BYTES


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of the data; `end` is the first one behind them."""

    start: int
    end: int

    @property
    def n_bytes(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Proven:
    """A chunk's place and the proof of it. offset: of its last byte, by which clients name it."""

    span: Span
    proof: bytes

    @property
    def offset(self) -> int:
        return self.span.end - 1


@dataclass(frozen=True, slots=True)
class DataTree:
    """chunks: those that are sent. An empty one at the end is in the root alone."""

    root: bytes
    chunks: tuple[Proven, ...]


def spans(n_bytes: int) -> tuple[Span, ...]:
    """Where data of this length is cut. The last two even out when the last one would be small; whole chunks are
    followed by an empty one."""
    found: list[Span] = []
    start = 0
    while n_bytes - start >= MAX_CHUNK_BYTES:
        left = n_bytes - start
        is_small = 0 < left - MAX_CHUNK_BYTES < MIN_CHUNK_BYTES
        found.append(Span(start, start + (-(-left // 2) if is_small else MAX_CHUNK_BYTES)))
        start = found[-1].end
    return (*found, Span(start, n_bytes))


def tree_of(data: bytes) -> DataTree:
    return tree_of_parts(len(data), lambda span: data[span.start : span.end])


def tree_of_parts(n_bytes: int, read: Callable[[Span], bytes]) -> DataTree:
    """read: the bytes of a span; it is asked for one after the other, and none is kept."""
    cut = spans(n_bytes)
    leaves = [_Node(span.end, leaf=sha256(read(span))) for span in cut]
    top = _top(leaves)
    proofs = _proofs(top, b"")
    chunks = (Proven(span, proof) for span, proof in zip(cut, proofs, strict=True) if span.n_bytes)
    return DataTree(top.id, tuple(chunks))


def check_chunk(root: bytes, data_bytes: int, offset: int, proof: bytes, chunk: bytes) -> Span:
    """Where a chunk lies, if the proof shows that it is there and is all that lies there. Raises Malformed.

    data_bytes: of all the data below the root. offset: of any byte of the chunk.
    """
    if len(chunk) > MAX_CHUNK_BYTES:
        raise Malformed(f"the chunk has {len(chunk)} bytes; one has at most {MAX_CHUNK_BYTES}")
    if not 0 <= offset < data_bytes:
        raise Malformed(f"the offset {offset} is not within the {data_bytes} bytes of the data")
    start, end, expected = 0, data_bytes, root
    at = 0
    while len(proof) - at > _LEAF_BYTES:
        left, right, note = _node_parts(proof, at)
        if sha256(sha256(left) + sha256(right) + sha256(note)) != expected:
            raise Malformed("the proof does not lead to the data root")
        middle = int.from_bytes(note, "big")
        if not start <= middle <= end:
            raise Malformed("the proof has a place outside of what is above it")
        if offset < middle:
            expected, end = left, middle
        else:
            expected, start = right, middle
        at += _NODE_BYTES
    if len(proof) - at != _LEAF_BYTES:
        raise Malformed("the proof is cut off")
    hashed, note = proof[at : at + _HASH_BYTES], proof[at + _HASH_BYTES :]
    if sha256(sha256(hashed) + sha256(note)) != expected:
        raise Malformed("the proof does not lead to the data root")
    if sha256(chunk) != hashed:
        raise Malformed("the chunk is not the one that the proof is of")
    if int.from_bytes(note, "big") != end or len(chunk) != end - start:
        raise Malformed(f"the chunk has {len(chunk)} bytes, and its proof says another length")
    return Span(start, end)


class _Node:
    """end: where its bytes end."""

    __slots__ = ("end", "id", "leaf", "left", "right")

    def __init__(self, end: int, *, leaf: bytes = b"", left: _Node | None = None, right: _Node | None = None) -> None:
        self.end, self.leaf, self.left, self.right = end, leaf, left, right
        if left is None or right is None:
            self.id = sha256(sha256(leaf) + sha256(_number(end)))
        else:
            self.id = sha256(sha256(left.id) + sha256(right.id) + sha256(_number(left.end)))


def _top(nodes: Sequence[_Node]) -> _Node:
    """An odd one at the end goes up as it is."""
    while len(nodes) > 1:
        pairs = zip(nodes[::2], nodes[1::2], strict=False)
        above = [_Node(right.end, left=left, right=right) for left, right in pairs]
        nodes = above + list(nodes[len(above) * 2 :])
    return nodes[0]


def _proofs(node: _Node, above: bytes) -> Iterator[bytes]:
    if node.left is None or node.right is None:
        yield above + node.leaf + _number(node.end)
        return
    above += node.left.id + node.right.id + _number(node.left.end)
    yield from _proofs(node.left, above)
    yield from _proofs(node.right, above)


def _node_parts(proof: bytes, at: int) -> tuple[bytes, bytes, bytes]:
    if len(proof) - at < _NODE_BYTES:
        raise Malformed("the proof is cut off")
    middle, note = at + _HASH_BYTES, at + 2 * _HASH_BYTES
    return proof[at:middle], proof[middle:note], proof[note : at + _NODE_BYTES]


def _number(number: int) -> bytes:
    return number.to_bytes(_NUMBER_BYTES, "big")
