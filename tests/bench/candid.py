"""How long Candid takes: `python -m tests.bench.candid`. The best of many runs, in milliseconds, on one core."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from canister.api import codec
from canister.api.methods import BY_NAME
from canister.api.records import FileUploadInputRecord, InputRecord, RunOutputRecord
from canister.ic.candid.decode import decode
from canister.ic.candid.parse import parse_args
from canister.ic.candid.pretty import pretty
from canister.ic.candid.types import BLOB, RESERVED, CandidError
from tests.ic.candid.test_binary import HOSTILE

CHUNK_BYTES = 2_000_000
BUDGET_SECONDS = 0.2


def main() -> None:
    upload, run = BY_NAME["file_upload_chunk"], BY_NAME["run_update"]
    chunk = FileUploadInputRecord(
        filename="models/model.gguf", chunk=bytes(range(256)) * (CHUNK_BYTES // 256), chunksize=CHUNK_BYTES, offset=0
    )
    args = InputRecord(args=["--prompt-cache", "p.cache", "--prompt-cache-all", "-p", "x" * 500, "-n", "512"])
    output = RunOutputRecord(status_code=200, output="x" * 100, conversation="y" * 2000, n_prompt_tokens=100)
    upload_message, run_message = codec.encode_args(upload, chunk), codec.encode_args(run, args)
    reply_message = codec.encode_reply(run, output)
    blob_text = pretty((BLOB,), (chunk.chunk,))

    print(f"{'2 MB chunk':40}")
    both = show("  encode argument", lambda: codec.encode_args(upload, chunk))
    both += show("  decode argument", lambda: codec.decode_args(upload, upload_message))
    print(f"{'  both':40}{CHUNK_BYTES / both / 1e6:10.0f} MB/s")
    show("  blob to text", lambda: pretty((BLOB,), (chunk.chunk,)))
    show("  blob from text", lambda: parse_args(blob_text, (BLOB,)))
    print("run_update")
    show("  encode argument", lambda: codec.encode_args(run, args))
    show("  decode argument", lambda: codec.decode_args(run, run_message))
    show("  encode reply", lambda: codec.encode_reply(run, output))
    show("  decode reply", lambda: codec.decode_reply(run, reply_message))
    show("  reply to text", lambda: codec.reply_to_text(run, output))
    print("hostile messages, refused")
    for name, message in HOSTILE.items():
        show(f"  {name}, {len(message)} bytes", lambda message=message: refused(message))  # type: ignore[misc]


def refused(message: bytes) -> None:
    with suppress(CandidError):
        decode(message, (RESERVED,))


def show(what: str, work: Callable[[], object]) -> float:
    """Print and give the seconds of the fastest run."""
    best = float("inf")
    end = time.perf_counter() + BUDGET_SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    print(f"{what:40}{best * 1e3:10.3f} ms")
    return best


if __name__ == "__main__":
    main()
