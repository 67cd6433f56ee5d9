"""The build of llama.cpp: its start, what it was compiled for, and functions of ggml that llama_cpp does not name."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import llama_cpp as lib
import llama_cpp._ggml as _ggml

from canister.engine import llama_log
from canister.engine.pages import map_large_blocks

VERSION: str = lib.__version__  # of llama_cpp, which comes with its own llama.cpp
_SOME_OPERATIONS = 64  # of ggml, among the first of which is the product of matrices

_on_log = lib.llama_log_callback(lambda level, text, _: llama_log.take(level, text))


def start_backend() -> None:
    """Start llama.cpp once. Call it before anything else here."""
    map_large_blocks()
    lib.llama_log_set(_on_log, ctypes.c_void_p(0))
    lib.llama_backend_init()


def compiled_features() -> tuple[str, ...]:
    """The processor features that this build of llama.cpp uses, such as AVX2 or AMX_INT8."""
    start_backend()
    words = lib.llama_print_system_info().decode("ascii", "replace").replace("CPU :", "").split("|")
    pairs = (word.partition("=") for word in words)
    return tuple(name.strip() for name, _, value in pairs if value.strip() not in ("", "0"))


def mul_mat() -> int:
    """ggml's number of the product of matrices; -1: it has none."""
    name = ggml_function("ggml_op_name", ctypes.c_char_p, ctypes.c_int)
    return next((op for op in range(_SOME_OPERATIONS) if name(op) == b"MUL_MAT"), -1)


def tensor_bytes() -> int:
    """The size of a `struct ggml_tensor`: what a context takes for one, less the object header of 32 bytes."""
    return int(ggml_function("ggml_tensor_overhead", ctypes.c_size_t)()) - 32


def is_host_buffer(address: int) -> bool:
    """Does a ggml_backend_buffer at this address lie in memory that this process can read?"""
    return bool(ggml_function("ggml_backend_buffer_is_host", ctypes.c_bool, ctypes.c_void_p)(address))


def can_offload() -> bool:
    """Has this build of llama.cpp found a device that can compute layers of a model?"""
    start_backend()
    return bool(lib.llama_supports_gpu_offload())


def ggml_function(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    """A function of ggml's libraries by its name, with ctypes types; AttributeError where this build has none."""
    function: Any = ctypes.CFUNCTYPE(result, *arguments)((name, _ggml.libggml))
    return cast("Callable[..., Any]", function)


@dataclass(frozen=True, slots=True)
class Build:
    """The sources of the libraries: version of ggml, and commit of llama.cpp."""

    version: str
    commit: str


def build() -> Build:
    """The build, as the libraries report it."""
    told = (ggml_function(name, ctypes.c_char_p)() for name in ("ggml_version", "ggml_commit"))
    return Build(*(text.decode("ascii", "replace") for text in told))
