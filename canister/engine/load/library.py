"""The installed build of llama.cpp, the processor, and what is known of the two together.

Imports no llama_cpp, so that `canister doctor` can read here what a server has found out.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from canister.engine.llama_types import UNQUANTIZED
from canister.engine.load.ways import Attention, Restrictions, Way, choose
from canister.system import atomic_file
from canister.system.hashing import sha256_of_file
from canister.system.machine import cpu_flags, cpu_name

NOTES = "llama_cpp.json"  # in the data folder; a cache that may be deleted
DISTRIBUTION = "llama-cpp-python"
FORMAT = 1
MOST_ENTRIES = 8
REBUILD_FLAGS = "-fno-tree-dse -fno-dse"
"""With these GCC keeps the stores of AMX' tile configuration, which it drops otherwise (ggml-org/llama.cpp #26954)."""
_AMX_FLAGS, _AMX_FEATURE = {"amx_tile", "amx_int8"}, "AMX_INT8"
_NOT_PORTABLE = ("AVX512", "AMX", "AVX_VNNI", "NEON", "SVE", "VSX")
_SUFFIXES = (".so", ".dylib", ".dll")


@dataclass(frozen=True, slots=True)
class BuildFacts:
    """What was found out about this build on this processor. compiled: instruction sets that the build uses.

    tried: outcomes, by kind of weights and the types of the KV cache.
    """

    compiled: tuple[str, ...] = ()
    tried: Mapping[str, Mapping[Way, str]] = field(default_factory=dict)


def version() -> str:
    """The version of llama-cpp-python, which brings its own llama.cpp."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "unknown"


def library_id() -> str:
    """A digest of llama.cpp's shared libraries. Two builds of one version have two digests."""
    files = sorted(
        path
        for path in _folder().glob("*")
        if any(suffix in path.name for suffix in _SUFFIXES) and ("ggml" in path.name or "llama" in path.name)
    )
    return _digest(tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in files))


def processor() -> str:
    """The processor's name, for people."""
    return cpu_name().rpartition(" ")[0]


def recall(path: Path) -> BuildFacts:
    """What is noted about this build on this processor; nothing if the file is damaged."""
    try:
        entry = _read(path)[_key()]
        tried = {
            str(kind): {Way(bool(extra), bool(flash), int(rows)): str(fault) for extra, flash, rows, fault in outcomes}
            for kind, outcomes in entry["tried"].items()
        }
        return BuildFacts(tuple(map(str, entry["compiled"])), tried)
    except (KeyError, TypeError, ValueError, AttributeError):
        return BuildFacts()


def keep(path: Path, known: BuildFacts) -> None:
    """Write it down beside the notes of other builds, of which the oldest are dropped. Raises OSError."""
    key = _key()
    entry = {
        "llama_cpp_python": version(),
        "processor": processor(),
        "compiled": known.compiled,
        "tried": {kind: [[*way, fault] for way, fault in outcomes.items()] for kind, outcomes in known.tried.items()},
    }
    others = [(name, other) for name, other in _read(path).items() if name != key]
    atomic_file.write(path, json.dumps(dict(others[1 - MOST_ENTRIES :]) | {key: entry}, indent=1).encode())


def advice(restrictions: Restrictions, compiled: Collection[str]) -> str:
    """What an operator could do about the restrictions; empty if nothing."""
    has_amx = cpu_flags() >= _AMX_FLAGS
    if has_amx and not restrictions.extra_buffers:
        return (
            "build llama-cpp-python so that its AMX kernels work (where that was measured, prompts went at 790 instead "
            f"of 160 tokens/s): {rebuild_command()}"
        )
    if has_amx and compiled and _AMX_FEATURE not in compiled:
        return (
            "this build of llama-cpp-python makes no use of the processor's AMX; one that is made here does (where "
            f"that was measured, prompts went at 790 instead of 160 tokens/s): {rebuild_command()}"
        )
    if not restrictions.reasons:
        return ""
    return f"a build that is made for this processor may need nothing switched off: {rebuild_command()}"


def not_portable(compiled: Collection[str]) -> str:
    """Why this build may give other bits on other processors that have AVX2, in a sentence; empty if it does not.

    Wider registers hold more numbers, so sums are added in another order, and no setting chooses other kernels.
    """
    wider = sorted(name for name in compiled if name.startswith(_NOT_PORTABLE))
    if "AVX2" in compiled and not wider:
        return ""
    has = f"this one has those of {', '.join(wider)}" if wider else "this one does not tell that it has those"
    return (
        f"--exact portable needs a llama.cpp whose kernels are those of AVX2 alone, and {has}; compile it so "
        "(docs/receipts.md has the line), or take --exact on, which is exact on this kind of processor"
    )


def rebuild_command() -> str:
    """The shell line that builds llama-cpp-python on this machine."""
    flags = f"CMAKE_ARGS=\"-DCMAKE_CXX_FLAGS='{REBUILD_FLAGS}'\" " if sys.platform == "linux" and _is_x86() else ""
    return f"{flags}pip install --no-binary {DISTRIBUTION} --force-reinstall --no-cache-dir {DISTRIBUTION}=={version()}"


def problems(path: Path) -> list[str]:
    """Sentences for an operator: what is switched off in llama.cpp on this processor, and what to do about it."""
    known = recall(path)
    found: list[str] = []
    uses_extra = True
    for name, outcomes in known.tried.items():
        kind, *_, type_v = name.rsplit(" ", 2)
        ways: tuple[Attention, ...] = ("off", "on") if type_v in UNQUANTIZED else ("on",)  # as such a cache needs
        restrictions = choose({kind: outcomes}, ways)
        if restrictions is None:
            found.append(f"nothing that llama.cpp can do with {kind} weights survives on this processor")
            continue
        uses_extra = uses_extra and restrictions.extra_buffers
        found += [reason for reason in restrictions.reasons if reason not in found]
    told = advice(Restrictions(extra_buffers=uses_extra, reasons=tuple(found)), known.compiled)
    return [*found, told] if told else found


def summary(path: Path) -> str:
    """One line on what is known about this build on this processor."""
    kinds = dict.fromkeys(map(_kind, recall(path).tried))
    told = f"tried on this processor with weights of {', '.join(kinds)}" if kinds else "not tried on this processor yet"
    return f"llama.cpp (llama-cpp-python {version()}) was {told}"


def _kind(name: str) -> str:
    """Of what was tried; behind it are the types of the KV cache."""
    return name.rsplit(" ", 2)[0]


def _is_x86() -> bool:
    return os.uname().machine in ("x86_64", "AMD64", "amd64")


def _folder() -> Path:
    """The folder from which llama_cpp loads its libraries."""
    given = os.environ.get("LLAMA_CPP_LIB_PATH")
    if given is not None:
        return Path(given)
    found = importlib.util.find_spec("llama_cpp")
    return Path(found.origin).parent / "lib" if found is not None and found.origin is not None else Path()


@cache
def _digest(files: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path, _, _ in files:
        digest.update(path.name.encode() + bytes.fromhex(sha256_of_file(path)))
    return digest.hexdigest()


def _key() -> str:
    return hashlib.sha256(repr((FORMAT, library_id(), cpu_name())).encode()).hexdigest()


def _read(path: Path) -> dict[str, Any]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}
