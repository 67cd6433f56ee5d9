"""What was measured of a model on this machine, kept in a JSON file. A cache that may be deleted or damaged."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from canister.engine.batch_invariance import CHUNK_RULES, PLAIN, ChunkRule, Kernels
from canister.system import atomic_file
from canister.telemetry.logs import get_logger

FORMAT = 4
NAME = "engine.json"  # in the folder of the trials, so that it counts for all canisters, and for other servers
MOST_ENTRIES = 32

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Calibration:
    """kernels: None if nobody needed them. speeds: tokens per second by number of threads; empty: not measured.

    are_quiet: no other work ran while the speeds were measured. Other speeds are not kept.
    """

    kernels: Kernels | None = None
    speeds: dict[int, float] | None = None
    are_quiet: bool = True


def key_of(*facts: object) -> str:
    """A name for what a calibration depends on: model, llama.cpp, processor, context parameters."""
    return hashlib.sha256(repr((FORMAT, facts)).encode()).hexdigest()


def recall(path: Path | None, key: str) -> Calibration:
    """The calibration under a key; an empty one when there is none, or the file is damaged."""
    try:
        return _from_json(_read(path)[key])
    except KeyError:
        return Calibration()
    except (TypeError, ValueError, AttributeError) as error:
        log.warning("what was measured is measured again: the file is damaged", file=str(path), reason=str(error))
        return Calibration()


def keep(path: Path | None, key: str, calibration: Calibration) -> None:
    """Write a calibration down, and drop the oldest ones beyond MOST_ENTRIES. A file that cannot be written is
    logged.
    """
    if path is None:
        return
    entries = {name: entry for name, entry in _read(path).items() if name != key}
    entry = asdict(calibration)
    if not entry.pop("are_quiet"):
        entry["speeds"] = None
    entries = dict([*entries.items()][1 - MOST_ENTRIES :]) | {key: entry}
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        atomic_file.write(path, json.dumps(entries, indent=1).encode())
    except OSError as error:
        log.warning("what was measured cannot be kept", file=str(path), reason=str(error))


def _read(path: Path | None) -> dict[str, Any]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8")) if path is not None else {}
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}


def _from_json(entry: Any) -> Calibration:
    kernels, speeds = entry["kernels"], entry["speeds"]
    return Calibration(None if kernels is None else _kernels(kernels), None if speeds is None else _speeds(speeds))


def _kernels(entry: Any) -> Kernels:
    chunk = entry["chunk"]
    return Kernels(
        row_classes=_classes(entry["row_classes"]),
        chunk=None if chunk is None else _rule(ChunkRule(**chunk)),
        attention=_classes(entry["attention"]),
        rolls_back=entry["rolls_back"] is True,
        side_by_side=entry["side_by_side"] is True,
        n_verified=_count(entry["n_verified"]),
    )


def _classes(value: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(_count(n) for n in members) for members in value)


def _rule(rule: ChunkRule) -> ChunkRule:
    if rule not in (PLAIN, *CHUNK_RULES):
        raise ValueError(f"{rule} is no rule for chunks")
    return rule


def _count(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value <= 1024:
        raise ValueError(f"{value!r} is no number of rows")
    return value


def _speeds(value: Any) -> dict[int, float]:
    speeds = {_count(int(n)): float(speed) for n, speed in value.items()}
    if not speeds or not all(n >= 1 and 0 < speed < float("inf") for n, speed in speeds.items()):
        raise ValueError(f"{value} are no speeds")
    return speeds
