"""Which machines give the same bits: what of library and processor a decode depends on."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from canister.engine.load import library
from canister.system.machine import cpu_flags

if TYPE_CHECKING:
    from canister.engine.load.loaded import EngineInfo

_KERNEL_FLAGS = ("avx", "amx", "fma", "f16c", "asimd", "sve", "i8mm", "bf16")


def isa() -> str:
    """What of the processor picks llama.cpp's kernels."""
    return " ".join(sorted(flag for flag in cpu_flags() if flag.startswith(_KERNEL_FLAGS)))


def numeric_class(info: EngineInfo) -> bytes:
    """Equal on two machines whose decodes give the same bits, as far as that is known: same library, same kernels."""
    classes = info.row_classes, info.attention_classes
    facts = (library.library_id(), isa(), info.restrictions.key, *classes, info.flash_attn, *info.placed.key)
    return hashlib.sha256(repr(facts).encode()).digest()[:8]
