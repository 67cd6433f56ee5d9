"""Data in chunks: the roots of Arweave's own code, a proof for each chunk, and none for what is not there."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canister.ao.arweave.chunks import (
    MAX_CHUNK_BYTES,
    MIN_CHUNK_BYTES,
    DataTree,
    Span,
    check_chunk,
    spans,
    tree_of,
    tree_of_parts,
)
from canister.ao.encoding import Malformed, from_base64url

KIB = 1024


def pattern(n_bytes: int) -> bytes:
    return bytes((31 * i + 7 * (i // 256)) % 256 for i in range(n_bytes))


@pytest.mark.parametrize(
    ("n_bytes", "root"),
    [
        (262144, "T_JFNPwV0TyYh-GkQn9X8srShSwVNe4XCN4-jeviO8w"),
        (262145, "zxPAsKjvXo832IjS1b2weQefDsnHEvqZWB1QYihKzaA"),
    ],
)
def test_vectors_of_roots(n_bytes: int, root: str) -> None:
    assert tree_of(pattern(n_bytes)).root == from_base64url(root)


@pytest.mark.parametrize(
    ("n_bytes", "expected"),
    [
        (0, [0]),
        (1, [1]),
        (256 * KIB - 1, [256 * KIB - 1]),
        (256 * KIB, [256 * KIB, 0]),
        (256 * KIB + 1, [128 * KIB + 1, 128 * KIB]),
        (288 * KIB - 1, [144 * KIB, 144 * KIB - 1]),
        (288 * KIB, [256 * KIB, 32 * KIB]),
        (512 * KIB + 10, [256 * KIB, 128 * KIB + 5, 128 * KIB + 5]),
        (512 * KIB, [256 * KIB, 256 * KIB, 0]),
    ],
)
def test_where_data_is_cut(n_bytes: int, expected: list[int]) -> None:
    assert [span.n_bytes for span in spans(n_bytes)] == expected


@given(st.integers(0, 1 << 40).map(lambda n: n % (1 << 26)))
def test_chunks_are_all_of_the_data_and_none_is_too_small(n_bytes: int) -> None:
    cut = spans(n_bytes)
    assert [span.start for span in cut] == [0, *(span.end for span in cut[:-1])]
    assert cut[-1].end == n_bytes
    sizes = [span.n_bytes for span in cut]
    assert max(sizes) <= MAX_CHUNK_BYTES
    assert all(size >= MIN_CHUNK_BYTES or size == 0 for size in sizes) or len(sizes) == 1


SIZES = st.one_of(
    st.integers(1, 2_000), st.integers(1, 5).map(lambda n: n * MAX_CHUNK_BYTES), st.integers(1, 1_400_000)
)


@settings(max_examples=25, deadline=None)
@given(n_bytes=SIZES, seed=st.integers(0, 255))
def test_each_chunk_is_proven_at_each_of_its_bytes(n_bytes: int, seed: int) -> None:
    data = bytes([seed, *bytes(n_bytes - 1)])
    tree = tree_of(data)
    assert b"".join(data[chunk.span.start : chunk.span.end] for chunk in tree.chunks) == data
    for chunk in tree.chunks:
        part = data[chunk.span.start : chunk.span.end]
        for offset in (chunk.span.start, chunk.offset):
            assert check_chunk(tree.root, n_bytes, offset, chunk.proof, part) == chunk.span


@pytest.fixture(scope="module")
def tree() -> tuple[bytes, DataTree]:
    data = random.Random(1).randbytes(3 * MAX_CHUNK_BYTES + 50_000)
    return data, tree_of(data)


def test_a_proof_is_of_its_chunk_alone(tree: tuple[bytes, DataTree]) -> None:
    data, found = tree
    parts = [data[chunk.span.start : chunk.span.end] for chunk in found.chunks]
    for i, chunk in enumerate(found.chunks):
        for j, part in enumerate(parts):
            if i != j:
                with pytest.raises(Malformed):
                    check_chunk(found.root, len(data), chunk.offset, chunk.proof, part)
                with pytest.raises(Malformed):
                    check_chunk(found.root, len(data), found.chunks[j].offset, chunk.proof, parts[i])


def test_no_changed_byte_of_a_proof_is_taken(tree: tuple[bytes, DataTree]) -> None:
    data, found = tree
    chunk = found.chunks[1]
    part = data[chunk.span.start : chunk.span.end]
    for at in range(len(chunk.proof)):
        changed = bytearray(chunk.proof)
        changed[at] ^= 1
        with pytest.raises(Malformed):
            check_chunk(found.root, len(data), chunk.offset, bytes(changed), part)
        with pytest.raises(Malformed):
            check_chunk(found.root, len(data), chunk.offset, chunk.proof[:at], part)


def test_another_size_or_a_shorter_chunk_is_refused(tree: tuple[bytes, DataTree]) -> None:
    data, found = tree
    last = found.chunks[-1]
    part = data[last.span.start :]
    for size in (len(data) - 1, len(data) + 1, len(data) + MAX_CHUNK_BYTES):
        with pytest.raises(Malformed):
            check_chunk(found.root, size, last.span.start, last.proof, part)
    for offset in (-1, len(data)):
        with pytest.raises(Malformed, match="not within"):
            check_chunk(found.root, len(data), offset, last.proof, part)


def test_a_tree_whose_leaf_lies_about_its_length_is_refused() -> None:
    """The owner makes the tree, so a proof may be sound and its chunk still not the bytes of its place."""
    from canister.ao.encoding import sha256

    chunk, end = b"short", (1000).to_bytes(32, "big")
    root = sha256(sha256(sha256(chunk)) + sha256(end))
    with pytest.raises(Malformed, match="another length"):
        check_chunk(root, 1000, 999, sha256(chunk) + end, chunk)


def test_data_is_read_once_and_in_order() -> None:
    data, asked = pattern(600_000), []

    def read(span: Span) -> bytes:
        asked.append(span)
        return data[span.start : span.end]

    assert tree_of_parts(len(data), read) == tree_of(data)
    assert asked == list(spans(len(data)))
