"""Uploads as octet streams: how fast, beside `cp` and `sha256sum`; and how much they slow a running chat."""

from __future__ import annotations

import multiprocessing
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.http_client import Http, HttpError
from tests.bench.results import Row, ratio_row
from tests.bench.servers import EXACT, BenchError, Ours, known, words
from tests.bench.suite import Bench, Options, alternating, begin, main, tokens_per_second

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized
    from multiprocessing.synchronize import Event

PATH = "/canisters/llama_cpp/files/bench/upload.bin"
COMMANDS = "cp + sha256sum + sync"
CHAT_CALLS = 10
NETWORK_BYTES_PER_SECOND = 25e6


def measure(options: Options) -> list[Row]:
    exact = known("--exact", "auto")
    with Ours(EXACT, options.model, n_ctx=1024, slots=1, threads=options.threads, flags=exact) as server:
        return [_speed_row(server, options), *_slowed_rows(server, options)]


def _speed_row(server: Ours, options: Options) -> Row:
    """The file is that of the model. Both write beside each other, on the same disk, and start from nothing."""
    megabytes = options.model.stat().st_size / 1e6
    ours: list[float] = []
    commands: list[float] = []
    copy = server.data_dir / "copy.bin"
    http = server.http()
    for number in range(options.rounds):
        for side in ("ours", "commands") if number % 2 else ("commands", "ours"):
            begun = time.perf_counter()
            if side == "ours":
                uploaded = http.put_file(PATH, options.model)["Ok"]
                ours.append(megabytes / (time.perf_counter() - begun))
                server.call("filesystem_remove", {"filename": "bench/upload.bin"})
            else:
                digest = _copy(options.model, copy)
                commands.append(megabytes / (time.perf_counter() - begun))
                copy.unlink()
        if uploaded["filesha256"] != digest:
            raise BenchError(f"the upload's SHA-256 is {uploaded['filesha256']}, the file's is {digest}")
    http.close()
    return ratio_row(
        f"octet-stream upload of {megabytes:.0f} MB with SHA-256 and sync, against {COMMANDS}",
        ours,
        commands,
        unit="MB/s",
        goal=0.5,
        peer_name=COMMANDS,
    )


def _copy(source: Path, copy: Path) -> str:
    """Copy, sync, hash; gives the SHA-256."""
    subprocess.run(["cp", str(source), str(copy)], check=True)
    subprocess.run(["sync", str(copy)], check=True)
    done = subprocess.run(["sha256sum", str(copy)], check=True, capture_output=True, text=True)
    return done.stdout.split()[0]


def _slowed_rows(server: Ours, options: Options) -> list[Row]:
    """A chat goes on for a while: quietly, while one upload follows the other, and while one comes over a network."""
    n_calls = options.scaled(CHAT_CALLS, 2)
    quiet: list[float] = []
    rates: dict[float | None, list[float]] = {None: [], NETWORK_BYTES_PER_SECOND: []}
    stored: list[float] = []
    for number in range(options.rounds):
        for side in alternating(("quiet", *rates), number):
            chat = server.chat(f"beside-{number}-{side}")  # each has as much context as the others
            begin(server, [chat], [words(options.scaled(100, 10), number)])
            tokens_per_second(server, [chat], 1)
            if isinstance(side, str):
                tokens_per_second(server, [chat], 1)
                quiet.append(tokens_per_second(server, [chat], n_calls))
            else:
                with _uploading(server, options.model, side) as n_stored:
                    tokens_per_second(server, [chat], 1)  # the upload has begun while nothing was decoded
                    n_before, begun = n_stored(), time.perf_counter()
                    rates[side].append(tokens_per_second(server, [chat], n_calls))
                    if side is None:
                        stored.append((n_stored() - n_before) / 1e6 / (time.perf_counter() - begun))
            chat.close()
    server.call("filesystem_remove", {"filename": "bench/upload.bin"})
    how = {None: "as fast as they go", NETWORK_BYTES_PER_SECOND: f"at {NETWORK_BYTES_PER_SECOND / 1e6:.0f} MB/s"}
    return [
        ratio_row(
            f"running chat while files are uploaded {how[speed]}, against without",
            busy,
            quiet,
            unit="tok/s",
            goal=0.95,
            peer_name="without uploads",
            note="the uploading client runs on the same machine",
        )
        for speed, busy in rates.items()
    ] + [_stored_row(stored)]


def _stored_row(megabytes_per_second: list[float]) -> Row:
    speed = statistics.median(megabytes_per_second)
    what = "upload as fast as it goes beside a running chat"
    samples = {"ours": megabytes_per_second}
    return Row(what, speed, None, "MB/s", speed, None, figure_unit="MB/s", samples=samples)


@contextmanager
def _uploading(server: Ours, file: Path, bytes_per_second: float | None) -> Iterator[Callable[[], int]]:
    """A process of its own uploads the file again and again; gives how many bytes are stored by now."""
    spawn = multiprocessing.get_context("spawn")
    has_begun, is_over, n_files = spawn.Event(), spawn.Event(), spawn.Value("i", 0)
    size = file.stat().st_size

    def n_stored() -> int:
        try:
            found = server.call("filesystem_file_size", {"filename": "bench/upload.bin"})
        except HttpError:  # not there yet
            return 0
        n_bytes: int = n_files.value * size + found["filesize"] % size
        return n_bytes

    api_key = (server.data_dir / "controller.key").read_text(encoding="ascii").strip()
    arguments = (server.url, api_key, file, bytes_per_second, has_begun, is_over, n_files)
    process = spawn.Process(target=_upload_until, args=arguments, daemon=True)
    process.start()
    try:
        if not has_begun.wait(60):
            raise BenchError("the uploading process did not begin")
        _until_stored(n_stored)
        yield n_stored
        if not process.is_alive():
            raise BenchError("the uploading process ended early")
    finally:
        is_over.set()
        process.join(2 if bytes_per_second else 60)
        if process.is_alive():  # a slow upload need not be waited for
            process.terminate()
            process.join()


def _until_stored(n_stored: Callable[[], int]) -> None:
    """Wait for the first block of the first upload."""
    n_before = n_stored()
    for _ in range(1000):
        if n_stored() != n_before:
            return
        time.sleep(0.01)
    raise BenchError("nothing of the upload is stored after ten seconds")


def _upload_until(
    url: str,
    api_key: str,
    file: Path,
    bytes_per_second: float | None,
    has_begun: Event,
    is_over: Event,
    n_files: Synchronized[int],
) -> None:
    http = Http(url, api_key)
    has_begun.set()
    while not is_over.is_set():
        http.put_file(PATH, file, bytes_per_second)
        n_files.value += 1
    http.close()


BENCH = Bench("uploads", "octet-stream uploads, and a chat beside them", measure)

if __name__ == "__main__":
    main(BENCH)
