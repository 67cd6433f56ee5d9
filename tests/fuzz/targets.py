"""What is fuzzed: one function per decoder, which takes any bytes and lets only surprises out; and sound inputs.

    python -m tests.fuzz.targets cbor --seconds 60     coverage-guided by atheris where it is installed, else mutations

Atheris is in the extra `fuzz`.
"""

from __future__ import annotations

import argparse
import builtins
import contextlib
import importlib.util
import json
import random
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

MAX_INPUT_BYTES = 4096

# Names of Python's own exceptions: they tell a user nothing.
_NAMES = [name for name, of in vars(builtins).items() if isinstance(of, type) and issubclass(of, BaseException)]
NAME_OF_AN_EXCEPTION = re.compile(rf"\b(?:{'|'.join(_NAMES)}|\w+(?:Decode|Encode|Validation)Error)\b")


@contextlib.contextmanager
def refusing(*kinds: type[Exception]) -> Iterator[None]:
    """As contextlib.suppress, for refusals that are written for people."""
    told = ""
    try:
        yield
    except kinds as error:
        told = str(error)
    assert not NAME_OF_AN_EXCEPTION.search(told), told


def candid(data: bytes) -> None:
    from canister.api import codec as wire
    from canister.api.methods import METHODS
    from canister.errors import BadArgument
    from canister.ic.candid.types import CandidError

    method = METHODS[data[0] % len(METHODS)] if data else METHODS[0]
    for work in (
        lambda: wire.decode_args(method, data[1:]),
        lambda: wire.decode_reply(method, data[1:]),
        lambda: wire.args_from_text(method, data[1:].decode("utf-8", "replace")),
    ):
        with refusing(CandidError, BadArgument):
            work()


def cbor(data: bytes) -> None:
    from canister.ic import cbor as codec

    with refusing(codec.CborError):
        value = codec.decode(data)
        assert codec.decode(codec.encode(value)) == value  # type: ignore[arg-type]


def envelope(data: bytes) -> None:
    from canister.ic import envelope as envelopes
    from canister.ic.envelope import EnvelopeError

    for kind in ("call", "query", "read_state"):
        with refusing(EnvelopeError):
            request = envelopes.read(data, kind)  # type: ignore[arg-type]
            envelopes.verify(request, 1_700_000_000_000_000_000)


def container(data: bytes) -> None:
    from canister.errors import StoreDamaged
    from canister.store.container import CacheFile

    with refusing(StoreDamaged):
        cache = CacheFile.parse(data)
        list(cache.segments(len(cache.tokens)))
        cache.compacted()


def gguf(data: bytes) -> None:
    from canister.errors import BadRequest
    from canister.model_file.gguf import GgufError, read_gguf
    from canister.model_file.shape import read_shape

    with refusing(GgufError, BadRequest):
        read_shape(read_gguf(data))


def arguments(data: bytes) -> None:
    from canister.flags.parse import ArgsError, parse

    with refusing(ArgsError):
        parse(data.decode("utf-8", "replace").split("\0"))


def schema(data: bytes) -> None:
    from canister import json_schema
    from canister.errors import BadRequest

    with refusing(BadRequest):
        json_schema.bindable(json_schema.read(data.decode("utf-8", "surrogateescape")))


def paths(data: bytes) -> None:
    from canister.errors import BadRequest
    from canister.store.paths import clean_path

    with refusing(BadRequest):
        clean = clean_path(data.decode("utf-8", "surrogateescape"))
        assert ".." not in clean.split("/")
        assert not clean.startswith("/")
        assert clean_path(clean) == clean


def ans104(data: bytes) -> None:
    from canister.ao.encoding import Malformed, WrongSignature
    from canister.ao.signing import bundles, items

    with refusing(Malformed, WrongSignature):
        item = items.read_item(data)
        assert item.to_bytes() == data
        items.verify(item.head, item.data)
    with refusing(Malformed):
        assert bundles.write_bundle(bundles.read_bundle(data)) == data


def signed_http(data: bytes) -> None:
    from canister.ao.encoding import Malformed, WrongSignature
    from canister.ao.signing import http_messages

    method, _, rest = data.decode("latin-1").partition("\n")
    fields = dict(line.partition(": ")[::2] for line in rest.split("\n"))
    with refusing(Malformed, WrongSignature):
        http_messages.verify(http_messages.Request(method, "/push", fields, data[:20]), 1_700_000_000.0)


