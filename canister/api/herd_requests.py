"""How the leader of a herd asks its workers: routes, ids, and signatures. `herd_wire.py` has the messages.

Pure functions, no I/O. A request that the herd has not signed for this worker, at this time, is NotSigned.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, urlencode

from canister.api.cbor_fields import WireError, fields_of
from canister.ic import cbor

RUN, CONTROL, CHATS, ANSWERS, AUDIT, STATE, DRAIN = (
    f"/herd/1/{name}" for name in ("run", "control", "chats", "answers", "audit", "state", "drain")
)
CBOR_TYPE = "application/cbor"
FRAMES_TYPE = "application/x-herd-frames"
CONTAINER_TYPE = "application/octet-stream"

SIGNATURE_HEADER = "X-Herd"
CALLER_HEADER = "X-Herd-Caller"
"""The caller that the herd asserts for a request to another route of a worker. It is signed too."""
ANSWER_HEADER = "X-Herd-Answer"
"""With a caller: the request makes a whole answer, which another worker may have to make again (`AnswerTry`)."""
FRAMED_HEADER = "X-Herd-Framed"
"""In the answer to such a request: its body comes as frames (`herd_frames.py`)."""
HEAD_HEADER = "X-Herd-Head"
"""In hex, in the answers to GET and PUT of a chat: its head, as it is then. With a PUT: the head of what it brings, so
that nothing else is taken.
"""

MAX_CHAT_BYTES = 1 << 30  # of a container that is moved with its KV rows; a larger one is moved as tokens alone
MAX_CLOCK_NS = 60 * 10**9  # by which a signed request may be older or newer than its receiver's clock


class NotSigned(Exception):
    """A request that the herd has not signed for this worker, now. The message names what is wrong."""


# -- ids


def job_of_key(canister: str, caller: str, key: str) -> bytes:
    """The id of the job that a caller began under this idempotency key."""
    return _id("job", canister, caller, key)


def job_of_answer(answer: bytes, n: int) -> bytes:
    """The id under which the herd settles the n-th call of a whole answer."""
    return _id("answer", answer.hex(), n)


def job_of_control(canister: str, rev: int) -> bytes:
    """The id under which every worker runs an entry of the control log."""
    return _id("control", canister, rev)


def _id(kind: str, *parts: str | int) -> bytes:
    return hashlib.sha256(b"llama-canister herd\n" + cbor.encode([kind, *parts])).digest()


# -- chats


def chat_target(canister: str, caller: str, path: str, *, rows: bool = False) -> str:
    """Path and query by which a chat is fetched and put. Send it as it is, since it is signed so."""
    named = {"canister": canister, "caller": caller, "path": path} | ({"rows": "1"} if rows else {})
    return f"{CHATS}?{urlencode(named, quote_via=quote, safe='')}"


@dataclass(frozen=True, slots=True)
class ChatQuery:
    """Which chat is asked for. rows: with its KV rows."""

    canister: str
    caller: str
    path: str
    rows: bool


def chat_query(query: str) -> ChatQuery:
    """The chat that the query of `chat_target` names. Raises WireError."""
    named = _named(query, "canister", "caller", "path")
    return ChatQuery(named["canister"], named["caller"], named["path"], named.get("rows") == "1")


def _named(query: str, *needed: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=8)
    except ValueError as error:
        raise WireError(f"the query does not decode: {error}") from None
    named = dict(pairs)
    missing = set(needed) - named.keys()
    if missing or len(named) < len(pairs):
        raise WireError(f"the query names {', '.join(needed)}, each once; missing: {sorted(missing)}")
    return named


# -- kept answers


@dataclass(frozen=True, slots=True)
class AnswerQuery:
    """Which kept answers are asked for: of an id, or a key."""

    canister: str
    caller: str
    id: str | None = None
    key: str | None = None

    @property
    def target(self) -> str:
        """Path and query. Send it as it is, since it is signed so."""
        named = {"canister": self.canister, "caller": self.caller, "id": self.id, "key": self.key}
        told = {name: value for name, value in named.items() if value is not None}
        return f"{ANSWERS}?{urlencode(told, quote_via=quote, safe='')}"


def answer_query(query: str) -> AnswerQuery:
    """What the query of such a target names. Raises WireError."""
    named = _named(query, "canister", "caller")
    return AnswerQuery(named["canister"], named["caller"], named.get("id"), named.get("key"))


# -- audits


@dataclass(frozen=True, slots=True)
class ToldRecord:
    """A call that a worker is to decode again: its record and terms as the journal has them, and its tokens (words of
    `ic/receipts/`), as far as they are at hand.
    """

    canister: str
    index: int
    record: bytes
    terms: bytes
    words: bytes

    def encode(self) -> bytes:
        return cbor.encode({name: getattr(self, name) for name in ("canister", "index", "record", "terms", "words")})

    @classmethod
    def decode(cls, data: bytes) -> ToldRecord:
        """Raises WireError."""
        of = fields_of(data)
        return cls(of.text("canister"), of.number("index"), of.data("record"), of.data("terms"), of.data("words"))


# -- signatures

_SIGNATURE = re.compile(r"v1 ([A-Za-z0-9._-]{1,64}) ([0-9]{1,18}) ([0-9]{1,19}) ([0-9a-f]{64}) ([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class HerdKey:
    """What leader and worker share: the worker's id, the generation of its process, the herd's secret."""

    worker: str
    generation: int
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Signed:
    """A request that the herd has signed, if its body has this SHA-256. mac: no other request has it."""

    mac: str
    body_sha256: bytes

    def check_body(self, sha256: bytes) -> None:
        """Raise NotSigned for another body."""
        if sha256 != self.body_sha256:
            raise NotSigned("the body is not the one that was signed")


def read_secret(text: str) -> bytes:
    """The secret in the contents of its file: 32 bytes in hex. Raises ValueError, which does not repeat it."""
    try:
        secret = bytes.fromhex(text)
    except ValueError:
        secret = b""
    if len(secret) != 32:
        raise ValueError("the secret of a herd is 32 bytes in hex")
    return secret


def sign(key: HerdKey, method: str, target: str, body: bytes, *, now_ns: int, caller: str = "") -> str:
    """The X-Herd header of a request. target: path and query as they are sent. caller: that of X-Herd-Caller."""
    sha256 = hashlib.sha256(body).hexdigest()
    return f"v1 {key.worker} {key.generation} {now_ns} {sha256} {_mac(key, method, target, sha256, now_ns, caller)}"


def check(key: HerdKey, header: str | None, method: str, target: str, *, now_ns: int, caller: str = "") -> Signed:
    """Is a request signed for this worker, now? Nothing of its body is needed for that. Raises NotSigned."""
    found = _SIGNATURE.fullmatch(header or "")
    if found is None:
        raise NotSigned(f"{SIGNATURE_HEADER} must be 'v1 WORKER GENERATION UNIX_NS SHA256 HEX', signed by the herd")
    worker, generation, at_ns, sha256, mac = found[1], int(found[2]), int(found[3]), found[4], found[5]
    if worker != key.worker:
        raise NotSigned(f"this is worker {key.worker}, and the request is for worker {worker}")
    if generation != key.generation:
        raise NotSigned(f"this is generation {key.generation} of the worker, and the request is for {generation}")
    if not hmac.compare_digest(mac, _mac(key, method, target, sha256, at_ns, caller)):
        raise NotSigned("the request is not signed with the secret of this herd, or was changed on its way")
    if abs(now_ns - at_ns) > MAX_CLOCK_NS:
        raise NotSigned(
            f"the request was signed {abs(now_ns - at_ns) // 10**9} seconds before or after now, at most "
            f"{MAX_CLOCK_NS // 10**9} are taken: see to the clocks of both machines"
        )
    return Signed(mac, bytes.fromhex(sha256))


def _mac(key: HerdKey, method: str, target: str, sha256: str, at_ns: int, caller: str) -> str:
    said = f"{method}\n{target}\n{key.worker}\n{key.generation}\n{at_ns}\n{caller}\n{sha256}"
    return hmac.new(key.secret, said.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


# -- whole answers

_ANSWER = re.compile(r"v1 ([0-9a-f]{64}) ([0-9]{1,20}) ([0-9]{1,19}) ([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class AnswerTry:
    """One try of a whole answer. id: 32 bytes; the same id gives the same answer. fence: of the try. now_ns: when the
    answer was asked for, since 1970.
    """

    id: bytes
    fence: int
    now_ns: int


def sign_answer(key: HerdKey, signature: str, asked: AnswerTry) -> str:
    """The X-Herd-Answer header of a request with this X-Herd header."""
    said = f"{asked.id.hex()} {asked.fence} {asked.now_ns}"
    return f"v1 {said} {_mac_of_answer(key, signature, said)}"


def read_answer(key: HerdKey, signature: str, header: str) -> AnswerTry:
    """What the herd says in the X-Herd-Answer header of the request with this signature. Raises NotSigned."""
    found = _ANSWER.fullmatch(header)
    if found is None:
        raise NotSigned(f"{ANSWER_HEADER} must be 'v1 ID FENCE UNIX_NS HEX', signed by the herd")
    asked = AnswerTry(bytes.fromhex(found[1]), int(found[2]), int(found[3]))
    if not hmac.compare_digest(found[4], _mac_of_answer(key, signature, " ".join(found.groups()[:3]))):
        raise NotSigned(f"{ANSWER_HEADER} is not signed with the secret of this herd, or of another request")
    return asked


def _mac_of_answer(key: HerdKey, signature: str, said: str) -> str:
    return hmac.new(key.secret, f"answer\n{signature}\n{said}".encode(), hashlib.sha256).hexdigest()
