"""The parts of structured fields (RFC 9651) that signed HTTP messages need: a list of names with parameters, bytes."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass

from canister.ao.encoding import Malformed

_MEMBER = re.compile(r"([a-z*][a-z0-9_.*-]*)=")
_BYTES = re.compile(r":([A-Za-z0-9+/]*={0,2}):")
_ANY_BYTES = re.compile(r":([A-Za-z0-9+/_-]*={0,2}):")
_NAME = re.compile(r'"([!-~ ]*?)"')
_PARAMETER = re.compile(r';\s*([a-z*][a-z0-9_.*-]*)(?:=("(?:[ !#-\[\]-~]|\\["\\])*"|-?[0-9]{1,15}))?')


@dataclass(frozen=True, slots=True)
class SignatureInput:
    """text: as it stands after the label, which is what is signed. parameters: strings without their quotes."""

    label: str
    text: str
    names: tuple[str, ...]
    parameters: Mapping[str, str | int | bool]


def read_signature_input(value: str) -> SignatureInput:
    """Exactly one member: `label=("a" "b");alg="…";keyid="…"`. Raises Malformed."""
    label, text = _member(value, "signature-input")
    if not text.startswith("("):
        raise Malformed("the field signature-input has no list of names in parentheses")
    at = 1
    names: list[str] = []
    while True:
        while text.startswith(" ", at):
            at += 1
        if text.startswith(")", at):
            at += 1
            break
        found = _NAME.match(text, at)
        if found is None:
            raise Malformed("the list of names in signature-input is not one of quoted names")
        names.append(found[1])
        at = found.end()
        if text[at : at + 1] not in (" ", ")"):
            raise Malformed(f"the name {found[1][:40]!r} in signature-input has parameters, which are not taken here")
    parameters: dict[str, str | int | bool] = {}
    while at < len(text):
        found = _PARAMETER.match(text, at)
        if found is None or found[1] in parameters:
            raise Malformed('the parameters in signature-input are not `;name="value"` or whole numbers, each once')
        parameters[found[1]] = _bare(found[2])
        at = found.end()
    return SignatureInput(label, text, tuple(names), parameters)


def read_signature(value: str) -> tuple[str, bytes]:
    """Exactly one member, `label=:base64:`, in its only form: else one signature would be many texts."""
    label, text = _member(value, "signature")
    found = _BYTES.fullmatch(text)
    data = _decoded(found[1]) if found else None
    if data is None or write_bytes(data) != text:
        raise Malformed("the field signature is not `label=:base64:` with padding")
    return label, data


def read_digests(value: str) -> dict[str, bytes]:
    """Of content-digest, by algorithm. Base64 may be the one of URLs, and without padding, as ao's clients send it."""
    digests: dict[str, bytes] = {}
    for part in value.split(","):
        name, text = _member(part.strip(), "content-digest")
        found = _ANY_BYTES.fullmatch(text)
        data = _decoded(found[1].rstrip("=").replace("-", "+").replace("_", "/")) if found else None
        if data is None or name in digests:
            raise Malformed("the field content-digest is not `algorithm=:base64:`, each once")
        digests[name] = data
    return digests


def write_bytes(data: bytes) -> str:
    return f":{base64.b64encode(data).decode()}:"


def write_input(names: list[str], parameters: Mapping[str, str]) -> str:
    listed = " ".join(f'"{name}"' for name in names)
    return f"({listed})" + "".join(f';{name}="{value}"' for name, value in parameters.items())


def _member(value: str, field: str) -> tuple[str, str]:
    found = _MEMBER.match(value)
    if found is None:
        raise Malformed(f"the field {field} does not begin with a label and `=`")
    return found[1], value[found.end() :]


def _bare(text: str | None) -> str | int | bool:
    if text is None:
        return True
    if text.startswith('"'):
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return int(text)


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        return None
