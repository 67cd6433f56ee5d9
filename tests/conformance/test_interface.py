"""The interface agrees with the specification's: its own `.did`, and what is on the wire."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canister.api import codec
from canister.api.methods import BY_NAME, METHODS, Method
from canister.ic.candid.decode import decode
from canister.ic.candid.encode import encode
from tests.conformance.did_reader import read_did
from tests.ic.candid.strategies import values

HERE = Path(__file__).parent
ORIGINAL = read_did((HERE / "interface.did").read_text(encoding="utf-8"))
OURS = read_did((HERE.parents[1] / "canister.did").read_text(encoding="utf-8"))


def test_every_method_of_the_original_is_there() -> None:
    assert len(ORIGINAL) == 43
    assert set(ORIGINAL) <= set(OURS) == set(BY_NAME)


@pytest.mark.parametrize("name", ORIGINAL)
def test_kinds_agree(name: str) -> None:
    assert BY_NAME[name].mode == ("query" if ORIGINAL[name].is_query else "update")
    assert OURS[name].is_query == ORIGINAL[name].is_query


@pytest.mark.parametrize("method", [method for method in METHODS if method.name in ORIGINAL], ids=lambda m: m.name)
def test_messages_mean_the_same_by_both_interfaces(method: Method) -> None:
    original = ORIGINAL[method.name]

    @settings(max_examples=20, deadline=None)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        (result,) = original.results
        sent: Any = data.draw(values(result))
        answer = codec.decode_reply(method, encode((result,), (sent,)))
        reply = codec.encode_reply(method, answer.value, answer.is_err)
        assert decode(reply, (result,)) == [sent]
        assert reply == encode((result,), (sent,))
        for of in original.args:
            sent = data.draw(values(of))
            arg = codec.decode_args(method, encode((of,), (sent,)))
            assert codec.encode_args(method, arg) == encode((of,), (sent,))

    check()
