"""Which model was being decoded when the server crashed, and how many crashes in a row there were.

While a model is decoded or loaded, its SHA-256 stands in `engine.busy`, a small file mapped into memory. It survives a
crash of the process, and no decode waits for the disk. The next start counts crashes in `engine.crashes`: those that
the supervisor or Python's fault handler reports, but no power cut and no `kill -9` from outside.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

from canister.errors import Conflict
from canister.system import atomic_file
from canister.telemetry.logs import get_logger

BUSY_NAME, COUNT_NAME = "engine.busy", "engine.crashes"
MAX_IN_A_ROW = 3  # after so many crashes the server does not load the model again by itself

_ID_BYTES = 32
_RECORD_BYTES = 1 + _ID_BYTES
_DECODING, _LOADING = 0, _RECORD_BYTES  # where the two records lie

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Crashes:
    """Crashes in a row while one model was decoded or loaded. model: its SHA-256 in hex. last: the last crash's
    signal.
    """

    model: str
    n_in_a_row: int
    last: str


class CrashNotes:
    """The notes of one canister, in its folder. The canister opens them at its start and closes them at its end."""

    def __init__(self, folder: Path) -> None:
        self._busy_path = folder / BUSY_NAME
        self._count_path = folder / COUNT_NAME
        self._map: mmap.mmap | None = None
        self._crashes: Crashes | None = None

    def open(self, crash: str | None) -> None:
        """Open or create the notes; an error is logged, never raised. crash: the signal that ended the server before
        this one.
        """
        self._crashes = self._counted()
        try:
            if crash is not None:
                self._count(crash)
            descriptor = os.open(self._busy_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                # Write the bytes instead of extending the file: a mapped page without room on the disk would end the
                # process.
                os.pwrite(descriptor, bytes(2 * _RECORD_BYTES), 0)
                self._map = mmap.mmap(descriptor, 2 * _RECORD_BYTES)
            finally:
                os.close(descriptor)
        except OSError as error:
            log.warning("crashes while decoding are not noted", file=str(self._busy_path), reason=str(error))

    def close(self) -> None:
        if self._map is not None:
            self._map.close()
            self._map = None

    def check(self, model_id: bytes, name: str) -> None:
        """Conflict for a model that crashed the server too often. name: what messages call it."""
        crashes = self._crashes
        if crashes is not None and crashes.model == model_id.hex() and crashes.n_in_a_row >= MAX_IN_A_ROW:
            raise Conflict(
                f"{name} is not loaded again by itself: it was being decoded when the server crashed "
                f"{crashes.n_in_a_row} times in a row (the last time by {crashes.last}). "
                "Call load_model to load it all the same, or load another one"
            )

    def of_model(self, model_id: bytes) -> ModelWatch:
        """The watch through which an engine reports its decodes of this model."""
        return ModelWatch(self, model_id)

    def forget(self) -> None:
        """Start counting anew, after a successful call or when a controller loads a model."""
        if self._crashes is not None:
            self._crashes = None
            with contextlib.suppress(OSError):
                self._count_path.unlink(missing_ok=True)

    def mark(self, at: int, record: bytes) -> None:
        if self._map is not None:
            self._map[at : at + len(record)] = record

    def is_about(self, model_id: bytes) -> bool:
        return self._crashes is not None and self._crashes.model == model_id.hex()

    def _count(self, crash: str) -> None:
        """Count a crash for the model that was at work, and write it down before anything is loaded."""
        try:
            left = self._busy_path.read_bytes()
        except OSError:
            return
        records = [left[at : at + _RECORD_BYTES] for at in (_DECODING, _LOADING)]
        models = [record[1:].hex() for record in records if record[:1] == b"\1"]
        if not models:
            return
        before = self._crashes
        n_before = before.n_in_a_row if before is not None and before.model == models[0] else 0
        self._crashes = Crashes(models[0], n_before + 1, crash)
        atomic_file.write(self._count_path, json.dumps(asdict(self._crashes)).encode())
        log.error("the server crashed while it decoded", crash=crash, in_a_row=n_before + 1, sha256=models[0])

    def _counted(self) -> Crashes | None:
        try:
            return Crashes(**json.loads(self._count_path.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None


class ModelWatch:
    """Through it an engine reports what it does with its model. Entering and leaving `decoding` costs under a
    microsecond.
    """

    def __init__(self, notes: CrashNotes, model_id: bytes) -> None:
        self._notes = notes
        self._model_id = model_id
        self.decoding: AbstractContextManager[object] = _Mark(notes, _DECODING, model_id)
        self.loading: AbstractContextManager[object] = _Mark(notes, _LOADING, model_id)

    def went_well(self) -> None:
        """A call has decoded and has ended."""
        if self._notes.is_about(self._model_id):
            self._notes.forget()


class _Mark:
    def __init__(self, notes: CrashNotes, at: int, model_id: bytes) -> None:
        self._notes = notes
        self._at = at
        self._record = b"\1" + model_id.ljust(_ID_BYTES, b"\0")[:_ID_BYTES]

    def __enter__(self) -> None:
        self._notes.mark(self._at, self._record)

    def __exit__(self, *_: object) -> None:
        self._notes.mark(self._at, b"\0")
