"""Candid in binary: a stranger's message to values of the wanted types.

The length of a message bounds the steps that reading it may cost (`reader`), so the known traps fail at once: a vec of
a million nulls in ten bytes, records that contain themselves, types that double at each level. Subtyping: a missing opt
is null, and so is an opt's content of another type; surplus fields and arguments are skipped; a nat is an int too.
Source: https://github.com/dfinity/candid/blob/master/spec/Candid.md, "Decoding" and "Binary Format".
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from canister.ic import principal
from canister.ic.candid.encode import FIXED, FUNC, MAGIC, OPCODES, OPT, RECORD, SERVICE, VARIANT, VEC, header
from canister.ic.candid.reader import FREE_STEPS, MAX_LENGTH_BYTES, MAX_STEPS, Reader
from canister.ic.candid.types import (
    BOOL,
    EMPTY,
    INT,
    NAT,
    NAT8,
    NULL,
    PRINCIPAL,
    RESERVED,
    TEXT,
    CandidError,
    Opt,
    Prim,
    Record,
    Type,
    Variant,
    Vec,
    may_be_absent,
    to_text,
)

MAX_TYPES = 500
MAX_FIELDS = 1000  # of all types of a message together

_PRIMS: Mapping[int, Prim] = MappingProxyType({code: prim for prim, code in OPCODES.items()})
_NAT8, _TEXT = OPCODES[NAT8], OPCODES[TEXT]
_KINDS: Mapping[int, str] = MappingProxyType(
    {OPT: "an opt", VEC: "a vec", RECORD: "a record", VARIANT: "a variant", FUNC: "a func", SERVICE: "a service"}
)


class Mismatch(CandidError):
    """A sound value of another type than the wanted one. Inside an opt it counts as null."""


@dataclass(frozen=True, slots=True)
class _Wire:
    """An entry of a message's type table.

    of: what an opt or a vec holds. fields: hash and type, of records and variants; for a service the types alone count.
    """

    kind: int
    of: int = 0
    fields: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class _Usual:
    """The header that a message of given types has when it comes from our own encoder, as most do; and what it says."""

    data: bytes
    table: list[_Wire]
    references: tuple[int, ...]
    n_fields: int
    n_steps: int


@functools.lru_cache(maxsize=256)
def _usual(of: tuple[Type, ...]) -> _Usual:
    data = header(of)
    return Decoder(data).usual(data)


def decode(data: bytes | bytearray | memoryview, of: Sequence[Type]) -> list[Any]:
    """The values of a message, one for each type of `of`. Raises CandidError, with the place of what is wrong."""
    return Decoder(data).message(of)


class Decoder:
    """Reads one message. reader: its bytes, and the cost of reading them."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self.reader = Reader(data)
        self._table: list[_Wire] = []
        self._n_types = 0
        self._n_fields = 0
        self._path: list[str] = []  # of an error that is on its way, from the inside

    def message(self, of: Sequence[Type]) -> list[Any]:
        try:
            return self._message(of)
        except CandidError as error:
            if not self._path:
                raise
            raise type(error)(f"{'.'.join(reversed(self._path))}: {error}") from None

    def _message(self, of: Sequence[Type]) -> list[Any]:
        references = self._header(tuple(of))
        n_arguments = len(references)
        values = []
        for index, item in enumerate(of):
            if index < n_arguments:
                try:
                    values.append(self._value(references[index], item, 0))
                except CandidError:
                    self._path.append(f"argument {index}")
                    raise
            elif may_be_absent(item):
                values.append(None)
            else:
                self._path.append(f"argument {index}")
                raise CandidError(f"{to_text(item)} is wanted, and there are only {n_arguments} arguments")
        for reference in references[len(of) :]:
            self._skip(reference, 0)
        if self.reader.room:
            raise CandidError(f"{self.reader.room} bytes are left over after the last argument")
        return values

    # -- types

    def _header(self, of: tuple[Type, ...]) -> Sequence[int]:
        """Read all before the values: the types of the message, and which of them the arguments have."""
        usual = _usual(of)
        if self.reader.starts_with(usual.data):
            self.reader.pass_over(len(usual.data), usual.n_steps)
            self._table, self._n_types, self._n_fields = usual.table, len(usual.table), usual.n_fields
            return usual.references
        return self.read_header()

    def read_header(self) -> list[int]:
        """As any message may have it."""
        if self.reader.take(4) != MAGIC:
            raise CandidError("the message does not begin with DIDL")
        self._read_table()
        return [self._reference() for _ in range(self.reader.length("arguments"))]

    def usual(self, data: bytes) -> _Usual:
        """What reading this header has found."""
        references = self.read_header()
        return _Usual(data, self._table, tuple(references), self._n_fields, self.reader.steps)

    def _read_table(self) -> None:
        n_types = self.reader.length("types", MAX_TYPES)
        self._n_types = n_types
        self._table = [self._definition() for _ in range(n_types)]
        for wire in self._table:
            if wire.kind == SERVICE:
                for _, method in wire.fields:
                    if method < 0 or self._table[method].kind != FUNC:
                        raise CandidError("a method of a service is not of a func type")

    def _definition(self) -> _Wire:
        kind = self.reader.signed(MAX_LENGTH_BYTES)
        if kind in (OPT, VEC):
            return _Wire(kind, of=self._reference())
        if kind in (RECORD, VARIANT):
            return _Wire(kind, fields=self._fields())
        if kind == FUNC:
            for _ in range(2):  # arguments, results
                for _ in range(self._count_fields("types of a func")):
                    self._reference()
            for _ in range(self._count_fields("annotations of a func")):
                if self.reader.byte() not in (1, 2, 3):
                    raise CandidError("an annotation of a func is unknown")
            return _Wire(kind)
        if kind == SERVICE:
            return _Wire(kind, fields=self._methods())
        if kind < min(_PRIMS):  # a type of the future: it says how long it is
            self.reader.take(self.reader.unsigned(MAX_LENGTH_BYTES))
            return _Wire(kind)
        raise CandidError(f"{kind} is not what a type begins with")

    def _fields(self) -> tuple[tuple[int, int], ...]:
        fields = []
        last = -1
        for _ in range(self._count_fields("fields")):
            number = self.reader.unsigned(MAX_LENGTH_BYTES)
            if number <= last or number > 0xFFFFFFFF:
                raise CandidError("the fields of a type are not in order, or one is there twice")
            last = number
            fields.append((number, self._reference()))
        return tuple(fields)

    def _methods(self) -> tuple[tuple[int, int], ...]:
        methods = []
        last = ""
        for index in range(self._count_fields("methods")):
            name = self.reader.text()
            if index and name <= last:
                raise CandidError("the methods of a service are not in order, or one is there twice")
            last = name
            methods.append((0, self._reference()))
        return tuple(methods)

    def _count_fields(self, what: str) -> int:
        count = self.reader.length(what, MAX_FIELDS - self._n_fields)
        self._n_fields += count
        return count

    def _reference(self) -> int:
        """A type: below 0 an opcode, else an index into the table."""
        self.reader.steps += 1
        reference = self.reader.signed(MAX_LENGTH_BYTES)
        if reference >= self._n_types or (reference < 0 and reference not in _PRIMS):
            raise CandidError(f"{reference} refers to no type")
        return reference

    # -- values of the wanted type

    def _value(self, reference: int, of: Type, depth: int) -> Any:
        self.reader.step(depth)
        if isinstance(of, Prim):
            if of is RESERVED:
                self._skip(reference, depth + 1)
                return None
            wire = _PRIMS.get(reference)
            if wire is of or (wire is NAT and of is INT):
                return self._primitive(wire)
            raise self._mismatch(reference, of)
        if isinstance(of, Opt):
            return self._opt(reference, of, depth)
        if reference < 0:
            raise self._mismatch(reference, of)
        entry = self._table[reference]
        if isinstance(of, Vec) and entry.kind == VEC:
            return self._vec(entry.of, of, depth)
        if isinstance(of, Record) and entry.kind == RECORD:
            return self._record(entry, of, depth)
        if isinstance(of, Variant) and entry.kind == VARIANT:
            return self._variant(entry, of, depth)
        raise self._mismatch(reference, of)

    def _opt(self, reference: int, of: Opt, depth: int) -> Any:
        if reference < 0:
            if _PRIMS[reference] in (NULL, RESERVED):
                return None
        elif self._table[reference].kind == OPT:
            if not self.reader.flag():
                return None
            reference = self._table[reference].of
        start = self.reader.at
        try:
            return self._value(reference, of.of, depth + 1)
        except Mismatch:
            self.reader.back_to(start)
            self._path.clear()
            self._skip(reference, depth + 1)
            return None

    def _vec(self, item: int, of: Vec, depth: int) -> Any:
        length = self._elements(item)
        if of.of is NAT8 and (item == _NAT8 or length == 0):
            return bytes(self.reader.take(length))
        if of.of is TEXT and item == _TEXT:
            return self.reader.texts(length)
        return [self._value(item, of.of, depth + 1) for _ in range(length)]

    def _record(self, entry: _Wire, of: Record, depth: int) -> dict[str | int, Any]:
        values: dict[str | int, Any] = {}
        wanted = of.by_hash
        for number, reference in entry.fields:
            field = wanted.get(number)
            if field is None:
                self._skip(reference, depth + 1)
                continue
            try:
                values[field.label] = self._value(reference, field.type, depth + 1)
            except CandidError:
                self._path.append(str(field.label))
                raise
        if len(values) < len(wanted):
            for field in wanted.values():
                if field.label not in values:
                    if not may_be_absent(field.type):
                        raise Mismatch(f"field {field.label} is missing: {to_text(field.type)}")
                    values[field.label] = None
        return values

    def _variant(self, entry: _Wire, of: Variant, depth: int) -> dict[str | int, Any]:
        number, reference = self._tag(entry)
        field = of.by_hash.get(number)
        if field is None:
            raise Mismatch(f"the tag with number {number} is none of {to_text(of)}")
        try:
            return {field.label: self._value(reference, field.type, depth + 1)}
        except CandidError:
            self._path.append(str(field.label))
            raise

    def _primitive(self, of: Prim) -> Any:
        packer = FIXED.get(of)
        if packer is not None:
            return packer.unpack(self.reader.paid(packer.size))[0]
        return _READERS[of](self.reader)

    # -- values that nobody wants

    def _skip(self, reference: int, depth: int) -> None:
        self.reader.step(depth)
        if reference < 0:
            self._primitive(_PRIMS[reference])
            return
        entry = self._table[reference]
        if entry.kind == OPT:
            if self.reader.flag():
                self._skip(entry.of, depth + 1)
        elif entry.kind == VEC:
            length = self._elements(entry.of)
            packer = FIXED.get(_PRIMS[entry.of]) if entry.of < 0 else None
            if packer is not None:
                self.reader.take(length * packer.size)
                return
            for _ in range(length):
                self._skip(entry.of, depth + 1)
        elif entry.kind == RECORD:
            for _, field in entry.fields:
                self._skip(field, depth + 1)
        elif entry.kind == VARIANT:
            self._skip(self._tag(entry)[1], depth + 1)
        elif entry.kind == SERVICE:
            self.reader.principal()
        elif entry.kind == FUNC:
            if not self.reader.flag():
                raise CandidError("an opaque func has no meaning here")
            self.reader.principal()
            self.reader.text()
        else:
            n_bytes, n_references = self.reader.unsigned(MAX_LENGTH_BYTES), self.reader.unsigned(MAX_LENGTH_BYTES)
            if n_references:
                raise CandidError("opaque references have no meaning here")
            self.reader.take(n_bytes)

    # -- parts of values

    def _elements(self, item: int) -> int:
        """The length of a vec, refused at once if the message cannot hold so many."""
        length = self.reader.unsigned(MAX_LENGTH_BYTES)
        packer = FIXED.get(_PRIMS[item]) if item < 0 else None
        room = self.reader.room
        if packer is None and length > MAX_STEPS:
            raise CandidError(f"a vec has {length} elements, at most {MAX_STEPS} are taken")
        if (length * packer.size > room) if packer is not None else (length > room + FREE_STEPS):
            raise CandidError(f"a vec is said to have {length} elements, and the message has {room} bytes left")
        return length

    def _tag(self, entry: _Wire) -> tuple[int, int]:
        index = self.reader.unsigned(MAX_LENGTH_BYTES)
        if index >= len(entry.fields):
            raise CandidError(f"a variant has tag {index}, and its type only {len(entry.fields)} tags")
        return entry.fields[index]

    def _mismatch(self, reference: int, of: Type) -> Mismatch:
        prim = _PRIMS.get(reference)
        found = prim.name if prim else _KINDS.get(self._table[reference].kind, "a type of the future")
        return Mismatch(f"{to_text(of)} is wanted, not {found}")


def _read_empty(reader: Reader) -> Any:
    raise CandidError("a value of type empty cannot be")


_READERS: Mapping[Prim, Callable[[Reader], Any]] = {
    NULL: lambda reader: None,
    RESERVED: lambda reader: None,
    EMPTY: _read_empty,
    BOOL: Reader.flag,
    TEXT: Reader.text,
    NAT: Reader.natural,
    INT: Reader.integer,
    PRINCIPAL: lambda reader: principal.to_text(reader.principal()),
}
