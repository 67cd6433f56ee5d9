"""Writes a tiny random model of any architecture that this build of llama.cpp knows.

Nobody lists tensors here: llama.cpp makes a model from hyperparameters alone (`llama_model_init_from_user`) and is
asked which tensors it made, with which shapes. That happens in a process of its own, since it answers some
hyperparameters by ending its process. What comes out is a GGUF file as converters write them.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import llama_cpp
import llama_cpp._ggml as ggml

from tests.architectures.table import ROWS, Row
from tests.engine.gguf_writer import Tensor, header_bytes
from tests.engine.tiny_models import write_random

ROOT = Path(__file__).resolve().parents[2]
# Tensors that llama.cpp reads when they are there, and that no converter writes for weights of f32.
NOT_WRITTEN = (".scale", ".input_scale")
SECONDS = 240

_lib = llama_cpp.llama_cpp._lib
_base = ggml.libggml


class NotWritableError(Exception):
    """llama.cpp did not make a model of these hyperparameters; what it said."""


def known_architectures() -> list[str]:
    """The names in llama.cpp's own table, in its order."""
    name_of = _lib._Z13llm_arch_name8llm_arch  # const char * llm_arch_name(llm_arch)
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.c_int]
    names: list[str] = []
    while (name := name_of(len(names))) != b"(unknown)":
        names.append(name.decode())
    return names


def diffusion_architectures() -> list[str]:
    """Those of which llama.cpp says that they are diffusion models."""
    is_diffusion = _lib._Z21llm_arch_is_diffusionRK8llm_arch  # bool llm_arch_is_diffusion(const llm_arch &)
    is_diffusion.restype, is_diffusion.argtypes = ctypes.c_bool, [ctypes.POINTER(ctypes.c_int)]
    return [name for i, name in enumerate(known_architectures()) if is_diffusion(ctypes.byref(ctypes.c_int(i)))]


def write_model(path: Path, architecture: str, seed: int = 0, row: Row | None = None) -> Path:
    """A tiny model of an architecture; NotWritableError with what llama.cpp said."""
    row = row or ROWS[architecture]
    metadata, types = row.metadata(architecture), row.types
    header = path.with_suffix(".header")
    header.write_bytes(header_bytes(metadata, [(name, (1,), kind) for name, kind in types.items()]))
    command = [sys.executable, "-m", "tests.architectures.writer", str(header)]
    environment = {**os.environ, "GGML_NO_BACKTRACE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=SECONDS)
    header.unlink()
    if done.returncode:
        words = [line for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
        raise NotWritableError(f"{done.returncode}: {' | '.join(words[-3:])[-400:]}")
    tensors: list[Tensor] = [
        (name, tuple(shape), "f32")
        for name, shape in json.loads(done.stdout)
        if not any(part in name for part in row.without)
    ]
    return write_random(path, metadata, tensors, seed)


def tensors_of(header: Path) -> list[tuple[str, list[int]]]:
    """The tensors that llama.cpp makes for the metadata in a file; in a process that may end."""
    made: dict[str, list[int]] = {}

    class Params(ctypes.Structure):
        _fields_ = [("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p)]

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
    def note(tensor: int, _: object) -> None:
        name = ctypes.string_at(_base.ggml_get_name(tensor)).decode()
        shape = [*(ctypes.c_int64 * 4).from_address(tensor + 16)]  # ne, behind type and buffer
        while len(shape) > 1 and shape[-1] == 1:
            shape.pop()
        if not name.endswith(NOT_WRITTEN):
            made.setdefault(name, shape)

    _base.ggml_get_name.restype, _base.ggml_get_name.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    read = _base.gguf_init_from_file
    read.restype, read.argtypes = ctypes.c_void_p, [ctypes.c_char_p, Params]
    make = _lib.llama_model_init_from_user
    make.restype = ctypes.c_void_p
    make.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, llama_cpp.llama_model_params]
    llama_cpp.llama_backend_init()
    metadata = read(os.fsencode(header), Params(True, None))
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = 0
    if not metadata or not make(metadata, ctypes.cast(note, ctypes.c_void_p), None, params):
        raise SystemExit("llama.cpp made no model")
    return [*made.items()]


if __name__ == "__main__":
    print(json.dumps(tensors_of(Path(sys.argv[1]))))
    sys.stdout.flush()
    os._exit(0)
