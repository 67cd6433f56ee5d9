"""The cheapest way of a chat to a worker, and what links are expected to take."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canister.herd.ways import Chat, Link, Move, Speeds, Worker, plan

POOL, OTHER = ("model", b"layout", True), ("model", b"layout", False)
TOKEN = 12 << 10


def speeds(disk: float = 1e9, peer: float = 2e8, store: float = 1e8) -> Speeds:
    return Speeds(Link(0.0, disk), Link(0.0, peer), Link(0.0, store))


def workers(*ids: str, pool: object = POOL, prefill_tps: float = 160.0) -> list[Worker]:
    return [Worker(id, pool, prefill_tps) for id in ids]  # type: ignore[arg-type]


def test_own_rows_come_first() -> None:
    a, b = workers("a", "b")
    chat = Chat(1500, TOKEN, {"a": 1500, "b": 1500}, 1500, POOL)
    move = plan(chat, a, [a, b], speeds())
    assert (move.way, move.n_rows, move.rows_from) == ("own", 1500, None)
    assert move.seconds == pytest.approx(1500 * TOKEN / 1e9, rel=0.01)


def test_a_peer_or_the_store_by_what_they_take() -> None:
    a, b = workers("a", "b")
    chat = Chat(1500, TOKEN, {"b": 1500}, 1500, POOL)
    assert plan(chat, a, [a, b], speeds(peer=2e8, store=1e8)) == Move(
        "peer", pytest.approx(1500 * TOKEN / 2e8, rel=0.01), 1500, "b"
    )
    assert plan(chat, a, [a, b], speeds(peer=1e8, store=2e8)).way == "store"
    assert plan(chat, a, [a], speeds()).way == "store"  # b does not answer


def test_tokens_are_decoded_where_that_is_faster() -> None:
    a, b = workers("a", "b", prefill_tps=100_000.0)
    chat = Chat(1500, TOKEN, {"b": 1500}, 1500, POOL)
    assert plan(chat, a, [a, b], speeds(peer=1e6, store=1e6)) == Move("decode", pytest.approx(0.015))


def test_what_a_place_lacks_is_decoded() -> None:
    (a, b) = workers("a", "b")
    chat = Chat(1600, TOKEN, {"a": 1500, "b": 1000}, 0, POOL)
    move = plan(chat, a, [a, b], speeds())
    assert (move.way, move.n_rows) == ("own", 1500)
    assert move.seconds == pytest.approx(1500 * TOKEN / 1e9 + 100 / 160, rel=0.01)
    # The peer has less, but what is missing at the store takes longer still.
    assert plan(Chat(1600, TOKEN, {"b": 1000}, 100, POOL), a, [a, b], speeds()).way == "peer"


@pytest.mark.parametrize("pool", [OTHER, None])
def test_rows_of_another_pool_are_of_no_use(pool: object) -> None:
    a, b = workers("a", "b")
    chat = Chat(160, TOKEN, {"a": 160, "b": 160}, 160, pool)  # type: ignore[arg-type]
    assert plan(chat, a, [a, b], speeds()) == Move("decode", pytest.approx(1.0))
    mine = Chat(160, TOKEN, {"b": 160}, 0, POOL)
    assert plan(mine, a, workers("b", pool=OTHER), speeds()).way == "decode"


def test_a_worker_that_has_not_decoded_yet_is_guessed() -> None:
    assert plan(Chat(100, TOKEN), Worker("a", POOL), [], speeds()) == Move("decode", pytest.approx(1.0))


@given(
    st.integers(0, 5000),
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 6000)),
    st.integers(0, 6000),
    st.floats(1e5, 1e10),
    st.floats(1e5, 1e10),
    st.floats(1, 1e5),
)
def test_no_way_is_dearer_than_decoding_all(
    n_tokens: int, held: dict[str, int], stored: int, peer: float, store: float, prefill_tps: float
) -> None:
    everybody = workers("a", "b", "c", "d", prefill_tps=prefill_tps)
    chat = Chat(n_tokens, TOKEN, held, stored, POOL)
    move = plan(chat, everybody[0], everybody, speeds(peer=peer, store=store))
    assert 0 <= move.seconds <= n_tokens / prefill_tps
    assert 0 <= move.n_rows <= n_tokens
    assert (move.rows_from is not None) == (move.way == "peer")
    if move.way == "peer":
        assert held[move.rows_from or ""] >= move.n_rows > 0


@given(st.floats(0, 2), st.floats(1e5, 1e10), st.lists(st.floats(1e3, 1e9), min_size=30, max_size=60, unique=True))
def test_a_link_is_learned_from_what_transfers_took(start: float, rate: float, sizes: list[float]) -> None:
    link = Link(0.5, 1e6)
    for n_bytes in sizes * 20:
        link.observe(n_bytes, start + n_bytes / rate)
    for n_bytes in sizes:
        assert link.seconds(n_bytes) == pytest.approx(start + n_bytes / rate, rel=0.05, abs=0.01)


@given(st.lists(st.tuples(st.floats(0, 1e10), st.floats(0, 1e4)), max_size=50), st.floats(0, 1e12))
def test_whatever_was_measured_more_bytes_take_no_less(took: list[tuple[float, float]], n_bytes: float) -> None:
    link = Link(0.01, 1e8)
    for size, seconds in took:
        link.observe(size, seconds)
    assert 0 <= link.seconds(n_bytes) <= link.seconds(2 * n_bytes + 1) + 1e-9


def test_a_link_follows_a_network_that_became_slow() -> None:
    link = Link(0.01, 1e9)
    for _ in range(200):
        link.observe(1e7, 0.02)
    for _ in range(200):
        link.observe(1e7, 2.0)
    assert link.seconds(1e7) == pytest.approx(2.0, rel=0.1)
