"""Arguments and replies of the methods as Candid: binary for IC messages, text for people, JSON as dfx prints it.

One codec per row of the interface table, made from its types when first used. Values are the records themselves. What
does not decode is a BadArgument in an argument, and a CandidError in a reply.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from types import NoneType
from typing import Any

from pydantic import TypeAdapter, ValidationError

from canister.api import strict_json
from canister.api.methods import Method
from canister.api.record_types import Candid
from canister.api.record_types import Variant as VariantRecord
from canister.errors import BadArgument
from canister.ic.annotations import Marks, result_type, type_of
from canister.ic.candid import as_json, parse, pretty
from canister.ic.candid.decode import decode
from canister.ic.candid.encode import encode
from canister.ic.candid.types import TEXT, CandidError, Type, Variant, to_text

SHOWN_CHARACTERS = 80
SHOWN_PROBLEMS = 3
MAX_TOKENS = 200_000  # of an argument in Candid text

MARKS = Marks(type_marker=Candid, variant=VariantRecord)


@dataclass(frozen=True, slots=True)
class Answer:
    """A method's answer. is_err: the value stood inside `Err`."""

    value: Any
    is_err: bool = False


# -- arguments


def encode_args(method: Method, value: object = None) -> bytes:
    """A message with the one argument of a method, or with none if it takes none."""
    return encode(_arg_types(method), _plain_args(method, value))


def decode_args(method: Method, data: bytes | memoryview) -> Any:
    """The argument, checked; None for a method without one. BadArgument says what is wrong where."""
    try:
        return _checked(method.arg, decode(data, _arg_types(method)))
    except CandidError as error:
        raise _bad_argument(method, error) from None


def args_from_text(method: Method, text: str) -> Any:
    """The argument in Candid text: `(record { … })`, or as dfx takes it, the value alone, a text even without quotes.

    Raises BadArgument.
    """
    if _arg_types(method) == (TEXT,) and not text.lstrip().startswith(("(", '"')):
        return text
    try:
        return _checked(method.arg, parse.parse_args(text, _arg_types(method), MAX_TOKENS))
    except CandidError as error:
        raise _bad_argument(method, error) from None


def args_from_json(method: Method, value: object) -> Any:
    """The argument from a JSON value, in the form of the REST interface. Raises BadArgument."""
    return None if method.arg is None else args_from_json_text(method, json.dumps(value))


def args_from_json_text(method: Method, text: str | bytes) -> Any:
    """The argument from JSON. BadArgument names the field, shows the value, and says what is wanted."""
    try:
        strict_json.check(text)
        # From the text, so that the message speaks of objects and arrays.
        return _adapter(method.arg).validate_json(text)
    except (strict_json.NotJson, ValidationError) as error:
        told = _problems(error) if isinstance(error, ValidationError) else str(error)
        raise BadArgument(f"The argument of {method.name} does not decode: {told}.") from None


def args_to_text(method: Method, value: object = None, *, width: int = pretty.WIDTH) -> str:
    return pretty.pretty(_arg_types(method), _plain_args(method, value), width)


# -- replies; value: what stands inside `Ok` or `Err`, or the bare result


def encode_reply(method: Method, value: object, is_err: bool = False) -> bytes:
    """A message with what a method answered."""
    if method.ok is NoneType:
        return encode((), ())
    return encode((_result_type(method),), (_plain_result(method, value, is_err),))


def decode_reply(method: Method, data: bytes | memoryview) -> Answer:
    """The record in a reply. Raises CandidError."""
    return _answer(method, decode(data, (_result_type(method),))[0])


def reply_to_text(method: Method, value: object, is_err: bool = False, *, width: int | None = pretty.WIDTH) -> str:
    """A reply as icp and dfx print it, broken into lines at `width`; None: the one line of dfx's `--output idl`."""
    types, values = (_result_type(method),), (_plain_result(method, value, is_err),)
    return pretty.flat(types, values) if width is None else pretty.pretty(types, values, width)


def reply_to_json(method: Method, value: object, is_err: bool = False) -> Any:
    """A reply as dfx's `--output json` shows it: opts are lists, 64-bit numbers texts, blobs lists of numbers."""
    return as_json.as_json(_result_type(method), _plain_result(method, value, is_err))


# -- types


@functools.cache
def _arg_types(method: Method) -> tuple[Type, ...]:
    return () if method.arg is None else (type_of(method.arg, MARKS),)


@functools.cache
def _result_type(method: Method) -> Type:
    return result_type(method.ok, method.err, MARKS)


# -- records to plain values and back


@functools.cache
def _adapter(of: Any) -> TypeAdapter[Any]:
    return TypeAdapter(of)


def _plain(of: Any, value: object) -> Any:
    # An opt that is absent and a tag that is not set are both None in Python, and both are not there in Candid.
    return _adapter(of).dump_python(value, by_alias=True, exclude_none=True)


def _plain_args(method: Method, value: object) -> tuple[object, ...]:
    return () if method.arg is None else (_plain(method.arg, value),)


def _plain_result(method: Method, value: object, is_err: bool) -> object:
    if method.err is None:
        return _plain(method.ok, value)
    return {"Err": _plain(method.err, value)} if is_err else {"Ok": _plain(method.ok, value)}


def _checked(of: Any, values: list[Any]) -> Any:
    if not values:
        return None
    try:
        return _adapter(of).validate_python(values[0])
    except ValidationError as error:
        # Types and ranges were checked before: only a rule of the record itself can be broken.
        raise CandidError(_problems(error)) from None


def _problems(error: ValidationError) -> str:
    """Which fields are wrong, why, and what was given instead; the first few of them.

    There are no more than a record has fields, since lists end at their first problem (`records.vec`).
    """
    found = error.errors(include_url=False, include_context=False)
    problems = []
    for problem in found[:SHOWN_PROBLEMS]:
        field = ".".join(str(part) for part in problem["loc"])
        what = problem["msg"].removeprefix("Value error, ")
        shown = "" if problem["type"] in ("missing", "too_long") else f" (given: {_shorten(problem['input'])})"
        problems.append(f"{f'field {field}: ' if field else ''}{what}{shown}")
    if len(found) > len(problems):
        problems.append(f"and {len(found) - len(problems)} more")
    return "; ".join(problems)


def _shorten(value: object) -> str:
    text = ""
    for piece in json.JSONEncoder(ensure_ascii=False, default=repr).iterencode(value):
        text += piece
        if len(text) > SHOWN_CHARACTERS:
            break
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"


def _answer(method: Method, value: Any) -> Answer:
    if not isinstance(_result_type(method), Variant) or method.err is None:
        return Answer(_checked(method.ok, [value]))
    ((tag, payload),) = value.items()
    is_err = tag == "Err"
    return Answer(_checked(method.err if is_err else method.ok, [payload]), is_err)


def wanted(method: Method) -> str:
    """The types of a method's argument, as a person writes them."""
    return f"({', '.join(map(to_text, _arg_types(method)))})"


def _bad_argument(method: Method, error: CandidError) -> BadArgument:
    return BadArgument(f"failed to decode call arguments: {error}; {method.name} takes {wanted(method)}")
