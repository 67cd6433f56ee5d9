"""What follows from measurements, what is kept of them, and what they are on this machine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canister.engine.aside import run_through
from canister.engine.batch_invariance import (
    CHUNK_RULES,
    MAX_SLOTS,
    PLAIN,
    ChunkRule,
    ExactMode,
    Kernels,
    Policy,
    RowClasses,
    decide,
    measures,
    rows_of_one_class,
)
from canister.engine.engine import Engine
from canister.engine.llama import Context, Model
from canister.engine.llama_build import start_backend
from canister.engine.llama_types import ContextParams
from canister.engine.load import calibration, calibration_file
from canister.engine.load.calibration_file import MOST_ENTRIES, Calibration
from canister.engine.load.loaded import LoadParams
from canister.errors import Conflict
from canister.system import machine
from tests.engine.driver import Driver

Drive = Callable[..., Driver]

ANY = ((1, 2, 3, 4, 7, 8),)
PAIRS = ((1,), (2, 3, 4, 7, 8))
THREE = ((1, 2, 3), (4, 7), (8,))
SEVEN = ((1, 2, 3, 4, 7), (8,))
BLOCKS = ChunkRule(4)


def kernels(classes: RowClasses = ANY, chunk: ChunkRule | None = CHUNK_RULES[0], rolls_back: bool = True) -> Kernels:
    return Kernels(classes, chunk, ((1,), (2,)), rolls_back)


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (ANY, (None, False)),
        (PAIRS, (None, True)),
        (THREE, (3, False)),
        (SEVEN, (7, False)),
        (((1,), (2, 3), (4, 7, 8)), (1, False)),  # pairs would not fit: one at a time
        (((1,), (2, 3, 4, 7), (8,)), (3, True)),  # with a dummy each
        (((1,), (2,)), (None, True)),
        (((1, 2),), (None, False)),
        (((1, 3), (2, 4)), (1, False)),
    ],
)
def test_rows_of_one_class(classes: RowClasses, expected: tuple[int | None, bool]) -> None:
    assert rows_of_one_class(classes) == expected


@pytest.mark.parametrize(
    ("mode", "n_slots", "measured", "expected"),
    [
        ("auto", 0, kernels(), (True, False, None, None)),
        ("auto", 0, kernels(SEVEN), (True, False, None, 7)),
        ("auto", 8, kernels(SEVEN), (False, False, None, None)),
        ("auto", 7, kernels(SEVEN), (True, False, None, None)),
        ("auto", 0, kernels(THREE, BLOCKS), (False, False, None, None)),
        ("auto", 2, kernels(THREE, BLOCKS), (True, False, None, None)),
        ("auto", 0, kernels(chunk=None), (False, False, None, None)),
        ("auto", 0, kernels(chunk=ChunkRule(1, 3)), (False, False, None, None)),
        ("auto", 0, Kernels((), None, (), False), (False, False, None, None)),
        ("auto", 0, Kernels((), PLAIN, (), False), (False, False, None, None)),
        ("on", 0, kernels(THREE, BLOCKS), (True, False, 3, None)),
        ("on", 64, kernels(SEVEN), (True, False, 7, None)),
        ("on", 3, kernels(THREE, BLOCKS), (True, False, None, None)),
        ("on", 0, kernels(chunk=ChunkRule(1, 3)), (True, False, None, None)),
        ("off", 0, None, (False, True, None, None)),
    ],
)
def test_policies(
    mode: ExactMode, n_slots: int, measured: Kernels | None, expected: tuple[bool, bool, int | None, int | None]
) -> None:
    policy = decide(mode, "auto", False, n_slots, measured)
    assert (policy.is_exact, policy.flash_attn, policy.max_rows, policy.max_slots) == expected
    assert policy.why.startswith(f"{mode}: ")
    if policy.is_exact:
        assert measured is not None
        assert (policy.chunk, policy.repeats_cut) == (measured.chunk, False)
    else:
        # Whoever cannot have all keeps what prompts can have: one result however they are cut, or else the same cut.
        assert policy.needs_pairs is False
        can = measured is not None and measured.chunk is not None and measured.chunk.most is None
        assert (policy.chunk, policy.repeats_cut) == (measured.chunk if measured and can else PLAIN, not can)


def test_flags_about_flash_attention() -> None:
    assert decide("off", "off", False, 0, None) == Policy(False, "off: set so", False, repeats_cut=True)
    assert decide("auto", "off", False, 0, kernels(THREE, BLOCKS)).flash_attn is False
    assert decide("auto", "on", False, 0, None).flash_attn
    assert decide("auto", "auto", True, 0, None).flash_attn
    assert [measures("auto", flash, False) for flash in ("auto", "off", "on")] == [True, True, False]
    assert [measures("on", flash, False) for flash in ("auto", "off")] == [True, True]
    assert not measures("auto", "auto", True)
    assert not measures("off", "auto", False)
    with pytest.raises(Conflict, match="--flash-attn on"):
        measures("on", "on", False)
    with pytest.raises(Conflict, match="quantized"):
        measures("on", "auto", True)


@pytest.mark.parametrize("measured", [kernels(chunk=None), Kernels((), None, (), False)])
def test_on_is_refused_where_it_cannot_be(measured: Kernels) -> None:
    with pytest.raises(Conflict, match="set exact to auto"):
        decide("on", "auto", False, 0, measured)


@given(rule=st.sampled_from([PLAIN, *CHUNK_RULES]), n=st.integers(1, 256))
def test_chunks_are_filled_up(rule: ChunkRule, n: int) -> None:
    rows = rule.rows(n)
    if rule.block == 0:
        assert rows == n
    else:
        assert rows >= max(n, 2)
        assert rows % rule.block == 0
        assert rows - n < max(2, rule.block)


# -- calibrations

classes = st.lists(st.lists(st.integers(1, 64), min_size=1).map(tuple), max_size=4).map(tuple)
anything = st.builds(
    Calibration,
    st.none() | st.builds(Kernels, classes, st.none() | st.sampled_from(CHUNK_RULES), classes, st.booleans()),
    st.none() | st.dictionaries(st.integers(1, 64), st.floats(0.1, 1e6), min_size=1, max_size=5),
)


@given(entries=st.dictionaries(st.text(max_size=5), anything, max_size=5))
def test_calibrations_are_kept(tmp_path_factory: pytest.TempPathFactory, entries: dict[str, Calibration]) -> None:
    path = tmp_path_factory.mktemp("calibration") / "engine.json"
    for key, entry in entries.items():
        calibration_file.keep(path, key, entry)
    assert {key: calibration_file.recall(path, key) for key in entries} == entries
    assert calibration_file.recall(path, "another key") == Calibration()


@given(data=st.binary(max_size=40) | st.sampled_from([b"[]", b'{"k": 1}', b'{"k": {}}', b'{"k": null}', b"1" * 5000]))
def test_a_damaged_file_is_no_file(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("calibration") / "engine.json"
    path.write_bytes(data)
    assert calibration_file.recall(path, "k") == Calibration()
    known = Calibration(kernels(SEVEN), {1: 2.0})
    calibration_file.keep(path, "k", known)
    assert calibration_file.recall(path, "k") == known


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("speeds", {}),
        ("speeds", {"1": -3}),
        ("speeds", {"x": 3}),
        ("speeds", [1]),
        ("kernels", 7),
        ("kernels", {"row_classes": [], "chunk": {"block": 300, "most": None}, "attention": [], "rolls_back": True}),
        ("kernels", {"row_classes": [["a"]], "chunk": None, "attention": [], "rolls_back": True}),
    ],
)
def test_values_that_cannot_be_are_measured_again(tmp_path: Path, part: str, value: object) -> None:
    path = tmp_path / "engine.json"
    entry = {"kernels": None, "speeds": None, part: value}
    path.write_text(json.dumps({"k": entry}))
    assert calibration_file.recall(path, "k") == Calibration()


def test_old_calibrations_make_room(tmp_path: Path) -> None:
    path = tmp_path / "engine.json"
    for number in range(MOST_ENTRIES + 3):
        calibration_file.keep(path, str(number), Calibration(speeds={1: 1.0}))
    assert len(json.loads(path.read_text())) == MOST_ENTRIES
    assert calibration_file.recall(path, "2") == Calibration()
    assert calibration_file.recall(path, "3") != Calibration()
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    new = tmp_path / "new" / "engine.json"
    calibration_file.keep(new, "k", Calibration(speeds={1: 1.0}))
    assert calibration_file.recall(new, "k").speeds == {1: 1.0}
    missing = tmp_path / "missing" / "too" / "engine.json"
    calibration_file.keep(missing, "k", Calibration(speeds={1: 1.0}))
    calibration_file.keep(None, "k", Calibration(speeds={1: 1.0}))
    assert calibration_file.recall(missing, "k") == calibration_file.recall(None, "k") == Calibration()


# -- threads


def test_numbers_of_threads() -> None:
    assert [calibration.thread_counts(n) for n in (1, 2, 8)] == [[1], [1, 2], [*range(1, 9)]]
    assert calibration.thread_counts(64) == [*range(1, 9), 10, 12, 15, 18, 22, 27, 33, 41, 51, 63, 64]
    assert calibration.best_threads({1: 97.1, 2: 99.0, 3: 100.0}) == 1
    assert calibration.best_threads({1: 96.9, 2: 99.0, 3: 100.0}) == 2
    assert calibration.best_threads({1: 50.0, 2: 90.0, 4: 60.0}) == 2


def test_more_threads_than_cores_are_told(drive: Drive) -> None:
    engine = drive("q8_0", n_slots=1, n_ctx=100, n_threads=1000).engine
    assert engine.info.n_threads == machine.usable_cores()
    assert "1000 were asked for" in engine.info.threads.why


def test_threads_that_were_asked_for(drive: Drive) -> None:
    engine = drive("q8_0", n_slots=1, n_ctx=100, n_threads=1).engine
    assert (engine.info.n_threads, engine.info.threads.why, engine.info.threads.speeds) == (1, "asked for", {})


# -- the machine


def test_limits_of_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 2, nested: the tightest limit counts; pages of files can be had back."""
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    inner = groups / "outer" / "inner"
    inner.mkdir(parents=True)
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text("0::/outer/inner\n")
    (proc / "meminfo").write_text("MemTotal: 999 kB\nMemAvailable: 5000 kB\n")
    monkeypatch.setattr(machine, "_PROC", proc)
    monkeypatch.setattr(machine, "_CGROUPS", groups)
    assert machine.available_bytes() == 5000 * 1024
    (inner / "memory.max").write_text("max\n")
    (inner / "memory.current").write_text("100\n")
    assert machine.available_bytes() == 5000 * 1024
    (groups / "outer" / "memory.max").write_text("1000000\n")
    (groups / "outer" / "memory.current").write_text("900000\n")
    (groups / "outer" / "memory.stat").write_text("anon 1\nactive_file 200\ninactive_file 3000\n")
    assert machine.available_bytes() == 103_200
    (inner / "memory.max").write_text("50\n")
    assert machine.available_bytes() == 0
    (inner / "cpu.max").write_text("max 100000\n")
    n_cores = machine.usable_cores()
    (inner / "cpu.max").write_text("50000 100000\n")
    assert machine.usable_cores() == 1 <= n_cores


