"""The tree over records: against RFC 6962's own definition, and against whoever changes a proof."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canister.ic.receipts import tree
from canister.ic.receipts.tree import ProofError


def _root(records: list[bytes]) -> bytes:
    """RFC 6962, 2.1, word for word."""
    if not records:
        return hashlib.sha256().digest()
    if len(records) == 1:
        return hashlib.sha256(b"\0" + records[0]).digest()
    k = 1
    while 2 * k < len(records):
        k *= 2
    return hashlib.sha256(b"\1" + _root(records[:k]) + _root(records[k:])).digest()


class _Kept:
    """What a row of each record keeps: its leaf, and the nodes that it completes."""

    def __init__(self, records: list[bytes]) -> None:
        self.rows: list[list[bytes]] = []
        for index, record in enumerate(records):
            leaf = tree.leaf_hash(record)
            self.rows.append([leaf])
            self.rows[index] += tree.completed(index, leaf, self.node)

    def node(self, level: int, n: int) -> bytes:
        return self.rows[((n + 1) << level) - 1][level]


def _records(n: int) -> list[bytes]:
    return [b"record %d" % number for number in range(n)]


@pytest.mark.parametrize("size", range(34))
def test_that_head_and_proofs_are_those_of_the_rfc(size: int) -> None:
    records = _records(size)
    kept = _Kept(records)
    assert tree.root(size, kept.node) == _root(records)
    for index in range(size):
        path = tree.inclusion_path(index, size, kept.node)
        assert tree.root_from(tree.leaf_hash(records[index]), index, size, path) == _root(records)
    for old in range(size + 1):
        path = tree.consistency_path(old, size, kept.node)
        tree.check_consistency(old, _root(records[:old]), size, _root(records), path)


def test_that_an_append_makes_one_node_on_average_and_a_proof_has_log_n() -> None:
    kept = _Kept(_records(1024))
    assert sum(len(row) - 1 for row in kept.rows) < 1024
    assert len(tree.inclusion_path(700, 1024, kept.node)) == 10


@given(st.data())
def test_that_a_changed_proof_leads_elsewhere(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 70))
    records = _records(size)
    kept, root = _Kept(records), _root(records)
    index = data.draw(st.integers(0, size - 1))
    path = tree.inclusion_path(index, size, kept.node)
    at, bit = data.draw(st.integers(0, len(path) - 1)), data.draw(st.integers(0, 255))
    changed = bytearray(path[at])
    changed[bit // 8] ^= 1 << bit % 8
    forged = [*path[:at], bytes(changed), *path[at + 1 :]]
    assert tree.root_from(tree.leaf_hash(records[index]), index, size, forged) != root
    for other in (path[:-1], [*path, root]):
        with pytest.raises(ProofError, match="the path"):
            tree.root_from(tree.leaf_hash(records[index]), index, size, other)


@given(st.data())
def test_that_no_tree_is_the_beginning_of_a_fork(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 70))
    old = data.draw(st.integers(1, size - 1))
    records = _records(size)
    at = data.draw(st.integers(0, old - 1))
    forked = [*records[:at], b"another", *records[at + 1 :]]
    path = tree.consistency_path(old, size, _Kept(forked).node)
    with pytest.raises(ProofError, match="are not the first"):
        tree.check_consistency(old, _root(records[:old]), size, _root(forked), path)
    assert _root(records) != _root(forked)


@given(st.integers(0, 300), st.integers(0, 300))
def test_from_where_on_records_are_kept(n_gone: int, n_kept: int) -> None:
    """Old ones go, but for those that complete the tree over them."""
    size = n_gone + n_kept
    kept = [n for n in range(size) if n >= n_gone or n in tree.whole_ends(n_gone)]
    first = tree.first_kept(kept[:65], len(kept), size)
    assert first <= n_gone
    assert [n for n in kept if n >= first] == list(range(first, size))
    assert first == 0 or first - 1 not in kept