def arweave(data: bytes) -> None:
    from canister.ao.arweave import chunks, transactions
    from canister.ao.encoding import Malformed, WrongSignature

    document = None
    with contextlib.suppress(ValueError, RecursionError):
        document = json.loads(data)
    with refusing(Malformed, WrongSignature):
        transactions.verify(transactions.read_transaction(document)[0])
    with refusing(Malformed):
        posted = transactions.read_chunk(document)
        chunks.check_chunk(posted.data_root, posted.data_bytes, posted.offset, posted.proof, posted.chunk)


def graphql(data: bytes) -> None:
    from canister.ao.storage import queries

    told = queries.answer({"query": data.decode("utf-8", "replace"), "variables": {"ids": ["x"]}}, lambda _: [])
    for error in told.get("errors") or []:  # type: ignore[attr-defined]
        assert not NAME_OF_AN_EXCEPTION.search(error["message"]), error


def llama2c(data: bytes) -> None:
    from canister.ao.llama2c import layout, vocabulary

    with refusing(layout.Llama2cError):
        read = layout.read_header(data[:256])
        assert layout.read_header(layout.write_header(read)) == read
    with refusing(layout.Llama2cError):
        vocabulary.read_tokenizer(data, 5)


def lua_values(data: bytes) -> None:
    from canister.ao.lua import values

    with refusing(values.BadValue):
        values.encode(*values.decode(data))


TARGETS: dict[str, Callable[[bytes], None]] = {
    function.__name__: function
    for function in (
        candid,
        cbor,
        envelope,
        container,
        gguf,
        arguments,
        schema,
        paths,
        ans104,
        signed_http,
        arweave,
        graphql,
        llama2c,
        lua_values,
    )
}


def seeds(name: str) -> list[bytes]:
    """Sound inputs, which mutations lead away from."""
    from canister.api.codec import args_from_json, encode_args
    from canister.api.examples import EXAMPLES
    from canister.api.methods import METHODS
    from canister.flags.table import FLAGS
    from canister.ic import cbor as codec
    from canister.ic.envelope import seal
    from canister.ic.identity import Identity
    from tests.engine.gguf_writer import header_bytes
    from tests.engine.tiny_models import VOCABULARY

    if name == "candid":
        examples = [(i, method) for i, method in enumerate(METHODS) if method.name in EXAMPLES]
        return [
            bytes([i]) + encode_args(method, args_from_json(method, EXAMPLES[method.name])) for i, method in examples
        ]
    content = {
        "request_type": "call",
        "canister_id": b"\0" * 10,
        "method_name": "run_update",
        "arg": b"DIDL\0\0",
        "ingress_expiry": 1_700_000_100_000_000_000,
    }
    if name == "envelope":
        return [seal({**content, "request_type": kind}, Identity.generate())[0] for kind in ("call", "query")]
    if name == "cbor":
        return [codec.encode({"a": [1, -1, 2**63, "text", b"bytes", None, True, {"b": []}]}), codec.encode(content)]
    if name == "container":
        from tests.store.test_container import HEADER, encode_header

        return [encode_header(HEADER), encode_header(HEADER) + bytes(200)]
    if name == "gguf":
        small = {"general.architecture": "llama", "llama.block_count": 2, "llama.context_length": 64}
        return [header_bytes(small, [("token_embd.weight", (32, 8), "f32")]) + bytes(1024), header_bytes(VOCABULARY)]
    if name == "arguments":
        flags = [flag.names[0] for flag in FLAGS]
        return ["\0".join([flag, value]).encode() for flag in flags for value in ("1", "0.5", "x", "-1")]
    if name == "schema":
        return [
            json.dumps(part).encode()
            for part in (
                {"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": {"type": "string"}}},
                {"type": "array", "items": {"enum": ["x", 1, None]}, "minItems": 1, "maxItems": 4},
                {"type": "string", "pattern": "^[a-z]{2,5}(-x)?$", "required": ["a"], "additionalProperties": False},
                {"allOf": [{"anyOf": [{"type": "integer"}]}, {"properties": {"b": {"const": 1}}}], "format": "date"},
                {"type": ["string", "null"], "minLength": 1, "maxLength": 9, "prefixItems": [{"type": "boolean"}]},
            )
        ]
    if name == "llama2c":
        from canister.ao.llama2c import layout, vocabulary

        shape = layout.Shape(32, 64, 2, 4, 2, 300, 48, shares_output=False)
        heads = [layout.write_header(layout.layout_of(version, shape, 32)) for version in layout.VERSIONS]
        return [*heads, vocabulary.write_tokenizer(["", "", "", "a", "b"], [0.0, 0.0, 0.0, -1.0, -2.0])]
    if name == "lua_values":
        from canister.ao.lua import values

        return [values.encode(b"text", 1, 2.5, True, None, {b"a": [1, {b"b": b"c"}]}), values.encode([1, 2, 3])]
    if name == "graphql":
        from tests.ao.storage.test_queries import QUERIES

        return [query.encode() for query in QUERIES]
    if name in ("ans104", "signed_http", "arweave"):
        return _signed(name)
    return [b"models/model.gguf", b"./a//b/", "é/e\u0301/ß".encode(), b"../../etc/passwd", b"con\\nul\0"]