def test_limits_of_control_groups_of_version_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (groups / "memory").mkdir(parents=True)
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text("9:cpuset:/\n4:memory:/somewhere/else\n")
    (proc / "meminfo").write_text("MemAvailable: 5000 kB\n")
    (groups / "memory" / "memory.limit_in_bytes").write_text("4000\n")
    (groups / "memory" / "memory.usage_in_bytes").write_text("1500\n")
    monkeypatch.setattr(machine, "_PROC", proc)
    monkeypatch.setattr(machine, "_CGROUPS", groups)
    assert machine.available_bytes() == 2500
    assert machine.usable_cores() >= 1


def test_a_machine_that_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_PROC", tmp_path)
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path)
    assert machine.available_bytes() > 0
    assert machine.usable_cores() >= 1
    assert machine.cpu_name()


# -- real models


@pytest.mark.parametrize("model", ["f32", "f16", "q8_0", "q4_0", "q4_k_m", "gemma"])
def test_auto_follows_the_kernels(drive: Drive, model: str) -> None:
    """Whatever this processor's classes are: auto is exact where all slots, or nearly as many, are in one."""
    info = drive(model, n_ctx=100).engine.info
    cap, _ = rows_of_one_class(info.row_classes)
    assert sum(len(members) for members in info.row_classes) == len(
        {n for members in info.row_classes for n in members}
    )
    assert info.policy.is_exact == (cap is None or cap >= 6)
    assert not info.flash_attn
    assert info.n_slots <= (cap or MAX_SLOTS) or not info.policy.is_exact


