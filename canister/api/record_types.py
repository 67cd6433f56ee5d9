"""Candid types as Python knows them: numbers, texts and blobs, and what records, variants and tags are made from.

In JSON a blob is base64, a natural number may also be a string of digits (JavaScript loses precision above 2^53),
a variant without payload is its tag, and an absent `opt` is null.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)


@dataclass(frozen=True, slots=True)
class Candid:
    """Marks the Candid type of an annotation that Python has no type for."""

    type: str


def _natural(value: object) -> object:
    # To Python True is an int, and "1_0" and " 5" are numbers. A client must hear of such a mistake.
    if isinstance(value, bool | float) or (isinstance(value, str) and not (value.isascii() and value.isdecimal())):
        raise ValueError(f"a natural number is wanted, not {value!r}")
    return value


def _from_base64(value: object) -> object:
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except binascii.Error as error:
            raise ValueError(f"not base64: {error}") from None
    return value


_Natural = Annotated[int, Field(ge=0)]
_Natural16 = Annotated[int, Field(ge=0, lt=2**16)]
_Natural64 = Annotated[int, Field(ge=0, lt=2**64)]
_Digits = Annotated[str, Field(pattern="^[0-9]+$")]

# The second type is what the JSON schema says of an argument.
nat = Annotated[_Natural, BeforeValidator(_natural, _Natural | _Digits), Candid("nat")]
nat16 = Annotated[_Natural16, BeforeValidator(_natural, _Natural16 | _Digits), Candid("nat16")]
nat64 = Annotated[_Natural64, BeforeValidator(_natural, _Natural64 | _Digits), Candid("nat64")]
blob = Annotated[
    bytes,
    BeforeValidator(_from_base64),
    PlainSerializer(lambda value: base64.b64encode(value).decode("ascii"), when_used="json"),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
    Candid("blob"),
]
text = Annotated[str, Candid("text")]

T = TypeVar("T")

# Only the first wrong element is reported, since a message for each would cost more than the body itself.
vec = Annotated[list[T], Field(fail_fast=True)]


class Record(BaseModel):
    """A Candid record. Fields that a client sends beyond the known ones are ignored, as Candid subtyping does."""

    # Clients read all records and use few, so each is built when it is first used.
    model_config = ConfigDict(frozen=True, populate_by_name=True, extra="ignore", defer_build=True)

    candid_result: ClassVar[str | None] = None  # name of `variant {Ok: this; Err}`, if not <name>Result


class Variant(Record):
    """A Candid variant with payloads: exactly one field is set; its name is the tag."""

    @model_validator(mode="after")
    def _one_tag(self) -> Variant:
        if sum(getattr(self, name) is not None for name in type(self).model_fields) != 1:
            raise ValueError(f"exactly one of {', '.join(type(self).model_fields)} must be given")
        return self


class Tag(Enum):
    """A Candid variant without payloads."""

    @classmethod
    def _missing_(cls, value: object) -> Any:
        # {"AdminQuery": null} is the general JSON form of a variant.
        if isinstance(value, dict) and len(value) == 1:
            ((tag, payload),) = value.items()
            if payload is None and isinstance(tag, str) and tag in cls.__members__:
                return cls[tag]
        return None
