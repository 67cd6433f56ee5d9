"""Requests to the private door: signed for one worker, at one time, over all that they say."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canister.api import herd_requests as requests
from canister.api.cbor_fields import WireError
from canister.api.herd_requests import HerdKey, NotSigned

KEY = HerdKey("w1", 4, bytes(range(32)))
NOW_NS = 1_796_000_000 * 10**9
BODY = b"what is asked"
TARGET = "/herd/1/chats?path=a%20b"


def signed(key: HerdKey = KEY, **changed: Any) -> str:
    said: dict[str, Any] = {"method": "PUT", "target": TARGET, "body": BODY, "now_ns": NOW_NS, "caller": ""} | changed
    return requests.sign(key, said.pop("method"), said.pop("target"), said.pop("body"), **said)


def check(header: str | None, *, now_ns: int = NOW_NS, key: HerdKey = KEY) -> str:
    found = requests.check(key, header, "PUT", TARGET, now_ns=now_ns)
    found.check_body(hashlib.sha256(BODY).digest())
    return found.mac


def test_what_the_herd_signed() -> None:
    body = hashlib.sha256(BODY).hexdigest()
    said = f"PUT\n{TARGET}\nw1\n4\n{NOW_NS}\n\n{body}".encode()
    mac = hmac.new(KEY.secret, said, hashlib.sha256).hexdigest()
    assert signed() == f"v1 w1 4 {NOW_NS} {body} {mac}"
    assert check(signed()) == mac


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "GET"},
        {"target": "/herd/1/chats?path=b"},
        {"caller": "2vxsx-fae"},
        {"key": HerdKey("w1", 4, bytes(32))},
    ],
)
def test_what_was_changed_on_its_way(changed: dict[str, Any]) -> None:
    with pytest.raises(NotSigned, match="secret of this herd, or was changed"):
        check(signed(**changed))


def test_another_body() -> None:
    with pytest.raises(NotSigned, match="body is not the one"):
        check(signed(body=b"something else"))


def test_the_hash_of_the_body_cannot_be_changed() -> None:
    other = signed(body=b"something else")
    with pytest.raises(NotSigned, match="changed on its way"):
        check(other.replace(other.split()[4], signed().split()[4]))


def test_the_time_cannot_be_changed() -> None:
    later = signed().replace(str(NOW_NS), str(NOW_NS + 90 * 10**9))
    with pytest.raises(NotSigned, match="changed on its way"):
        check(later, now_ns=NOW_NS + 90 * 10**9)


@pytest.mark.parametrize(
    ("key", "told"),
    [(HerdKey("w2", 4, KEY.secret), "this is worker w1"), (HerdKey("w1", 3, KEY.secret), "this is generation 4")],
)
def test_for_another_worker(key: HerdKey, told: str) -> None:
    with pytest.raises(NotSigned, match=told):
        check(signed(key))


@pytest.mark.parametrize("sign", [-1, 1])
def test_at_another_time(sign: int) -> None:
    assert check(signed(), now_ns=NOW_NS + sign * 60 * 10**9)
    with pytest.raises(NotSigned, match="clocks"):
        check(signed(), now_ns=NOW_NS + sign * (60 * 10**9 + 1))


@given(st.none() | st.text(max_size=120) | st.from_regex(r"v1 \w+ \d+ \d+ [0-9a-f]{64} [0-9a-f]{64}", fullmatch=True))
def test_headers_that_are_no_signature(header: str | None) -> None:
    with pytest.raises(NotSigned):
        check(header)


def test_a_whole_answer_is_asked_for_by_the_herd_alone() -> None:
    signature, asked = signed(), requests.AnswerTry(bytes(range(32)), 5 << 32 | 3, NOW_NS)
    header = requests.sign_answer(KEY, signature, asked)
    assert requests.read_answer(KEY, signature, header) == asked
    others = [
        header.replace("0001", "0002", 1),
        header.replace(str(5 << 32 | 3), str(5 << 32 | 4)),
        "v1",
        header + " 1",
    ]
    for other in others:
        with pytest.raises(NotSigned):
            requests.read_answer(KEY, signature, other)
    with pytest.raises(NotSigned, match="of another request"):
        requests.read_answer(KEY, signed(now_ns=NOW_NS + 1), header)


def test_the_key_does_not_show_its_secret() -> None:
    assert KEY.secret.hex() not in repr(KEY)
    assert "secret" not in repr(KEY)


def test_the_secret_of_a_file() -> None:
    assert requests.read_secret(f"{KEY.secret.hex()}\n") == KEY.secret


@pytest.mark.parametrize("text", ["", "00" * 31, "zz" * 32, "00" * 33])
def test_no_secret(text: str) -> None:
    with pytest.raises(ValueError, match="32 bytes in hex"):
        requests.read_secret(text)


@given(st.text(), st.text(), st.text(), st.booleans())
def test_chats_in_queries(canister: str, caller: str, path: str, rows: bool) -> None:
    target = requests.chat_target(canister, caller, path, rows=rows)
    assert target.isascii()
    assert not set(target) & set("\n\r #")
    found = requests.chat_query(target.partition("?")[2])
    assert found == requests.ChatQuery(canister, caller, path, rows)


@given(st.text(), st.text(), st.none() | st.text(), st.none() | st.text())
def test_kept_answers_in_queries(canister: str, caller: str, id: str | None, key: str | None) -> None:
    asked = requests.AnswerQuery(canister, caller, id, key)
    assert asked.target.isascii()
    assert not set(asked.target) & set("\n\r #")
    assert requests.answer_query(asked.target.partition("?")[2]) == asked


@pytest.mark.parametrize("query", ["", "canister=a", "canister=a&caller=b&id=c&id=d", "caller=%ff"])
def test_queries_that_name_no_answers(query: str) -> None:
    with pytest.raises(WireError):
        requests.answer_query(query)


@given(st.text(max_size=60))
def test_queries_that_name_no_chat(query: str) -> None:
    with contextlib.suppress(WireError):
        requests.chat_query(query)


@pytest.mark.parametrize("query", ["", "canister=a&caller=b", "canister=a&caller=b&path=c&path=d", "path=%ff"])
def test_incomplete_queries(query: str) -> None:
    with pytest.raises(WireError):
        requests.chat_query(query)


def test_ids_differ() -> None:
    found = {
        requests.job_of_key("a", "b", "c"),
        requests.job_of_key("ab", "", "c"),
        requests.job_of_key("a", "bc", ""),
        requests.job_of_control("a", 1),
        requests.job_of_control("a", 2),
        requests.job_of_control("b", 1),
    }
    assert len(found) == 6
    assert {len(id) for id in found} == {32}
