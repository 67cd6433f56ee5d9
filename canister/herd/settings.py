"""How a herd is set up, beside the settings of its own door, which are those of `canister serve`."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from canister.config import Settings
from canister.config.sections import CanisterSettings
from canister.errors import BadRequest
from canister.herd.fees import Prices
from canister.herd.leader import Limits
from canister.system import atomic_file
from canister.system.data_dir import HERD_DATABASE, HERD_SECRET, OBJECTS
from canister.system.machine import usable_cores

OF_THE_DOOR = "balance_policy"  # a worker's own balance tells nothing: `balance.py` has the herd's
WORKERS = "workers"  # their folders, in the data folder


@dataclass(frozen=True, slots=True)
class HerdSettings:
    """workers: how many; most_workers: if more wait for them, up to so many. ray: HOST:PORT of the head of a cluster on
    whose machines they run; None: on this one. needs: what each takes of a machine there. journal: a URL; None: a
    SQLite file in the data folder. address: where other doors reach this one; None: where it listens. objects: a folder
    or a bucket; None: a folder in the data folder. store_rows: are KV rows of chats kept there; None: if it is a
    bucket, since the disk of a single machine has them already. prices: of the paid queue. ttl_seconds: that a paid job
    may wait.
    """

    workers: int = 2
    most_workers: int | None = None
    ray: str | None = None
    needs: Mapping[str, float] = field(default_factory=dict)
    journal: str | None = None
    address: str | None = None
    objects: str | None = None
    store_rows: bool | None = None
    limits: Limits = field(default_factory=Limits)
    prices: Prices = field(default_factory=Prices)
    ttl_seconds: float = 600.0

    def __post_init__(self) -> None:
        most = self.workers if self.most_workers is None else self.most_workers
        if self.scales and not 1 <= self.workers <= most:
            raise BadRequest(
                f"--workers {self.workers} and --most-workers {most}: give at least 1, and no fewer at most"
            )
        if self.needs and self.ray is None:
            raise BadRequest("--needs says what a worker takes of a machine of a cluster: it goes with --ray")

    @property
    def scales(self) -> bool:
        """Are workers started and ended while the herd runs, as machines and work come and go?"""
        return self.ray is not None or self.most_workers is not None

    def journal_url(self, data_dir: Path) -> str:
        return self.journal or f"sqlite:///{data_dir / HERD_DATABASE}"

    @property
    def stores_rows(self) -> bool:
        return "://" in (self.objects or "") if self.store_rows is None else self.store_rows

    def objects_place(self, data_dir: Path) -> str:
        return self.objects or str(data_dir / OBJECTS)


def secret_in(data_dir: Path) -> bytes:
    """The herd's secret, made at the first start. BadRequest for a file that is none."""
    path = data_dir / HERD_SECRET
    if not path.exists():
        atomic_file.write(path, f"{secrets.token_hex(32)}\n".encode())
    try:
        secret = bytes.fromhex(path.read_text(encoding="ascii", errors="replace"))
    except ValueError:
        secret = b""
    if len(secret) != 32:
        raise BadRequest(f"{path} does not hold 64 hex digits; move it away to get a new secret")
    return secret


def worker_options(
    settings: Settings, controllers: Sequence[str], herd: HerdSettings
) -> Mapping[str, str | bool | Sequence[str]]:
    """The flags of each worker: what is set of the canisters and the engine. Workers of one machine
    share its cores; elsewhere each has those that it needs.
    """
    if settings.canisters:
        raise BadRequest(
            f"[canisters.{next(iter(settings.canisters))}]: workers of a herd have the same settings for all "
            "canisters; set them for every canister"
        )
    server = settings.server
    options: dict[str, str | bool | Sequence[str]] = {
        "canister": list(server.canister),
        "controller": list(controllers),
        "confine": server.confine,
        "log-level": server.log_level,
        "log-format": "json",
        "drain-seconds": _text(server.drain_seconds),
    }
    if server.model is not None:
        options["model"] = str(server.model.expanduser().absolute())
    if server.model_draft is not None:
        options["model-draft"] = str(server.model_draft.expanduser().absolute())
    given, usual = settings.every_canister, CanisterSettings.defaults()
    for name in CanisterSettings.rows():
        value = _value(given, name)
        if name != OF_THE_DOOR and value != _value(usual, name):
            options[name.replace("_", "-")] = value if isinstance(value, bool) else _text(value)
    if given.engine.threads == 0:
        cores = herd.needs.get("CPU") if herd.ray else usable_cores() // max(1, herd.most_workers or herd.workers)
        if cores is not None:
            options["threads"] = str(max(1, int(cores)))
    return options


def _value(settings: CanisterSettings, name: str) -> object:
    return getattr(settings.engine if name in type(settings.engine).rows() else settings, name)


def _text(value: object) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