def _signed(name: str) -> list[bytes]:
    from canister.ao.signing.bundles import write_bundle
    from canister.ao.signing.http_messages import label_of
    from canister.ao.signing.items import sign_item
    from canister.ao.signing.wallets import Ed25519Wallet, EthereumWallet

    if name == "arweave":
        signed = {"format": 2, "owner": "A" * 683, "signature": "A" * 683, "quantity": "0", "reward": "1", "data": ""}
        tags = [{"name": "QQ", "value": "QQ"}]
        chunk = {"data_root": "A" * 43, "data_size": "500", "data_path": "A" * 256, "offset": "499", "chunk": "AAAA"}
        return [json.dumps({**signed, "id": "A" * 43, "tags": tags}).encode(), json.dumps(chunk).encode()]
    if name == "signed_http":
        key, label = "A" * 683, label_of(bytes(512))
        told = f'{label}=("action" "@method");alg="rsa-pss-sha512";keyid="{key}"'
        signature = f"{label}=:{'A' * 683}=:"
        return [f"POST\naction: Eval\nsignature: {signature}\nsignature-input: {told}".encode()]
    items = [
        sign_item(wallet, b"data", [(b"a", b"b")] * 3)
        for wallet in (Ed25519Wallet.generate(), EthereumWallet.generate())
    ]
    return [*(item.to_bytes() for item in items), write_bundle(items), bytes(32)]


def mutations(name: str, seed: int) -> Iterator[bytes]:
    """Endless; the same for the same seed."""
    draw = random.Random(seed)
    corpus = [text[:MAX_INPUT_BYTES] for text in seeds(name)]
    splices = [
        b"\xff" * 8,
        b"\0" * 8,
        b"\x7f",
        b"\x80\x80\x80\x80\x80\x00",
        b"DIDL",
        b"GGUF",
        b"../",
        b"\xf0\x9f\x98\x80",
    ]
    while True:
        data = bytearray(draw.choice(corpus))
        for _ in range(draw.randint(0, 5)):
            at = draw.randrange(len(data) + 1)
            match draw.randrange(5):
                case 0:
                    data[at : at + 1] = bytes([draw.randrange(256)])
                case 1:
                    del data[at : at + draw.randint(1, 16)]
                case 2:
                    data[at:at] = draw.choice(splices)
                case 3:
                    data[at:at] = data[at : at + draw.randint(1, 64)]
                case _:
                    other = draw.choice(corpus)
                    data[at:] = other[draw.randrange(len(other) + 1) :]
        yield bytes(data[:MAX_INPUT_BYTES])


def run_mutations(name: str, seed: int, *, n_inputs: int | None = None, seconds: float | None = None) -> int:
    """How many inputs were tried. An input that surprises is told with the error."""
    target, end = TARGETS[name], None if seconds is None else time.monotonic() + seconds
    n_tried = 0
    for data in mutations(name, seed):
        if n_tried == n_inputs or (end is not None and time.monotonic() > end):
            break
        try:
            target(data)
        except Exception as error:
            error.add_note(f"{name}, input {data!r}")
            raise
        n_tried += 1
    return n_tried


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("target", choices=TARGETS)
    options.add_argument("--seconds", type=int, default=60)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--corpus", type=Path, help="folder of inputs to begin with and to add to")
    options.add_argument("--plain", action="store_true", help="mutations, also where atheris is installed")
    chosen = options.parse_args()
    if chosen.plain or importlib.util.find_spec("atheris") is None:
        print(f"{run_mutations(chosen.target, chosen.seed, seconds=chosen.seconds)} inputs, mutations only")
        return
    import atheris

    with atheris.instrument_imports(include=["canister"]):
        TARGETS[chosen.target](b"")  # imports what it needs
    folder: Path | None = chosen.corpus
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        for i, data in enumerate(seeds(chosen.target)):
            (folder / f"seed{i}").write_bytes(data)
    flags = [f"-max_total_time={chosen.seconds}", f"-seed={chosen.seed or 1}", f"-max_len={MAX_INPUT_BYTES}"]
    atheris.Setup([sys.argv[0], *flags, *([] if folder is None else [str(folder)])], TARGETS[chosen.target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
