"""Flags that place a model reach llama.cpp's own structures, or are told as without effect; on a build without devices
the rest is computed as before.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from canister.engine import devices as devices_module
from canister.engine import llama
from canister.engine.devices import Device, computing, devices, kv_room, settle
from canister.engine.llama_types import ModelError, Placed
from canister.engine.load.loaded import LoadParams
from canister.engine.load.trial import Trials
from canister.flags.parse import ArgsError, PlacementParams, parse
from tests.engine.driver import Driver
from tests.engine.test_batch_invariance import some_prompt

CPU = Device("CPU", "a processor", "cpu", 8 << 30, 16 << 30)
GPUS = [Device(f"CUDA{n}", "a card", "gpu", 4 << 30, 8 << 30) for n in range(2)]
IGPU = Device("Vulkan0", "in the processor", "igpu", 2 << 30, 8 << 30)
FLAGS = ("-ngl", "7", "--split-mode", "row", "--main-gpu", "1", "--tensor-split", "3,1", "--no-kv-offload")


@pytest.fixture
def two_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices_module, "can_offload", lambda: True)
    monkeypatch.setattr(devices_module, "devices", lambda: [CPU, IGPU, *GPUS])


def observed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The fields of the structures that llama.cpp gets from now on, the last ones of each kind."""
    seen: dict[str, Any] = {}
    load, make = llama.lib.llama_model_load_from_file, llama.lib.llama_init_from_model

    def loading(path: bytes, params: Any) -> Any:
        seen.update((name, getattr(params, name)) for name, _ in params._fields_ if name != "devices")
        seen["tensor_split"] = params.tensor_split[:3] if params.tensor_split else None
        given = params.devices
        seen["devices"] = given and (ctypes.c_void_p.from_address(given).value or "nothing")
        return load(path, params)

    def making(model: Any, params: Any) -> Any:
        seen.update((name, getattr(params, name)) for name, _ in params._fields_)
        return make(model, params)

    monkeypatch.setattr(llama.lib, "llama_model_load_from_file", loading)
    monkeypatch.setattr(llama.lib, "llama_init_from_model", making)
    return seen


def sampled(path: Path, **params: Any) -> tuple[list[int], bytes]:
    with Driver(path, n_slots=2, n_ctx=200, **params) as driver:
        return driver.run(driver.chat("k").answer(some_prompt(3), 10)), driver.engine.info.kv_layout


def test_flags_reach_llama_cpp(model_path: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = observed(monkeypatch)
    path = model_path("q8_0")
    expected, layout = sampled(path)
    assert (seen["n_gpu_layers"], seen["devices"], seen["offload_kqv"], seen["op_offload"]) == (0, "nothing", 0, 0)

    asked = PlacementParams(n_gpu_layers=7, split_mode="row", main_gpu=1, tensor_split=(3.0, 1.0))
    found, other_layout = sampled(path, placed=Placed(asked, ("one", "two")))
    assert (seen["n_gpu_layers"], seen["split_mode"], seen["main_gpu"]) == (7, 2, 1)
    assert (seen["tensor_split"], seen["devices"], seen["offload_kqv"]) == ([3.0, 1.0, 0.0], None, 1)
    assert found == expected  # this build has computed it as ever
    assert other_layout != layout  # rows of devices are no rows of the processor

    sampled(path, placed=Placed(PlacementParams(n_gpu_layers=-1, kv_offload=False)))
    assert (seen["n_gpu_layers"], seen["split_mode"], seen["tensor_split"]) == (-1, 1, None)
    assert seen["offload_kqv"] == 0


def test_flags_are_read() -> None:
    assert parse(FLAGS).placement == PlacementParams(7, "row", 1, (3.0, 1.0), False)
    assert parse(["-ngl", "all"]).placement.n_gpu_layers == parse(["-ngl", "-5"]).placement.n_gpu_layers == -1
    assert parse(["-ts", "1/2,3"]).placement.tensor_split == (1.0, 2.0, 3.0)
    assert parse([]).placement == PlacementParams()
    for wrong in (
        ["-ngl", "many"],
        ["-ts", "a"],
        ["-ts", "0,0"],
        ["-ts", "1," * 16 + "1"],
        ["-mg", "-1"],
        ["-sm", "x"],
    ):
        with pytest.raises(ArgsError, match=f"The value of {wrong[0]} does not fit: "):
            parse(wrong)


def test_a_build_without_devices_tells_what_has_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices_module, "can_offload", lambda: False)
    placed = settle(parse(FLAGS).placement, "m.gguf")
    assert (placed.params, placed.devices, placed.key) == (PlacementParams(), (), ())
    assert placed.without_effect.startswith(
        "--n-gpu-layers, --split-mode, --main-gpu, --tensor-split and --no-kv-offload have no effect: this build of "
    )
    assert settle(PlacementParams(), "m.gguf").without_effect == ""


