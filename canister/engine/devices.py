"""The devices of llama.cpp: which there are, what memory they have, and what a model is given of them.

Where its build can offload to none, flags that place a model have no effect. They are told so, and are no error.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, fields

from canister.engine.llama_build import can_offload, ggml_function, start_backend
from canister.engine.llama_types import ModelError, Placed
from canister.flags.parse import PlacementParams

_KINDS = ("cpu", "gpu", "igpu", "accelerator", "meta")  # ggml's numbers
_OFFLOADED = ("gpu", "igpu")
_FLAGS = {
    "n_gpu_layers": "--n-gpu-layers",
    "split_mode": "--split-mode",
    "main_gpu": "--main-gpu",
    "tensor_split": "--tensor-split",
    "kv_offload": "--no-kv-offload",
}


@dataclass(frozen=True, slots=True)
class Device:
    """kind: cpu, gpu, igpu (in the host's memory), accelerator (beside the processor), meta.

    free_bytes, total_bytes: of its memory, as its driver tells now; 0 where it tells nothing.
    """

    name: str
    description: str
    kind: str
    free_bytes: int
    total_bytes: int


def devices() -> list[Device]:
    """All devices that this build of llama.cpp has found, in its order."""
    start_backend()
    pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    count = ggml_function("ggml_backend_dev_count", size)
    at = ggml_function("ggml_backend_dev_get", pointer, size)
    name = ggml_function("ggml_backend_dev_name", text, pointer)
    description = ggml_function("ggml_backend_dev_description", text, pointer)
    kind = ggml_function("ggml_backend_dev_type", ctypes.c_int, pointer)
    memory = ggml_function("ggml_backend_dev_memory", None, pointer, ctypes.POINTER(size), ctypes.POINTER(size))
    found = []
    for index in range(count()):
        device = at(index)
        free, total = size(), size()
        memory(device, ctypes.byref(free), ctypes.byref(total))
        number = kind(device)
        told = _KINDS[number] if number < len(_KINDS) else str(number)
        found.append(Device(_text(name(device)), _text(description(device)), told, free.value, total.value))
    return found


def reaching(asked: PlacementParams) -> PlacementParams:
    """What of these flags can reach llama.cpp: all, or nothing without layers for devices, or where its build cannot
    offload.
    """
    return asked if asked.n_gpu_layers and can_offload() else PlacementParams()


def settle(asked: PlacementParams, name: str) -> Placed:
    """Where a model of these flags is computed. ModelError for a device that is not there.

    name: what messages call the model file.
    """
    if not reaching(asked).n_gpu_layers:
        return Placed(without_effect=_without_effect(asked))
    there = [device.name for device in computing(devices())]
    told = f"{len(there)}: {', '.join(there)}" if there else "none of its own"
    if asked.split_mode in ("none", "row") and asked.main_gpu >= max(1, len(there)):
        raise ModelError(
            f"Cannot load the model {name}: --main-gpu {asked.main_gpu} names no device, which count from 0; this "
            f"machine has {told}"
        )
    if len(asked.tensor_split) > max(1, len(there)):
        raise ModelError(
            f"Cannot load the model {name}: --tensor-split has {len(asked.tensor_split)} parts, and this machine's "
            f"devices are {told}"
        )
    return Placed(asked, tuple(f"{device.name} {device.description}" for device in computing(devices())))


def _without_effect(asked: PlacementParams) -> str:
    """Which of these flags do nothing here, and why, as a sentence; empty where none was given or all of them count."""
    given = [_FLAGS[row.name] for row in fields(asked) if getattr(asked, row.name) != getattr(_DEFAULT, row.name)]
    if not given:
        return ""
    flags = " and ".join(filter(None, [", ".join(given[:-1]), given[-1]]))
    has = "has" if len(given) == 1 else "have"
    if not can_offload():
        return (
            f"{flags} {has} no effect: this build of llama-cpp-python can offload to no device; docs/devices.md tells "
            "how to build one that can"
        )
    return f"{flags} {has} no effect without --n-gpu-layers: all layers are computed by the processor"


def kv_room(placed: Placed, n_layers: int, host_bytes: int) -> int:
    """Bytes for KV rows of all layers. host_bytes: the machine's own, for the layers that no device computes."""
    if not placed.offloads_kv:
        return host_bytes
    n = placed.params.n_gpu_layers
    share = 1.0 if not 0 <= n <= n_layers else (n - 1) / n_layers  # the first of them is the output
    on_devices = sum(device.free_bytes for device in computing(devices())) or host_bytes  # 0: it is not known
    rooms = (on_devices, share), (host_bytes, 1 - share)
    return int(min(n_bytes / part for n_bytes, part in rooms if part > 0))


def open_devices() -> None:
    """Let the drivers of all devices read and open what they need, before this process is confined.

    They do that when a device is first used, and keep it.
    """
    start_backend()
    pointer = ctypes.c_void_p
    at = ggml_function("ggml_backend_dev_get", pointer, ctypes.c_size_t)
    begin = ggml_function("ggml_backend_dev_init", pointer, pointer, ctypes.c_char_p)
    end = ggml_function("ggml_backend_free", None, pointer)
    for index, device in enumerate(devices()):
        if device.kind in _OFFLOADED and (backend := begin(at(index), None)):
            end(backend)


def computing(found: Sequence[Device]) -> list[Device]:
    """Those that layers of a model go to, as llama.cpp counts them: where there is a gpu, no igpu takes part."""
    return [one for one in found if one.kind == "gpu"] or [one for one in found if one.kind == "igpu"]


def _text(told: bytes | None) -> str:
    return (told or b"").decode("utf-8", "replace")


_DEFAULT = PlacementParams()
