"""Functions of Python that a program's world stands on, run in its cage: digests, large integers, JSON, SQL in memory.

Each takes and gives plain values, ends after work that is bounded by the length of what it gets, and refuses with
HostError. They need no host, so nothing of them is in a log: a program that is run again calls them again.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Callable

from canister.ao.lua.databases import Databases
from canister.ao.lua.sandbox import HostError, HostFunction, Sandbox
from canister.ao.lua.values import Value

MAX_BITS = 4096
MAX_DIGITS = 1300  # of MAX_BITS
MAX_JSON_DEPTH = 100
_COMMA = re.compile(rb'("(?:[^"\\]|\\.)*(?:"|\\?\Z))|,(?=\s*[}\]])', re.DOTALL)  # what never ends, too
_DIGESTS = {
    b"md5": "md5",
    b"sha1": "sha1",
    b"sha2_256": "sha256",
    b"sha2_512": "sha512",
    b"sha3_256": "sha3_256",
    b"sha3_512": "sha3_512",
    b"blake2b": "blake2b",
}


def define_all(sandbox: Sandbox) -> None:
    """Under `__native`, which the world takes away before a program runs."""
    databases = Databases(lambda: sandbox.now_ms)
    sandbox.beside = databases
    named: dict[str, HostFunction] = {
        "base64_encode": lambda data: base64.b64encode(_bytes(data)),
        "base64_decode": _base64_decode,
        "digest": _digest,
        "hmac": _hmac,
        "int": _int,
        "int_compare": lambda a, b: (_number(a) > _number(b)) - (_number(a) < _number(b)),
        "int_parse": _int_parse,
        "int_wrap": _int_wrap,
        "int_unsigned": lambda a, bits: _text(_number(a) % (1 << _bits(bits))),
        "int_bound": _int_bound,
        "int_powmod": _int_powmod,
        "int_base": _int_base,
        "int_small": lambda a: (_number(a) + (1 << 63)) % (1 << 64) - (1 << 63),
        "json_decode": json_decode,
        "sqlite": databases.ask,
        "sqlite_complete": Databases.is_complete,
        "sqlite_version": Databases.version,
    }
    for name, function in named.items():
        sandbox.define(f"__native.{name}", function)


def json_decode(text: Value) -> Value:
    """Also with a comma before the end of a list or an object, which programs write. Nothing stands for null."""
    data = _bytes(text)
    try:
        try:
            found = _loads(data)
        except ValueError:
            found = _loads(_COMMA.sub(lambda match: match[1] or b"", data))
        return _of_json(found, 0)
    except (ValueError, RecursionError) as error:
        raise HostError(f"the text is no JSON: {error}"[:300]) from None


def _loads(data: bytes) -> object:
    found: object = json.loads(data.decode("utf-8", "surrogateescape"), parse_constant=_refused, parse_int=_whole)
    return found


def _refused(word: str) -> object:
    raise ValueError(f"{word} is no number of JSON")


def _whole(digits: str) -> int | float:
    number = int(digits) if len(digits) < 20 else 1 << 64
    return number if -(2**63) <= number < 2**63 else float(digits)


def _of_json(value: object, depth: int) -> Value:
    if depth > MAX_JSON_DEPTH:
        raise ValueError(f"it is nested more than {MAX_JSON_DEPTH} times")
    if isinstance(value, str):
        return _encoded(value)
    if isinstance(value, list):
        return {i: _of_json(item, depth + 1) for i, item in enumerate(value, 1) if item is not None}
    if isinstance(value, dict):
        return {_encoded(key): _of_json(item, depth + 1) for key, item in value.items()}
    assert value is None or isinstance(value, bool | int | float)
    return value


def _encoded(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a pair, written as \ud800
        return text.encode("utf-8", "replace")


def _base64_decode(text: Value) -> Value:
    given = re.sub(rb"[^A-Za-z0-9+/_-]", b"", _bytes(text)).replace(b"-", b"+").replace(b"_", b"/")
    try:
        return base64.b64decode(given + b"=" * (-len(given) % 4))
    except binascii.Error:
        raise HostError("the text is not base64") from None


def _digest(name: Value, data: Value) -> Value:
    return hashlib.new(_algorithm(name), _bytes(data), usedforsecurity=False).digest()


def _hmac(name: Value, key: Value, data: Value) -> Value:
    return hmac.new(_bytes(key), _bytes(data), _algorithm(name)).digest()


def _algorithm(name: Value) -> str:
    found = _DIGESTS.get(_bytes(name))
    if found is None:
        raise HostError(f"{_bytes(name)[:40].decode(errors='replace')} is no digest that is known here")
    return found


# -- integers


def _bits(value: Value) -> int:
    if not isinstance(value, int) or not 1 <= value <= MAX_BITS:
        raise HostError(f"integers have from 1 to {MAX_BITS} bits")
    return value


def _number(value: Value) -> int:
    text = _bytes(value)
    if len(text) > MAX_DIGITS or not re.fullmatch(rb"-?[0-9]+", text):
        raise HostError("value cannot be represented by a bint")
    return int(text)


def _text(number: int) -> bytes:
    return str(number).encode()


def _wrapped(number: int, bits: int) -> bytes:
    half = 1 << (bits - 1)
    return _text((number + half) % (half << 1) - half)


def _toward_zero(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def _int(name: Value, first: Value, second: Value, width: Value) -> Value:
    a, b, bits = _number(first), _number(second), _bits(width)
    word = _bytes(name).decode()
    if word in _DIVIDING and b == 0:
        raise HostError("attempt to perform division by zero")
    if word in ("shl", "shr"):
        return _shifted(a, b if word == "shl" else -b, bits)
    if word == "pow":
        return _wrapped(pow(a, b % (1 << bits), 1 << bits), bits)
    if word in ("udiv", "umod"):
        a, b = a % (1 << bits), b % (1 << bits)
    return _wrapped(_OPERATIONS[word](a, b), bits)


_DIVIDING = ("idiv", "mod", "tdiv", "tmod", "udiv", "umod")
_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "idiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "udiv": lambda a, b: a // b,
    "umod": lambda a, b: a % b,
    "tdiv": _toward_zero,
    "tmod": lambda a, b: a - b * _toward_zero(a, b),
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
}


def _shifted(a: int, by: int, bits: int) -> bytes:
    if abs(by) >= bits:
        return b"0"
    return _wrapped(a << by if by >= 0 else (a % (1 << bits)) >> -by, bits)


def _int_parse(text: Value, base: Value, width: Value) -> Value:
    """Nothing for what is no number. base 0: of ten, or of sixteen after 0x."""
    given, bits = _bytes(text).strip(), _bits(width)
    if len(given) > MAX_BITS or b"_" in given or not isinstance(base, int) or not (base == 0 or 2 <= base <= 36):
        return None
    if base == 0:
        base = 16 if re.match(rb"[+-]?0[xX]", given) else 10
    try:
        return _wrapped(int(given, base), bits)
    except ValueError:
        return None


def _int_wrap(text: Value, width: Value, is_unsigned: Value) -> Value:
    number = _number(text)
    return _wrapped(number % (1 << 64) if is_unsigned else number, _bits(width))


def _int_bound(name: Value, width: Value) -> Value:
    half = 1 << (_bits(width) - 1)
    return _text(half - 1 if name == b"max" else -half)


def _int_powmod(a: Value, b: Value, m: Value, width: Value) -> Value:
    bits = _bits(width)
    if _number(m) == 0:
        raise HostError("attempt to perform division by zero")
    size = 1 << bits
    return _wrapped(pow(_number(a) % size, _number(b) % size, _number(m) % size), bits)


def _int_base(text: Value, base: Value) -> Value:
    number = _number(text)
    if not isinstance(base, int) or not 2 <= base <= 36:
        raise HostError("a base is from 2 to 36")
    digits, left = "", abs(number)
    while left:
        left, digit = divmod(left, base)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return (("-" if number < 0 else "") + (digits or "0")).encode()


def _bytes(value: Value) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value).encode()
    raise HostError("a text is needed")
