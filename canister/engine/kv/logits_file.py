"""The logits behind each chat's last token, kept in a file from one engine to the next with the same model.

KV rows stand in the containers, logits do not. Without them a chat that comes back decodes its last token again. The
file is a cache: nobody waits for the disk, and opening it removes it from its folder, so it serves one start. A file
that is damaged, or of another model, llama.cpp or processor, is ignored.

    header                                     entry, of the same size each
       0  8  magic, "llogits\\n"                    0  32  digest of the conversation's key
       8 32  digest of what logits depend on      32  32  digest of caller, tokens, and how they were decoded
                                                  64  4v  float32 logits of the v tokens of the vocabulary
                                                 ...  32  digest of the entry so far, begun with the header's

All numbers are little-endian, the digests BLAKE2b.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from canister.engine.kv.slots import Logits, ParkedState, Slot
from canister.engine.request import Flags, Tokens
from canister.telemetry.logs import get_logger

MOST_ENTRIES = 64
MOST_BYTES = 64 << 20

log = get_logger(__name__)

_MAGIC = b"llogits\n"
_N_DIGEST = 32
_HEADER_BYTES = len(_MAGIC) + _N_DIGEST


@dataclass(frozen=True, slots=True)
class Origin:
    """What logits depend on beside tokens. The same origin gives the same bits. n_vocab: tokens of the vocabulary."""

    digest: bytes
    n_vocab: int

    @classmethod
    def of(cls, n_vocab: int, *facts: object) -> Origin:
        return cls(_digest(repr((n_vocab, facts)).encode()), n_vocab)

    @property
    def entry_bytes(self) -> int:
        return 3 * _N_DIGEST + 4 * self.n_vocab


class LogitsFile:
    """The logits that the engine before has left. From any thread."""

    def __init__(self, origin: Origin) -> None:
        """A file without entries."""
        self._origin = origin
        self._file: int | None = None
        self._entries: dict[bytes, int] = {}  # offset by digest of the key
        self._lock = threading.Lock()

    @classmethod
    def take(cls, path: Path | None, origin: Origin) -> LogitsFile:
        """Open the file and remove it from its folder. Without a file of this origin there are no entries."""
        found = cls(origin)
        if path is None:
            return found
        try:
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            return found
        try:
            os.unlink(path)
            found._read_entries(file)
        except OSError as error:
            log.info("logits of the engine before cannot be used", file=str(path), reason=str(error))
        if found._entries:
            found._file = file
        else:
            os.close(file)
        return found

    def _read_entries(self, file: int) -> None:
        if os.pread(file, _HEADER_BYTES, 0) != _MAGIC + self._origin.digest:
            return
        step = self._origin.entry_bytes
        n_entries = min((os.fstat(file).st_size - _HEADER_BYTES) // step, MOST_ENTRIES)
        for offset in range(_HEADER_BYTES, _HEADER_BYTES + n_entries * step, step):
            self._entries.setdefault(os.pread(file, _N_DIGEST, offset), offset)

    def __len__(self) -> int:
        return len(self._entries)

    def logits(self, key: str, caller: str, tokens: Tokens, generated: Flags, starts: Flags) -> Logits | None:
        """The logits behind exactly these tokens of this caller's conversation; None if they are not known."""
        name, n_data = _digest(key.encode()), 4 * self._origin.n_vocab
        with self._lock:
            offset = self._entries.get(name)
            if offset is None or self._file is None:
                return None
            try:
                entry = os.pread(self._file, self._origin.entry_bytes, offset)
            except OSError:
                return None
        state, data, check = entry[_N_DIGEST : 2 * _N_DIGEST], entry[2 * _N_DIGEST :][:n_data], entry[-_N_DIGEST:]
        if state != _state(caller, tokens, generated, starts):
            return None
        if len(entry) != self._origin.entry_bytes or check != _check(self._origin, name, state, data):
            return None
        return np.frombuffer(data, "<f4").astype(np.float32)

    def forget(self, key: str) -> None:
        with self._lock:
            self._entries.pop(_digest(key.encode()), None)

    def close(self) -> None:
        with self._lock:
            self._entries.clear()
            file, self._file = self._file, None
            if file is not None:
                os.close(file)


def write(path: Path | None, origin: Origin, places: Iterable[Slot | ParkedState]) -> None:
    """Write the logits of conversations, the most important first, as many as there is room for."""
    most = min(MOST_ENTRIES, MOST_BYTES // origin.entry_bytes)
    ends = [(each.key, each, each.logits) for each in places if each.key is not None and each.logits is not None][:most]
    if path is None or not ends:
        return
    try:
        # Always the same name, so that the next server overwrites what a killed one left.
        temporary = path.with_name(f".{path.name}.new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        try:
            with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
                file.write(_MAGIC + origin.digest)
                for key, place, logits in ends:
                    name, state = (
                        _digest(key.encode()),
                        _state(place.caller, place.tokens, place.generated, place.starts),
                    )
                    data = logits.astype("<f4", copy=False).tobytes()
                    file.write(b"".join((name, state, data, _check(origin, name, state, data))))
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        log.info("the next start decodes last tokens again", file=str(path), reason=str(error))


def _state(caller: str, tokens: Tokens, generated: Flags, starts: Flags) -> bytes:
    name, data = caller.encode(), tokens.astype("<i4").tobytes()
    return _digest(len(name).to_bytes(4, "little"), name, data, generated.tobytes(), starts.tobytes())


def _check(origin: Origin, *parts: bytes) -> bytes:
    return _digest(origin.digest, *parts)


def _digest(*parts: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=_N_DIGEST)
    for part in parts:
        digest.update(part)
    return digest.digest()
