"""What a crash of this process leaves in `crash.txt`: the signal, and the stacks of all threads."""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO

from canister.system.data_dir import CRASH, LAST_CRASH
from canister.telemetry.logs import get_logger

_FATAL = "Fatal Python error: "
_SIGNALS = {
    "Segmentation fault": "SIGSEGV",
    "Aborted": "SIGABRT",
    "Illegal instruction": "SIGILL",
    "Bus error": "SIGBUS",
    "Floating-point exception": "SIGFPE",
    "Floating point exception": "SIGFPE",
}

log = get_logger(__name__)


@contextmanager
def faults_written(data_dir: Path) -> Iterator[str | None]:
    """Let Python write the stacks of all threads to `crash.txt` if this process crashes. The folder is ours already.

    Returns the signal that ended the server before this one, if it left its stacks.
    """
    path = data_dir / CRASH
    before = _fault_in(path)
    with _fresh(path, keeps=before is not None) as file:
        if file is not None:
            faulthandler.enable(file)
        try:
            yield before
        finally:
            if file is not None:
                faulthandler.disable()


def _fault_in(path: Path) -> str | None:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    words = text.partition("\n")[0].removeprefix(_FATAL).strip()
    return _SIGNALS.get(words, words) or None


def _fresh(path: Path, *, keeps: bool) -> AbstractContextManager[IO[bytes] | None]:
    """An empty file, beside which the former contents are kept. None where there can be none."""
    try:
        if keeps:
            path.replace(path.parent / LAST_CRASH)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    except OSError as error:
        log.warning("the stacks of a crash could not be kept", file=str(path), reason=str(error))
        return nullcontext()
    return os.fdopen(descriptor, "w+b")
