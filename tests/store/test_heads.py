"""Heads of chats: the same conversation has the same head, however its container came to be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from canister.store.container import CacheFile, CacheHeader
from canister.store.heads import gone_on, head_of, n_same, tokens_alone
from tests.store.test_container import HEADER, RECORDS, CacheRecord, state_of, write

OTHER = CacheHeader(HEADER.model_sha256, HEADER.seed, b"another layout")


@given(RECORDS)
def test_the_head_is_of_the_conversation(records: list[CacheRecord]) -> None:
    """However it was cut into records, with or without KV rows, in whatever layout."""
    cache = write(records).cache
    head = head_of(cache)
    assert len(head) == 16
    assert head_of(cache.compacted()[0]) == head
    alone = CacheFile.parse(tokens_alone(cache))
    assert alone.is_whole
    assert state_of(alone) == state_of(cache)
    assert head_of(alone) == head
    assert head_of(replace(cache, header=OTHER)) == head


@given(RECORDS, st.data())
def test_whatever_differs_changes_the_head(records: list[CacheRecord], data: st.DataObject) -> None:
    cache = write(records).cache
    others = [
        replace(cache, header=replace(HEADER, seed=HEADER.seed ^ 1)),
        replace(cache, header=replace(HEADER, model_sha256=bytes(32))),
        cache.extended(len(cache.tokens), [1], [False])[0],
    ]
    if len(cache.tokens):
        at = data.draw(st.integers(0, len(cache.tokens) - 1))
        others.append(cache.extended(at, (), ())[0])
        tokens = cache.tokens.copy()
        tokens[at] ^= 1
        others.append(replace(cache, tokens=tokens))
        for name in ("generated", "starts", "redrawn"):
            marks = getattr(cache, name).copy()
            marks[at] ^= True
            others.append(replace(cache, **{name: marks}))
    heads = {head_of(other) for other in others}
    assert len(heads) == len(others)
    assert head_of(cache) not in heads


@given(RECORDS, RECORDS, st.data())
def test_a_change_is_put_behind_what_stays(one: list[CacheRecord], two: list[CacheRecord], data: st.DataObject) -> None:
    """What a worker tells of a chat gives the journal the worker's conversation."""
    before = write(one).cache
    after, _ = before.extended(data.draw(st.integers(0, len(before.tokens))), (), ())
    added = write(two).cache
    after, _ = after.extended(
        len(after.tokens), added.tokens, added.generated, starts=added.starts, redrawn=added.redrawn
    )
    keep = n_same(before, after)
    assert keep <= min(len(before.tokens), len(after.tokens))
    told = CacheFile.parse(tokens_alone(after, keep))
    assert len(told.tokens) == len(after.tokens) - keep
    found = gone_on(before, keep, told)
    assert state_of(found) == state_of(after)
    assert head_of(found) == head_of(after)
    again = CacheFile.parse(tokens_alone(found))
    assert head_of(again) == head_of(after)


@given(RECORDS, RECORDS)
def test_common_beginnings(one: list[CacheRecord], two: list[CacheRecord]) -> None:
    a, b = write(one).cache, write(two).cache
    n = n_same(a, b)
    at_a, at_b = list(zip(*state_of(a), strict=True)), list(zip(*state_of(b), strict=True))
    assert at_a[:n] == at_b[:n]
    assert n == min(len(at_a), len(at_b)) or at_a[n] != at_b[n]


def test_more_cannot_stay_than_there_is() -> None:
    cache = write([]).cache
    for before in (None, cache):
        with pytest.raises(ValueError, match="1 of them cannot be kept"):
            gone_on(before, 1, cache)


def test_the_head_of_a_known_conversation() -> None:
    """Heads are compared by servers of different versions, so they never change."""
    cache, _ = CacheFile.create(CacheHeader(bytes(32), 7, b""), lambda offset, size: b"")
    cache, _ = cache.extended(0, np.array([1, 2, 3, 70_000]), [False, False, True, True], redrawn=[False] * 3 + [True])
    assert head_of(cache).hex() == "ff00c46665bcc30324796a3992a6baa3"
