"""ctypes structures and pointers, with a check that ctypes itself does not make."""

from __future__ import annotations

import ctypes
from typing import Any

from canister.engine.llama_types import EngineFault


def set_fields(struct: ctypes.Structure, **fields: object) -> None:
    """Set fields of a ctypes structure, which itself accepts any attribute name silently."""
    known = {field[0] for field in struct._fields_}
    for name, value in fields.items():
        if name not in known:
            raise TypeError(f"{type(struct).__name__} of this llama-cpp-python has no field {name!r}")
        setattr(struct, name, value)


def address_of(pointer: Any) -> int:
    if not pointer:
        raise EngineFault("llama.cpp answered a null pointer")
    return ctypes.addressof(pointer.contents)
