"""Candid text: how values are printed, how they are read, and what a wrong text is told."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canister.ic.candid.as_json import as_json
from canister.ic.candid.parse import parse_args
from canister.ic.candid.pretty import flat, pretty
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

RESULT = Variant((Field("Ok", Record((Field("status_code", NAT16),))), Field("Err", TEXT)))
ARGS = Record((Field("args", Vec(TEXT)),))
CONFIG = Record((Field("period_seconds", Opt(NAT64)), Field("ttl_seconds", Opt(NAT64))))
ROLE = Variant((Field("AdminQuery", NULL), Field("Other", TEXT)))


# -- printing


@pytest.mark.parametrize(
    ("of", "value", "text"),
    [
        (RESULT, {"Ok": {"status_code": 200}}, "(variant { Ok = record { status_code = 200 : nat16 } })"),
        (NAT64, 1_185_376, "(1_185_376 : nat64)"),
        (NAT, 20_000_000_000_000, "(20_000_000_000_000 : nat)"),
        (INT, -1234, "(-1_234 : int)"),
        (NAT8, 7, "(7 : nat8)"),
        (FLOAT64, 1.0, "(1.0 : float64)"),
        (FLOAT64, 1e22, "(10000000000000000000000.0 : float64)"),
        (FLOAT32, 0.10000000149011612, "(0.1 : float32)"),
        (Opt(NAT64), 5, "(opt (5 : nat64))"),
        (Opt(TEXT), "x", '(opt "x")'),
        (Opt(TEXT), None, "(null)"),
        (NULL, None, "(null : null)"),
        (RESERVED, None, "(null : reserved)"),
        (BOOL, False, "(false)"),
        (TEXT, 'a"b\\c\n\t\r', '("a\\"b\\\\c\\n\\t\\r")'),
        (TEXT, "it's ü 世 \x00\x7f\u200b", '("it\\\'s ü 世 \\u{0}\\u{7f}\\u{200b}")'),
        (PRINCIPAL, "2vxsx-fae", '(principal "2vxsx-fae")'),
        (BLOB, b"GGUF\x03", '(blob "\\47\\47\\55\\46\\03")'),
        (BLOB, b"it's plain\n", '(blob "it\\27s plain\\0a")'),
        (BLOB, b"", '(blob "")'),
        (Vec(TEXT), ["a", "b"], '(vec { "a"; "b" })'),
        (Vec(TEXT), [], "(vec {})"),
        (Record(()), {}, "(record {})"),
        (tuple_of((TEXT, NAT)), {0: "x", 1: 2}, '(record { "x"; 2 : nat })'),
        (Record((Field(2, NAT), Field(5, NAT))), {2: 1, 5: 2}, "(record { 2 = 1 : nat; 5 = 2 : nat })"),
        (Record((Field("principal", TEXT), Field(12345, BOOL))), {"principal": "p", 12345: True}, None),
        (ROLE, {"AdminQuery": None}, "(variant { AdminQuery })"),
    ],
)
def test_on_one_line(of: Type, value: object, text: str | None) -> None:
    written = pretty((of,), (value,))
    assert written == (text or '(record { 12_345 = true; "principal" = "p" })')
    assert parse_args(written, (of,)) == [value]


def test_broken_into_lines() -> None:
    details = Record((Field("filename", TEXT), Field("filesize", NAT64), Field("filesha256", TEXT)))
    sha = "ca59ca7f13d0e15a8cfa77bd17e65d24f6844b554a7b6c12e07a5f89ff76844e"
    value = {"filename": "models/model.gguf", "filesize": 675_710_816, "filesha256": sha}
    result = Variant((Field("Ok", details), Field("Err", TEXT)))
    assert pretty((result,), ({"Ok": value},)) == (
        "(\n"
        "  variant {\n"
        "    Ok = record {\n"
        '      filename = "models/model.gguf";\n'
        "      filesize = 675_710_816 : nat64;\n"
        f'      filesha256 = "{sha}";\n'
        "    }\n"
        "  },\n"
        ")"
    )


def test_a_line_is_as_wide_as_it_may_be() -> None:
    assert pretty((TEXT,), ("x" * 76,)) == f'("{"x" * 76}")'
    assert pretty((TEXT,), ("x" * 77,)) == f'(\n  "{"x" * 77}",\n)'
    assert pretty((TEXT,), ("世" * 38,)).count("\n") == 0
    assert pretty((TEXT,), ("世" * 39,)).count("\n") == 2
    assert pretty((), ()) == "()"
    assert pretty((TEXT, NAT), ("x", 1), 5) == '(\n  "x",\n  1 : nat,\n)'


def test_long_vectors_and_deep_values_stay_flat() -> None:
    many = [str(number) for number in range(30)]
    assert pretty((Vec(TEXT),), (many,)) == "(\n  vec {" + "".join(f' "{item}";' for item in many) + "},\n)"
    of: Type = TEXT
    value: object = "it's"
    for _ in range(12):
        of, value = Vec(of), [value]
    assert 'vec { vec { "it\'s";};}' in pretty((of,), (value,), 20)


def test_the_one_line_of_dfx() -> None:
    assert flat((RESULT,), ({"Ok": {"status_code": 200}},)) == "(variant { Ok = record { status_code = 200 : nat16;} })"
    assert flat((TEXT, Opt(NAT64)), ("it's", 1)) == '("it\'s", opt (1 : nat64))'
    assert flat((ROLE,), ({"AdminQuery": None},)) == "(variant { AdminQuery })"


@given(TYPED, st.integers(1, 120))
def test_round_trip(typed: tuple[Type, Any], width: int) -> None:
    of, value = typed
    for text in (pretty((of, of), (value, value), width), flat((of, of), (value, value))):
        assert parse_args(text, (of, of)) == [value, value]
        assert parse_args(text, ()) == []


# -- JSON


@pytest.mark.parametrize(
    ("of", "value", "json"),
    [
        (RESULT, {"Ok": {"status_code": 200}}, {"Ok": {"status_code": 200}}),
        (Opt(NAT64), 2**60, [str(2**60)]),
        (Opt(NAT64), None, []),
        (NAT, 5, "5"),
        (INT8, -5, -5),
        (BLOB, b"GG", [71, 71]),
        (Vec(TEXT), ["x"], ["x"]),
        (ROLE, {"AdminQuery": None}, {"AdminQuery": None}),
        (tuple_of((TEXT,)), {0: "x"}, {"0": "x"}),
        (FLOAT64, float("nan"), "NaN"),
        (PRINCIPAL, "2vxsx-fae", "2vxsx-fae"),
    ],
)
def test_json_of_dfx(of: Type, value: object, json: object) -> None:
    assert as_json(of, value) == json


# -- reading


@pytest.mark.parametrize(
    ("of", "text", "value"),
    [
        (ARGS, '(record { args = vec {"--model"; "models/model.gguf";} })', {"args": ["--model", "models/model.gguf"]}),
        (ARGS, 'record { args = vec { "x" } }', {"args": ["x"]}),
        (ARGS, '(record { args = vec {}; more = variant { a = blob "\\ff" }; 7 = opt opt null })', {"args": []}),
        (ARGS, '(record { 1_081_380_189 = vec { "x" : text } : vec text })', {"args": ["x"]}),
        (NAT64, "(1_000)", 1000),
        (NAT64, "(((0xFf : nat64)))", 255),
        (NAT16, "( + 5 )", 5),
        (INT, "(-5 : int)", -5),
        (INT, "(5 : nat)", 5),
        (FLOAT64, "(5)", 5.0),
        (FLOAT64, "(-.5e1)", -5.0),
        (FLOAT32, "(1.)", 1.0),
        (BOOL, "(true : bool,)", True),
        (TEXT, '("\\n\\t\\r\\\\\\"\\\'\\u{1F_600}\\c3\\bc")', "\n\t\r\\\"'\U0001f600ü"),
        (TEXT, '("line\n  and line")', "line\n  and line"),
        (TEXT, '/* a /* nested */ comment */ ("//") // the end', "//"),
        (BLOB, '(blob "a\\00\\ff")', b"a\x00\xff"),
        (BLOB, '(blob "\\aa\\bb")', b"\xaa\xbb"),
        (BLOB, "(vec { 1; 2 : nat8; 0xff })", b"\x01\x02\xff"),
        (Opt(NAT64), "(opt 5)", 5),
        (Opt(NAT64), "(null)", None),
        (Opt(NAT64), "(null : opt nat64)", None),
        (Opt(NAT64), "()", None),
        (CONFIG, "(record { ttl_seconds = opt (5 : nat64) })", {"period_seconds": None, "ttl_seconds": 5}),
        (tuple_of((TEXT, NAT)), '(record { "x"; 2 })', {0: "x", 1: 2}),
        (Record((Field(3, TEXT), Field(4, NAT))), '(record { 3 = "x"; 2 })', {3: "x", 4: 2}),
        (Record((Field("principal", TEXT),)), '(record { "principal" = "x" })', {"principal": "x"}),
        (Record((Field("principal", TEXT),)), '(record { principal = "x" })', {"principal": "x"}),
        (ROLE, "(variant { AdminQuery })", {"AdminQuery": None}),
        (ROLE, "(variant { AdminQuery = null })", {"AdminQuery": None}),
        (ROLE, '(variant { "Other" = "x" } : variant { Other : text })', {"Other": "x"}),
        (PRINCIPAL, '(principal "2vxsx-fae")', "2vxsx-fae"),
        (RESERVED, '(record { 1; "x" })', None),
        (NULL, "(null)", None),
    ],
)
def test_what_is_read(of: Type, text: str, value: object) -> None:
    assert parse_args(text, (of,)) == [value]


def test_surplus_arguments_are_dropped_and_absent_opts_are_null() -> None:
    assert parse_args('("x", record { 1 }, blob "")', (TEXT,)) == ["x"]
    assert parse_args("(record {})", ()) == []
    assert parse_args('("x")', (TEXT, Opt(NAT))) == ["x", None]


@pytest.mark.parametrize(
    ("of", "text", "message"),
    [
        (ARGS, "(record { args = vec {1} })", "line 1, column 23: text expected, not 1"),
        (ARGS, "(record {\n  arg = vec {}\n})", "line 1, column 2: the field args is missing: vec text"),
        (ARGS, '(record { args = vec {"x"}', "line 1, column 27: '}' expected, not the end"),
        (ARGS, '(record { args = vec {"x" } } }', "column 31: '\\)' expected, not }"),
        (ARGS, "(record { args = vec {}; args = vec {} })", "column 26: the field args is there twice"),
        (ARGS, "('x')", 'column 2: "\'" is not Candid'),
        (ARGS, '("x', "column 2: a text without its closing quote"),
        (ARGS, "/* (", "column 1: a comment is not closed"),
        (ARGS, "()", "column 2: an argument is missing: record { args : vec text }"),
        (ARGS, "(vec {})", "record { args : vec text } expected, not vec"),
        (ARGS, "", "record { args : vec text } expected, not the end"),
        (TEXT, '("x") y', "column 7: the end expected, not y"),
        (TEXT, '("\\q")', r"column 3: \\q is no escape"),
        (BLOB, '(blob "\\aa\\ 1")', r"\\  is no escape"),
        (BLOB, '(blob "\\a")', r"\\a is no escape"),
        (TEXT, '("\\ff")', "the text is not UTF-8"),
        (TEXT, '("\\u{d800}")', "names no character"),
        (TEXT, '("\\u{110000}")', "names no character"),
        (TEXT, '("\ud800")', "the text is not Unicode"),
        (TEXT, '("x" : nat)', "column 8: text expected, not nat"),
        (TEXT, '("x" : foo)', "column 8: a type expected, not foo"),
        (NAT64, "(5 : nat8)", "column 6: nat64 expected, not nat8"),
        (NAT64, "(-5)", "nat64 expected, -5 is out of its range"),
        (NAT64, "(18446744073709551616)", "out of its range"),
        (NAT64, "(5.0)", "nat64 expected, not 5.0"),
        (NAT64, "(0x_ff)", "'\\)' expected, not x_ff"),
        (NAT64, "(- x)", "a number expected, not x"),
        (NAT64, f"({'1' * 5000})", "a number has more than 1000 digits"),
        (FLOAT64, "(.)", "a number expected, not a point"),
        (Opt(NAT64), "(5)", "opt nat64 expected, not 5: write opt in front"),
        (BLOB, '("x")', "blob expected"),
        (BLOB, "(vec { 256 })", "nat8 expected, 256 is out of its range"),
        (ROLE, "(variant { Admin })", "one of the tags AdminQuery, Other expected, not Admin"),
        (ROLE, "(variant { Other })", "the tag Other needs a value: text"),
        (ROLE, "(variant {})", "a tag expected, not }"),
        (PRINCIPAL, '(principal "x")', "is not a principal"),
        (PRINCIPAL, '(service "aaaaa-aa")', "values of service are not taken here"),
        (RESERVED, "(" * 1000, "nested deeper than 64"),
        (RESERVED, "(1 : " + "vec " * 1000, "nested deeper than 64"),
        (RESERVED, "(null : opt null)", "None would mean two things"),
    ],
)
def test_what_is_told(of: Type, text: str, message: str) -> None:
    with pytest.raises(CandidError, match=message):
        parse_args(text, (of,))


_PIECES = [
    "(",
    ")",
    "{",
    "}",
    ";",
    ",",
    "=",
    ":",
    "record",
    "variant",
    "vec",
    "opt",
    "blob",
    "null",
    "true",
    "principal",
]
_PIECES += [
    '"x"',
    '"\\ff"',
    "1",
    "1_0",
    "0x1",
    "1.5",
    "-",
    "nat",
    "text",
    "args",
    " ",
    "\n",
    "/*",
    "*/",
    "//",
    "\\",
    '"',
]


def is_explained(text: str, of: Type) -> bool:
    """It is read, or refused with its place; any other exception goes on."""
    try:
        parse_args(text, (of,))
    except CandidError as error:
        return str(error).startswith("line ")
    return True


@given(st.lists(st.sampled_from(_PIECES), max_size=60).map("".join) | st.text(max_size=60), TYPES)
def test_any_text(text: str, of: Type) -> None:
    assert is_explained(text, of)


@given(TYPED, TYPES, st.data())
def test_mutated_texts(typed: tuple[Type, Any], other: Type, data: st.DataObject) -> None:
    text = pretty((typed[0],), (typed[1],))
    at = data.draw(st.integers(0, len(text)))
    mutated = text[:at] + data.draw(st.sampled_from(_PIECES)) + text[at + data.draw(st.integers(0, 3)) :]
    for of in (typed[0], other):
        assert is_explained(mutated, of)
