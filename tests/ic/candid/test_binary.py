"""Binary Candid: examples of the specification, subtyping, and what strangers may send."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canister.ic.candid.decode import Decoder, decode
from canister.ic.candid.encode import encode, signed, unsigned
from canister.ic.candid.reader import FREE_STEPS, STEPS_PER_BYTE
from canister.ic.candid.types import (
    BLOB,
    BOOL,
    FLOAT32,
    FLOAT64,
    INT,
    INT8,
    NAT,
    NAT8,
    NAT16,
    NAT64,
    NULL,
    PRINCIPAL,
    RESERVED,
    TEXT,
    CandidError,
    Field,
    Opt,
    Record,
    Type,
    Variant,
    Vec,
)
from tests.ic.candid.strategies import TYPED, TYPES, tuple_of

HEAD = b"DIDL"
RESULT = Variant((Field("Ok", Record((Field("status_code", NAT16),))), Field("Err", TEXT)))


def steps_of(data: bytes, of: tuple[Type, ...]) -> int:
    """What it costs to decode; the message may be refused, with a CandidError and nothing else."""
    decoder = Decoder(data)
    with contextlib.suppress(CandidError):
        decoder.message(of)
    return decoder.reader.steps


@pytest.mark.parametrize(
    ("of", "values", "message"),
    [
        ((), [], "4449444c0000"),
        ((BOOL,), [True], "4449444c00017e01"),
        ((NAT,), [128], "4449444c00017d8001"),
        ((INT,), [-128], "4449444c00017c807f"),
        ((NAT64,), [1], "4449444c0001780100000000000000"),
        ((INT8,), [-1], "4449444c000177ff"),
        ((FLOAT64,), [-2.0], "4449444c00017200000000000000c0"),
        ((TEXT,), ["Motoko"], "4449444c000171064d6f746f6b6f"),
        ((NULL,), [None], "4449444c00017f"),
        ((PRINCIPAL,), ["w7x7r-cok77-xa"], "4449444c0001680103caffee"),
        ((Opt(NAT),), [None], "4449444c016e7d010000"),
        ((Opt(NAT),), [4], "4449444c016e7d01000104"),
        ((BLOB,), [b"GGUF"], "4449444c016d7b01000447475546"),
        ((tuple_of((INT, TEXT)),), [{0: 42, 1: "x"}], "4449444c016c02007c017101002a0178"),
        ((RESULT,), [{"Ok": {"status_code": 200}}], "4449444c026b02bc8a0101c5fed201716c019aa1b2f90c7a010000c800"),
    ],
)
def test_examples(of: tuple[Type, ...], values: list[Any], message: str) -> None:
    assert encode(of, values).hex() == message
    assert decode(bytes.fromhex(message), of) == values


@given(TYPED)
def test_round_trip(typed: tuple[Type, Any]) -> None:
    of, value = typed
    data = encode((of, of), (value, value))
    assert decode(data, (of, of)) == [value, value]
    assert decode(memoryview(data), (of,)) == [value]
    assert decode(bytearray(data), ()) == []


@pytest.mark.parametrize(
    ("of", "value"),
    [
        (Vec(TEXT), [""] * 10_000),
        (Vec(Record((Field("filename", TEXT), Field("filetype", TEXT)))), [{"filename": "", "filetype": ""}] * 10_000),
        (Vec(tuple_of((tuple_of((BOOL,)),))), [{0: {0: True}}] * 10_000),
        (Vec(Opt(Vec(Opt(BOOL)))), [[True]] * 10_000),
        (Vec(NULL), [None] * 200),
    ],
)
def test_a_sound_message_is_not_too_complex(of: Type, value: Any) -> None:
    data = encode((of,), (value,))
    assert decode(data, (of,)) == [value]
    assert decode(data, (Opt(Vec(NAT)),)) == [None]


@pytest.mark.parametrize(
    ("of", "value"),
    [
        (NAT, -1),
        (NAT, True),
        (NAT, "1"),
        (NAT8, 256),
        (INT8, -129),
        (NAT64, 1.0),
        (FLOAT32, 1e300),
        (TEXT, b"x"),
        (TEXT, None),
        (TEXT, "\ud800"),
        (BOOL, 1),
        (NULL, 0),
        (BLOB, "x"),
        (BLOB, [1]),
        (Vec(NAT), "12"),
        (Record((Field("a", NAT),)), {}),
        (Record((Field("a", NAT),)), None),
        (RESULT, {"Ok": {"status_code": 200}, "Err": ""}),
        (RESULT, {"Other": ""}),
        (PRINCIPAL, "not one"),
    ],
)
def test_values_that_are_not_of_their_type(of: Type, value: object) -> None:
    with pytest.raises(CandidError, match=" is not "):
        encode((of,), (value,))


def test_numbers_of_values_and_types_agree() -> None:
    with pytest.raises(CandidError, match="1 values are wanted, not 2"):
        encode((NAT,), (1, 2))


# -- subtyping


def convert(sent: Type, value: object, of: Type) -> Any:
    return decode(encode((sent,), (value,)), (of,))[0]


@pytest.mark.parametrize(
    ("sent", "value", "of", "got"),
    [
        (NAT, 2**100, INT, 2**100),
        (TEXT, "x", RESERVED, None),
        (NULL, None, Opt(TEXT), None),
        (RESERVED, None, Opt(TEXT), None),
        (TEXT, "x", Opt(TEXT), "x"),
        (TEXT, "x", Opt(NAT), None),
        (Opt(TEXT), "x", Opt(NAT), None),
        (Opt(NAT), 5, Opt(INT), 5),
        (Vec(NAT), [], BLOB, b""),
        (Opt(Record((Field("a", TEXT),))), {"a": "x"}, Opt(Record((Field("b", TEXT),))), None),
        (Opt(Vec(TEXT)), ["x" * 500], Opt(Vec(NAT)), None),
        (Variant((Field("New", NULL),)), {"New": None}, Opt(Variant((Field("Old", NULL),))), None),
        (Record(()), {}, Record((Field("a", Opt(NAT)), Field("b", NULL), Field("c", RESERVED))), dict.fromkeys("abc")),
        (
            Record((Field("a", TEXT), Field("more", Vec(RESULT)), Field("b", NAT))),
            {"a": "x", "more": [{"Err": "y"}], "b": 1},
            Record((Field("b", NAT), Field("a", TEXT))),
            {"a": "x", "b": 1},
        ),
    ],
)
def test_subtyping(sent: Type, value: object, of: Type, got: object) -> None:
    assert convert(sent, value, of) == got


@pytest.mark.parametrize(
    ("sent", "value", "of", "message"),
    [
        (TEXT, "x", NAT, "argument 0: nat is wanted, not text"),
        (INT, 1, NAT, "nat is wanted, not int"),
        (NAT8, 1, NAT64, "nat64 is wanted, not nat8"),
        (Vec(TEXT), ["x"], BLOB, "nat8 is wanted, not text"),
        (Opt(TEXT), "x", TEXT, "text is wanted, not an opt"),
        (Record((Field("a", TEXT),)), {"a": ""}, Vec(TEXT), "vec text is wanted, not a record"),
        (Record((Field("a", TEXT),)), {"a": ""}, Record((Field("a", NAT),)), r"argument 0\.a: nat is wanted, not text"),
        (Record(()), {}, Record((Field("args", Vec(TEXT)),)), "field args is missing: vec text"),
        (Variant((Field("New", NULL),)), {"New": None}, Variant((Field("Old", NULL),)), "none of variant { Old }"),
    ],
)
def test_what_is_no_subtype(sent: Type, value: object, of: Type, message: str) -> None:
    with pytest.raises(CandidError, match=message):
        convert(sent, value, of)


def test_arguments_that_are_missing_or_too_many() -> None:
    assert decode(HEAD + b"\0\0", (Opt(TEXT), NULL, RESERVED)) == [None, None, None]
    assert decode(encode((TEXT, RESULT), ("x", {"Err": "y"})), (TEXT,)) == ["x"]
    with pytest.raises(CandidError, match="argument 1: text is wanted, and there are only 1 arguments"):
        decode(encode((TEXT,), ("x",)), (TEXT, TEXT))


def test_types_that_are_known_on_the_wire_only_are_skipped() -> None:
    a_list = HEAD + bytes.fromhex("02 6e01 6c02 00 7c 01 00 01 00") + bytes.fromhex("01 01 01 02 00")  # 1, 2
    service = (
        HEAD
        + bytes.fromhex("02 6a 00 00 01 01 69 01 01 61 00 02 01 00")
        + bytes.fromhex(
            "01 02 0a0b" + "01 01 02 0a0b 01 61"  # the service, and its method a
        )
    )
    future = HEAD + bytes.fromhex("01 67 02 abcd 01 00") + bytes.fromhex("03 00 010203")
    for message in (a_list, service, future):
        assert decode(message, ()) == []
        assert decode(message, (RESERVED,)) == [None]
        assert decode(message, (Opt(TEXT),)) == [None]
        with pytest.raises(CandidError, match="text is wanted, not a"):
            decode(message, (TEXT,))


# -- strangers


def table(*types: str, arguments: str, values: str = "") -> bytes:
    return (
        HEAD + unsigned(len(types)) + bytes.fromhex("".join(types)) + bytes.fromhex(arguments) + bytes.fromhex(values)
    )


MILLION = unsigned(1_000_000).hex()
HUGE = unsigned(2**60).hex()
DOUBLING = [f"6c02 00 {signed(n + 1).hex()} 01 {signed(n + 1).hex()}" for n in range(60)]

HOSTILE = {
    "two million texts": table("6d71", arguments="0100", values=unsigned(2_000_000).hex() + "00" * 2_000_000),
    "nothing": b"",
    "no magic": b"DIDM\0\0",
    "only magic": HEAD,
    "vec null": table("6d7f", arguments="0100", values=HUGE),
    "vec reserved": table("6d70", arguments="0100", values=HUGE),
    "vec of empty records": table("6d01", "6c00", arguments="0100", values=HUGE),
    "vec of records of null": table("6d01", "6c01 00 7f", arguments="0100", values=MILLION),
    "opt vec null": table("6e01", "6d7f", arguments="0100", values="01" + HUGE),
    "vec of vec null": table("6d01", "6d7f", arguments="0100", values="64" + "64" * 100),
    "huge blob": table("6d7b", arguments="0100", values=HUGE),
    "huge vec nat64": table("6d78", arguments="0100", values=HUGE),
    "endless LEB128": HEAD + b"\x80" * 10_000,
    "endless nat": table(arguments="017d", values="80" * 10_000),
    "endless int": table(arguments="017c", values="ff" * 10_000),
    "huge type table": HEAD + bytes.fromhex(HUGE),
    "huge type table that is there": HEAD + unsigned(100_000) + bytes.fromhex("6e7f") * 100_000,
    "huge record type": table("6c" + HUGE, arguments="00"),
    "many fields": HEAD + unsigned(900) + (b"\x6c\x64" + b"".join(bytes([n, 0x7F]) for n in range(100))) * 900,
    "many arguments": HEAD + b"\0" + bytes.fromhex(HUGE),
    "record that holds itself": table("6c01 00 00", arguments="0100"),
    "records that double": table(*DOUBLING, "6c00", arguments="0100"),
    "deep opt": table("6e00", arguments="0100", values="01" * 10_000),
    "deep vec": table("6d00", arguments="0100", values="01" * 10_000),
    "deep variant": table("6b01 00 00", arguments="0100", values="00" * 10_000),
    "unsorted fields": table("6c02 01 7f 00 7f", arguments="0100"),
    "the same field twice": table("6c02 00 7f 00 7f", arguments="0100"),
    "field number over 32 bits": table("6c01 8080808010 7f", arguments="0100"),
    "type that is not there": table("6e01", arguments="0100", values="00"),
    "opcode that is not there": table("6e67", arguments="0100", values="00"),
    "primitive in the table": table("7e", arguments="0100", values="00"),
    "argument type that is not there": table(arguments="0100"),
    "trailing byte": table(arguments="00", values="00"),
    "not UTF-8 in a vec": table("6d71", arguments="0100", values="01 01 ff"),
    "cut short in a vec": table("6d71", arguments="0100", values="02 01 61 7f 61"),
    "cut short": table(arguments="0171", values="05 61"),
    "not UTF-8": table(arguments="0171", values="01 ff"),
    "surrogate": table(arguments="0171", values="03 eda080"),
    "bool of 2": table(arguments="017e", values="02"),
    "opt of 2": table("6e7e", arguments="0100", values="02 00"),
    "tag that is not there": table("6b01 00 7f", arguments="0100", values="01"),
    "variant without tags": table("6b00", arguments="0100", values="00"),
    "a value of empty": table(arguments="016f"),
    "long principal": table(arguments="0168", values="01 1e" + "00" * 30),
    "opaque principal": table(arguments="0168", values="00"),
    "service whose method is no func": table("6901 01 61 7f", arguments="0100"),
    "unsorted methods": table("6902 01 62 01 01 61 01", "6a000000", arguments="0100"),
    "opaque func": table("6a000000", arguments="0100", values="00"),
    "future value with references": table("67 00", arguments="0100", values="00 01"),
    "huge future value": table("67 00", arguments="0100", values=HUGE + "00"),
}
WANTED: tuple[tuple[Type, ...], ...] = (
    (),
    (RESERVED,),
    (Opt(Record((Field("args", Vec(TEXT)),))),),
    (Opt(Vec(Opt(Vec(TEXT)))),),
    (Vec(TEXT),),
)


@pytest.mark.parametrize("message", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("of", WANTED, ids=str)
def test_hostile_messages_are_refused_at_little_cost(message: bytes, of: tuple[Type, ...]) -> None:
    with pytest.raises(CandidError):
        decode(message, of)
    assert steps_of(message, of) <= FREE_STEPS + STEPS_PER_BYTE * len(message) + 1


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=200)), st.integers(0, 30))
def test_many_texts(texts: list[str], cut: int) -> None:
    data = encode((Vec(TEXT),), (texts,))
    assert decode(data, (Vec(TEXT),)) == [texts]
    if texts and cut:
        with pytest.raises(CandidError):
            decode(data[:-cut], (Vec(TEXT),))
        with pytest.raises(CandidError):
            decode(data + b"\xff" * cut, (Vec(TEXT),))


def test_a_few_nulls_are_not_hostile() -> None:
    assert decode(table("6d7f", arguments="0100", values="64"), (Vec(NULL),)) == [[None] * 100]


def bounded(data: bytes, of: tuple[Type, ...]) -> bool:
    # An opt inside an opt may be read twice at each level; the wanted types here have at most two.
    return steps_of(data, of) <= 4 * (FREE_STEPS + STEPS_PER_BYTE * len(data)) + 1


@given(st.binary(max_size=300), st.sampled_from(WANTED))
def test_random_bytes(data: bytes, of: tuple[Type, ...]) -> None:
    assert bounded(data, of)
    assert bounded(HEAD + data, of)


@given(TYPED, st.sampled_from(WANTED), st.data())
def test_mutated_messages(typed: tuple[Type, Any], of: tuple[Type, ...], data: st.DataObject) -> None:
    message = bytearray(encode((typed[0],), (typed[1],)))
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(message)))
    for mutated in (bytes(message), bytes(message[:cut])):
        assert bounded(mutated, of)
        assert bounded(mutated, (typed[0],))


@given(TYPED, TYPES)
def test_values_of_one_type_read_as_another(typed: tuple[Type, Any], of: Type) -> None:
    message = encode((typed[0],), (typed[1],))
    assert bounded(message, (of,))
    assert decode(message, (Opt(Record((Field("absent", TEXT),))),)) in ([None], [{"absent": "x"}], [{"absent": ""}])


@given(st.integers())
def test_leb128(number: int) -> None:
    assert decode(HEAD + b"\0\1\x7c" + signed(number), (INT,)) == [number]
    assert decode(HEAD + b"\0\1\x7d" + unsigned(abs(number)), (NAT,)) == [abs(number)]