def test_kernels_that_work_in_blocks_are_found_out(drive: Drive) -> None:
    """Repacked K-quants on x86 are the case that caps and blocks are for; elsewhere there may be neither."""
    policy = drive("q4_k_m", n_slots=8, n_ctx=100, exact="on").engine.info.policy
    assert policy.is_exact
    assert not policy.flash_attn
    assert policy.chunk in CHUNK_RULES


def test_memories_that_take_nothing_back(drive: Drive, model_path: Callable[[str], Path]) -> None:
    policy = drive("mamba", n_slots=2, n_ctx=100).engine.info.policy
    assert not policy.is_exact
    assert "take back" in policy.why
    with pytest.raises(Conflict, match="take back"):
        asyncio.run(Engine.load(LoadParams(model_path("mamba"), exact="on")))


def test_defaults() -> None:
    params = LoadParams(Path("x"))
    assert (params.exact, params.flash_attn, params.calibration_file) == ("auto", "auto", None)


def test_speeds_that_were_measured_beside_other_work_are_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "engine.json"
    calibration_file.keep(path, "k", Calibration(kernels(SEVEN), {1: 2.0}, are_quiet=False))
    assert calibration_file.recall(path, "k") == Calibration(kernels(SEVEN), None)


def test_which_speeds_count(model_path: Callable[[str], Path]) -> None:
    """By two clocks: threads that have their cores to themselves use all of the time."""
    start_backend()
    model = Model(model_path("q8_0"), "m")
    context = Context(model, ContextParams(1, 256, 64, 2), "m")
    for cpu_per_second, is_quiet in ((2.0, True), (1.6, True), (1.2, False), (0.1, False)):
        now, times = count(), count()

        def clock(now: Iterator[int] = now) -> float:
            return next(now) / 100

        def cpu_clock(share: float = cpu_per_second, times: Iterator[int] = times) -> float:
            return next(times) * share / 100

        found = run_through(calibration.measure_threads(context, [2], clock, cpu_clock))
        assert found.are_quiet == is_quiet
    context.close()
    assert not calibration.are_absurd({1: 100.0, 2: 3.0})
    assert calibration.are_absurd({1: 1602.9, 2: 0.8})
