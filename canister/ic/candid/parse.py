"""Candid text to values of given types.

    args    = "(" value, … ")"                                  or, as dfx takes it, one value alone
    value   = plain [":" type]
    plain   = true | false | null | number | text | "(" value ")"
            | opt plain | vec { value; … } | blob text | principal text
            | record { [label =] value; … } | variant { label [= value] }

The wanted type leads, so that `5` is read as the nat64 that the method takes; an annotation must agree with it, and
what is in a field that nobody wants need only be well-formed. Errors name line and column, and what was expected.
Source: https://github.com/dfinity/candid/blob/master/spec/Candid.md, "Textual format".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from canister.ic import principal
from canister.ic.candid.encode import FIXED
from canister.ic.candid.tokens import SHOWN_CHARACTERS, Token, Tokens
from canister.ic.candid.types import (
    BLOB,
    BOOL,
    FLOAT32,
    FLOAT64,
    INTEGERS,
    NAT8,
    NULL,
    PRIMITIVES,
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
    is_subtype,
    label_hash,
    label_text,
    may_be_absent,
    to_text,
)

T = TypeVar("T", Opt, Vec, Record, Variant)

MAX_DEPTH = 64
MAX_DIGITS = 1000


def parse_args(text: str, of: Sequence[Type], most: int | None = None) -> list[Any]:
    """The values in a text, one for each type of `of`; surplus ones are skipped, absent opts are null.

    most: words, numbers, texts and marks that are read. Raises CandidError, and nothing else.
    """
    return _Parser(text, most).args(of)


class _Parser:
    """A position in a text. of: the type that is wanted; None: any, and the value is dropped."""

    def __init__(self, text: str, most: int | None = None) -> None:
        self._tokens = Tokens(text, most)
        self._depth = 0

    # -- values

    def args(self, of: Sequence[Type]) -> list[Any]:
        values: list[Any] = []
        if len(of) == 1 and not self._tokens.is_mark("("):
            values.append(self._value(of[0]))
        else:
            self._tokens.expect("(")
            index = 0
            while not self._tokens.is_mark(")"):
                value = self._value(of[index] if index < len(of) else None)
                if index < len(of):
                    values.append(value)
                index += 1
                if not self._tokens.skip(","):
                    break
            closing = self._tokens.token
            self._tokens.expect(")")
            for item in of[index:]:
                if not may_be_absent(item):
                    raise self._tokens.error(closing, f"an argument is missing: {to_text(item)}")
                values.append(None)
        if self._tokens.token.kind != "end":
            raise self._tokens.error(self._tokens.token, f"the end expected, not {self._tokens.shown()}")
        return values

    def _value(self, of: Type | None) -> Any:
        value = self._plain(of)
        if self._tokens.skip(":"):
            at = self._tokens.token
            annotation = self._type()
            if of is not None and not is_subtype(annotation, of):
                raise self._tokens.error(at, f"{to_text(of)} expected, not {to_text(annotation)}")
        return value

    def _plain(self, of: Type | None) -> Any:
        if of is RESERVED:
            self._plain(None)
            return None
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._tokens.error(self._tokens.token, f"nested deeper than {MAX_DEPTH}")
        token = self._tokens.next()
        match token.kind, token.text:
            case "mark", "(":
                value = self._value(of)
                self._tokens.expect(")")
            case "mark", "+" | "-":
                value = self._number(self._tokens.next(), of, token.text)
            case "number" | "float", _:
                value = self._number(token, of)
            case "text", _:
                value = self._checked(token, of, TEXT, self._tokens.string(token))
            case "word", "true" | "false":
                value = self._checked(token, of, BOOL, token.text == "true")
            case "word", "null":
                if of is not None and of is not NULL and not isinstance(of, Opt):
                    raise self._wrong(token, of)
                value = None
            case "word", "opt":
                value = self._plain(None if of is None else self._wanted(token, of, Opt).of)
            case "word", "vec":
                value = self._vec(token, of)
            case "word", "blob":
                value = self._checked(token, of, BLOB, self._tokens.data(self._tokens.expect_text()))
            case "word", "principal":
                value = self._checked(token, of, PRINCIPAL, self._principal(self._tokens.expect_text()))
            case "word", "record":
                value = self._record(token, of)
            case "word", "variant":
                value = self._variant(token, of)
            case "word", "service" | "func":
                raise self._tokens.error(token, f"values of {token.text} are not taken here")
            case _:
                raise self._wrong(token, of)
        self._depth -= 1
        return value

    def _number(self, token: Token, of: Type | None, sign: str = "") -> int | float | None:
        if token.kind not in ("number", "float"):
            raise self._tokens.error(token, f"a number expected, not {self._tokens.shown(token)}")
        digits = token.text.replace("_", "")
        if len(digits) > MAX_DIGITS:
            raise self._tokens.error(token, f"a number has more than {MAX_DIGITS} digits")
        if of in (FLOAT32, FLOAT64):
            if digits == ".":
                raise self._tokens.error(token, "a number expected, not a point")
            number = float(f"{sign}{int(digits, 16) if digits[:2] in ('0x', '0X') else digits}")
            return number if of is FLOAT64 else self._single(token, number)
        if of is None:
            return None
        if of not in INTEGERS or token.kind == "float":
            raise self._wrong(token, of)
        integer = int(f"{sign}{digits}", 16 if digits[:2] in ("0x", "0X") else 10)
        least, greatest = INTEGERS[of]  # type: ignore[index]  # looked up above
        if (least is not None and integer < least) or (greatest is not None and integer > greatest):
            raise self._tokens.error(
                token, f"{to_text(of)} expected, {sign}{token.text[:SHOWN_CHARACTERS]} is out of its range"
            )
        return integer

    def _single(self, token: Token, number: float) -> float:
        packer = FIXED[FLOAT32]
        try:
            return float(packer.unpack(packer.pack(number))[0])
        except OverflowError:
            raise self._tokens.error(
                token, f"float32 expected, {self._tokens.shown(token)} is out of its range"
            ) from None

    def _vec(self, token: Token, of: Type | None) -> Any:
        item = None if of is None else self._wanted(token, of, Vec).of
        self._tokens.expect("{")
        values = []
        while not self._tokens.is_mark("}"):
            value = self._value(item)
            if item is not None:
                values.append(value)
            if not self._tokens.skip(";"):
                break
        self._tokens.expect("}")
        return bytes(values) if item is NAT8 else values

    def _record(self, token: Token, of: Type | None) -> Any:
        wanted = {} if of is None else self._wanted(token, of, Record).by_hash
        values: dict[str | int, Any] = {}
        seen: set[int] = set()
        number = -1
        self._tokens.expect("{")
        while not self._tokens.is_mark("}"):
            start = self._tokens.token
            label = self._label()
            if label is not None and self._tokens.skip("="):
                number = label_hash(label)
            else:  # without a label: the number after the last one
                self._tokens.back_to(start)
                number += 1
            if number in seen or number > 0xFFFFFFFF:
                raise self._tokens.error(
                    start, f"the field {self._tokens.shown(start)} is there twice, or its number is too great"
                )
            seen.add(number)
            field = wanted.get(number)
            value = self._value(field.type if field else None)
            if field is not None:
                values[field.label] = value
            if not self._tokens.skip(";"):
                break
        self._tokens.expect("}")
        for field in wanted.values():
            if field.label not in values:
                if not may_be_absent(field.type):
                    raise self._tokens.error(
                        token, f"the field {label_text(field.label)} is missing: {to_text(field.type)}"
                    )
                values[field.label] = None
        return values

    def _variant(self, token: Token, of: Type | None) -> Any:
        wanted = None if of is None else self._wanted(token, of, Variant).by_hash
        self._tokens.expect("{")
        start = self._tokens.token
        label = self._label()
        if label is None:
            raise self._tokens.error(start, f"a tag expected, not {self._tokens.shown(start)}")
        field = None if wanted is None else wanted.get(label_hash(label))
        if wanted is not None and field is None:
            tags = ", ".join(label_text(item.label) for item in wanted.values())
            raise self._tokens.error(start, f"one of the tags {tags} expected, not {self._tokens.shown(start)}")
        value = self._payload(start, field)
        self._tokens.skip(";")
        self._tokens.expect("}")
        return None if field is None else {field.label: value}

    def _payload(self, tag: Token, field: Field | None) -> Any:
        if self._tokens.skip("="):
            return self._value(field.type if field else None)
        if field is not None and not may_be_absent(field.type):
            raise self._tokens.error(tag, f"the tag {self._tokens.shown(tag)} needs a value: {to_text(field.type)}")
        return None

    def _label(self) -> str | int | None:
        """A name or a number, if that is what comes next; it is read then."""
        token = self._tokens.token
        match token.kind:
            case "word":
                self._tokens.next()
                return token.text
            case "text":
                self._tokens.next()
                return self._tokens.string(token)
            case "number" if len(token.text) <= SHOWN_CHARACTERS:
                self._tokens.next()
                return int(token.text.replace("_", ""), 16 if token.text[:2] in ("0x", "0X") else 10)
        return None

    # -- types, in annotations

    def _type(self) -> Type:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._tokens.error(self._tokens.token, f"nested deeper than {MAX_DEPTH}")
        token = self._tokens.next()
        try:
            made = self._type_of(token)
        except TypeError as error:  # two labels with one hash, an opt of an opt
            raise self._tokens.error(token, str(error)) from None
        self._depth -= 1
        return made

    def _type_of(self, token: Token) -> Type:
        match token.kind, token.text:
            case "word", "opt":
                return Opt(self._type())
            case "word", "vec":
                return Vec(self._type())
            case "word", "blob":
                return BLOB
            case "word", "record":
                return Record(self._type_fields(is_variant=False))
            case "word", "variant":
                return Variant(self._type_fields(is_variant=True))
            case "word", name if name in PRIMITIVES:
                return PRIMITIVES[name]
        raise self._tokens.error(token, f"a type expected, not {self._tokens.shown(token)}")

    def _type_fields(self, *, is_variant: bool) -> tuple[Field, ...]:
        fields = []
        number = -1
        self._tokens.expect("{")
        while not self._tokens.is_mark("}"):
            start = self._tokens.token
            label = self._label()
            if label is not None and self._tokens.skip(":"):
                fields.append(Field(label, self._type()))
            elif is_variant and label is not None:
                fields.append(Field(label, NULL))
            else:
                self._tokens.back_to(start)
                label = number + 1
                fields.append(Field(label, self._type()))
            number = label_hash(label)
            if not self._tokens.skip(";"):
                break
        self._tokens.expect("}")
        return tuple(fields)

    # -- primitives and errors

    def _principal(self, token: Token) -> str:
        text = self._tokens.string(token)
        try:
            principal.from_text(text)
        except principal.PrincipalError as error:
            raise self._tokens.error(token, str(error)) from None
        return text

    def _checked(self, token: Token, of: Type | None, found: Type, value: Any) -> Any:
        """A value of type `found`, if that is what is wanted."""
        if of is not None and of != found:
            raise self._wrong(token, of)
        return value

    def _wanted(self, token: Token, of: Type, kind: type[T]) -> T:
        """The wanted type, if it is of the kind that was found."""
        if not isinstance(of, kind):
            raise self._wrong(token, of)
        return of

    def _wrong(self, token: Token, of: Type | None) -> CandidError:
        wanted = "a value" if of is None else to_text(of)
        hint = ": write opt in front of the value, or null" if isinstance(of, Opt) else ""
        return self._tokens.error(token, f"{wanted} expected, not {self._tokens.shown(token)}{hint}")
