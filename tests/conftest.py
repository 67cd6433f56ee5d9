"""Options and fixtures for all tests: a server of one's own, and the one that the smoke tests are aimed at."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from hypothesis import HealthCheck, settings

from canister.client.local_server import LocalServer
from canister.system.data_dir import TRIED

if TYPE_CHECKING:
    from canister.ao.signing.wallets import ArweaveWallet
    from canister.engine.load.calibration_file import Calibration

# Several test processes share the cores: decoding threads that wait for each other are not to wait in a busy loop.
# OpenMP reads it when llama.cpp is loaded, here and in the servers that tests start.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# Where images of containers forbid it, each of the many processes here would compile the whole package again: a second.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# What the shell of `nohup make test`, or of a job in the background, lets its children ignore is tested here.
for _number, _handler in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
    if signal.getsignal(_number) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
        signal.signal(_number, _handler)

# How fast examples are made and run tells of the machine's load, not of the code. Each run of CI tries the same ones;
# new ones are for the nightly runs, where a find stops nobody else's work.
settings.register_profile("nightly", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("any load", settings.get_profile("nightly"), derandomize=True)


# A server that others keep from its work answers later than after httpx's five seconds.
for _phase in ("connect", "read", "write", "pool"):
    setattr(httpx._config.DEFAULT_TIMEOUT_CONFIG, _phase, 120.0)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("smoke", "smoke tests against a running server")
    group.addoption("--network", metavar="local|URL", help="server to test; by default one is started")
    group.addoption("--canister", default="llama_cpp", metavar="NAME", help="canister to test")
    group.addoption("--model", type=Path, metavar="FILE", help="GGUF to upload; default: the shipped model")
    group.addoption("--api-key", metavar="KEY", help="who calls: a controller; default: CANISTER_API_KEY")


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("nightly" if "nightly" in config.option.markexpr else "any load")


def pytest_collection_finish() -> None:
    """What thousands of tests are made of is no garbage, and is not to be looked through again and again."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long runs to `make nightly`, which selects them by their mark."""
    if "nightly" not in config.option.markexpr:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("nightly")])
        items[:] = [item for item in items if not item.get_closest_marker("nightly")]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def known_trials(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Data folders of tests are new each time; what was tried and measured of llama.cpp and of models for one counts
    for all. Measuring takes ten times as long as loading; tests/handlers/test_engine_report.py has when it is done.
    """
    from canister.engine.load import loader
    from canister.engine.load.trial import Trials
    from canister.runtime import host, loaded_model, template_runner
    from canister.system.machine import cpu_flags

    # The processes of a run share it: each has a folder of its own below the one of the run.
    base = tmp_path_factory.getbasetemp()
    cache = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    folder = cache / "llama-canister" / TRIED
    folder.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        for module in (host, loaded_model):
            patch.setattr(module, "Trials", lambda _: Trials(folder))
        patch.setattr(loader, "kept", Measured())
        patch.setattr(template_runner, "CPU_SECONDS", 1)  # of a template without end, all are used up
        patch.setenv("XDG_CACHE_HOME", str(cache))
        if cpu_flags() >= {"amx_tile", "amx_int8"}:
            without_what_crashes(folder, patch)
        yield


class Measured:
    """Takes the place of the calibration files: what is measured of a model, beside whatever else runs, counts for all
    tests of a process.
    """

    def __init__(self) -> None:
        self._by_key: dict[str, Calibration] = {}

    def key_of(self, *facts: object) -> str:
        return repr(facts)

    def recall(self, path: Path | None, key: str) -> Calibration:
        from canister.engine.load.calibration_file import Calibration

        return Calibration() if path is None else self._by_key.get(key, Calibration())

    def keep(self, path: Path | None, key: str, found: Calibration) -> None:
        self._by_key[key] = replace(found, are_quiet=True)


def without_what_crashes(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Tests that load a model into their own process, without a trial, do without extra buffers where these crash."""
    import llama_cpp

    from canister.engine.load.loaded import LoadParams
    from canister.engine.load.trial import Trials

    tried = Trials(folder).library.restrict(LoadParams(Path("tests")), ["f16", "q4_0", "q4_K", "q6_K", "q8_0"])
    if asyncio.run(tried).restrictions.extra_buffers:
        return
    load = llama_cpp.llama_model_load_from_file

    def plain(path: bytes, params: llama_cpp.llama_model_params) -> object:
        params.use_extra_bufts = False
        return load(path, params)

    patch.setattr(llama_cpp, "llama_model_load_from_file", plain)


@pytest.fixture(scope="session")
def config_dirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Names of folders that are not there: most tests write none, and to make one a test takes time."""
    folder = tmp_path_factory.mktemp("config")
    return (folder / str(n) for n in itertools.count())


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, config_dirs: Iterator[Path]) -> None:
    """No test depends on the shell, or on the identities, of who runs it."""
    for name in [name for name in os.environ if name.startswith("CANISTER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CANISTER_CONFIG_DIR", str(next(config_dirs)))


@pytest.fixture(scope="session")
def running_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """`canister serve` as a child process, shared: tests leave its canister `llama_cpp` as they found it."""
    with LocalServer(tmp_path_factory.mktemp("server"), "--slots", "2") as server:
        yield server


@pytest.fixture(scope="session")
def rsa_wallet() -> ArweaveWallet:
    """One for all tests, since making one takes a second and more."""
    from canister.ao.signing.wallets import ArweaveWallet

    return ArweaveWallet.generate()


@pytest.fixture(scope="session")
def ao_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """`canister ao serve` as a child process, shared: each test has processes and items of its own."""
    folder = tmp_path_factory.mktemp("ao_server")
    with LocalServer(folder, "--slots", "2", command=("ao", "serve")) as server:
        yield server


@pytest.fixture
def story_model() -> Path:
    """llama.cpp's 260 K parameter story teller."""
    from tests.harness import STORY_MODEL

    if not STORY_MODEL.exists():
        pytest.skip("the story model is in ../shared/models, which is not here")
    return STORY_MODEL