@pytest.mark.usefixtures("two_cards")
def test_where_devices_are() -> None:
    assert computing(devices_module.devices()) == GPUS
    assert computing([CPU, IGPU]) == [IGPU]
    placed = settle(parse(FLAGS).placement, "m.gguf")
    assert (placed.params, placed.devices) == (parse(FLAGS).placement, ("CUDA0 a card", "CUDA1 a card"))
    assert not placed.offloads_kv
    told = settle(PlacementParams(main_gpu=1), "m.gguf")
    assert not told.is_offloaded
    assert told.without_effect == (
        "--main-gpu has no effect without --n-gpu-layers: all layers are computed by the processor"
    )
    with pytest.raises(ModelError, match=r"m.gguf: --main-gpu 2 names no device.*has 2: CUDA0, CUDA1"):
        settle(PlacementParams(-1, "none", 2), "m.gguf")
    with pytest.raises(ModelError, match=r"--tensor-split has 3 parts.*2: CUDA0, CUDA1"):
        settle(PlacementParams(-1, tensor_split=(1.0, 1.0, 1.0)), "m.gguf")


@pytest.mark.usefixtures("two_cards")
def test_room_for_rows_is_where_they_lie() -> None:
    host = 3 << 30
    assert kv_room(Placed(), 10, host) == host
    assert kv_room(Placed(PlacementParams(-1, kv_offload=False)), 10, host) == host
    assert kv_room(Placed(PlacementParams(-1)), 10, host) == kv_room(Placed(PlacementParams(11)), 10, host) == 8 << 30
    assert kv_room(Placed(PlacementParams(6)), 10, host) == 2 * host  # half of them, and devices have room for more
    assert kv_room(Placed(PlacementParams(1)), 10, host) == host  # only the output


def test_all_devices_are_told_with_their_memory() -> None:
    found = devices()
    assert "cpu" in {device.kind for device in found}
    for device in found:
        assert device.name
        assert 0 <= device.free_bytes <= device.total_bytes


@pytest.mark.anyio
async def test_a_model_for_devices_is_tried_as_it_will_be_loaded(
    model_path: Callable[[str], Path], tmp_path: Path
) -> None:
    trials = Trials(tmp_path / "tried")
    plain = LoadParams(model_path("q8_0"), name="m.gguf", model_id=bytes(32), n_ctx=200)
    for placed in (Placed(), Placed(PlacementParams(-1, tensor_split=(1.0,)), ("a card",))):
        n_before = trials.n_tried
        for _ in range(2):
            params = await trials.check(LoadParams(**{**_fields(plain), "placed": placed}))
            assert params.placed == placed
        assert trials.n_tried == n_before + 1  # each has a note of its own


def _fields(params: LoadParams) -> dict[str, Any]:
    return {name: getattr(params, name) for name in ("path", "name", "model_id", "n_ctx")}


def test_what_was_measured_on_a_device_is_of_that_device() -> None:
    one, other = (Placed(PlacementParams(-1), (name,)) for name in ("a card", "another card"))
    assert len({one.key, other.key, Placed().key}) == 3
