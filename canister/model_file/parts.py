"""A model in several files, as llama.cpp's gguf-split makes them: their names, and the whole that they make.

The first part has the metadata, and each part its share of the tensors. `split.count` 0 or 1 means a whole model, such
as one whose parts were joined again. llama.cpp would find the other parts by name, whatever those files hold. Here they
are found, checked and opened before it sees them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from canister.errors import BadRequest
from canister.model_file.gguf import GgufError, GgufFile, read_gguf

MAX_PARTS = 256

_NAME = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)
_SHOWN_NAMES = 3


@dataclass(frozen=True, slots=True)
class PartName:
    """The name of a part: `prefix-00002-of-00003.gguf` is number 2 of 3."""

    prefix: str
    number: int
    count: int

    @classmethod
    def read(cls, name: str) -> PartName | None:
        """The name of a part; None for a name that is not of this form."""
        match = _NAME.fullmatch(name)
        if match is None or not 1 <= int(match[2]) <= int(match[3]) <= MAX_PARTS:
            return None
        return cls(match[1], int(match[2]), int(match[3]))

    def siblings(self) -> tuple[str, ...]:
        """The names of all parts, in order, this one among them."""
        return tuple(f"{self.prefix}-{number:05}-of-{self.count:05}.gguf" for number in range(1, self.count + 1))


def names_of_parts(name: str, header: GgufFile) -> tuple[str, ...]:
    """The names of all parts of the model whose first part this is; one name for a whole model. Raises BadRequest."""
    count = header.integer("split.count") or 1
    if count == 1:
        return (name,)
    if not 1 < count <= MAX_PARTS:
        raise BadRequest(f"it says that it is one of {count} parts; a model has at most {MAX_PARTS}")
    said = PartName.read(name)
    number = (header.integer("split.no") or 0) + 1
    example = f"-{number:05}-of-{count:05}.gguf"
    if said is None or (said.number, said.count) != (number, count):
        raise BadRequest(
            f"it is part {number} of a model in {count} parts: give all of them names that say so, this one NAME"
            f"{example}, or join them: llama-gguf-split --merge"
        )
    if number != 1:
        raise BadRequest(f"it is part {number} of {count}: load the first one, {said.siblings()[0]}")
    return said.siblings()


def why_a_part(header: GgufFile) -> str | None:
    """The message for a header that is that of a part alone; None for a whole model."""
    count = header.integer("split.count") or 1
    number = (header.integer("split.no") or 0) + 1
    return (
        None if count == 1 else f"it is part {number} of {count}; what the whole model needs is told when all are there"
    )


def missing_parts(missing: Sequence[str], count: int) -> str:
    """The message when some of the parts are missing."""
    shown = ", ".join(missing[:_SHOWN_NAMES]) + (", …" if len(missing) > _SHOWN_NAMES else "")
    return f"it is a model in {count} parts, of which {len(missing)} are missing: {shown}; put them beside it"


def joined(headers: Sequence[GgufFile]) -> GgufFile:
    """The header of the whole model, from those of its parts in order; `size` is that of all of them. GgufError."""
    first, count = headers[0], len(headers)
    if count == 1:
        return first
    seen: set[str] = set()
    for number, header in enumerate(headers, 1):
        said = (header.integer("split.no") or 0) + 1, header.integer("split.count")
        if said != (number, count):
            raise GgufError(f"Part {number} of {count} says that it is part {said[0]} of {said[1]}.")
        names = {tensor.name for tensor in header.tensors}
        if twice := seen & names:
            raise GgufError(f"Part {number} of {count} has the tensor {min(twice)!r}, which an earlier part has.")
        seen |= names
    wanted = first.integer("split.tensors.count")
    if wanted != len(seen):
        raise GgufError(f"The {count} parts have {len(seen)} tensors together; the first one says {wanted}.")
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    return replace(first, tensors=tensors, size=sum(header.size for header in headers))


def identity(hashes: Sequence[bytes]) -> bytes:
    """The SHA-256 that identifies a model: of its file, or of the hashes of its parts in order."""
    return hashes[0] if len(hashes) == 1 else hashlib.sha256(b"parts of a model\0" + b"".join(hashes)).digest()


def local_parts(file: Path) -> tuple[Path, ...]:
    """The files of a model on this machine, from its first part. The others lie beside it. Raises BadRequest."""
    files = tuple(file.with_name(name) for name in names_of_parts(file.name, read_gguf(file)))
    if missing := [path.name for path in files if not path.is_file()]:
        raise BadRequest(missing_parts(missing, len(files)))
    return files


def read_model(file: Path) -> GgufFile:
    """The header of a model on this machine, all of its parts together. Raises BadRequest."""
    return joined([read_gguf(part) for part in local_parts(file)])
