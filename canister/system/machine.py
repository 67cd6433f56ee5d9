"""The machine under the engine: its processor, and the cores and memory that this process may use."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores that this process may keep busy: its affinity, and the quota of its control group rounded up."""
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _folders("cpu"):
        words = _read(folder / "cpu.max").split()
        if not words:
            words = [_read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()]
        if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]):
            n = min(n, -(-int(words[0]) // int(words[1])))
    return max(1, n)


def cpu_name() -> str:
    """The processor's model and a short digest of its features, which may change a kernel's last bits."""
    lines = dict.fromkeys(("model name", "flags", "Features", "CPU part"), "")
    for line in _read(_PROC / "cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if lines.get(name.strip()) == "":
            lines[name.strip()] = value.strip()
    name = lines["model name"] or platform.processor() or platform.machine()
    return f"{name} {hashlib.sha256(repr(lines).encode()).hexdigest()[:8]}"


def cpu_flags() -> frozenset[str]:
    """Features of the processor, as Linux names them; empty where it does not list them."""
    for line in _read(_PROC / "cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def available_bytes() -> int:
    """Memory that is still available: the machine's, or what control groups leave. Pages of files count as
    available.
    """
    return max(0, min([_machine_bytes(), *_group_bytes()]))


def _machine_bytes() -> int:
    for line in _read(_PROC / "meminfo").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable" and value.split()[:1] and value.split()[0].isdecimal():
            return int(value.split()[0]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _group_bytes() -> Iterator[int]:
    for folder in _folders("memory"):
        for limit, usage in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            found, used = _read(folder / limit).strip(), _read(folder / usage).strip()
            if found.isdecimal() and used.isdecimal():
                yield int(found) - int(used) + _file_bytes(folder)


def _file_bytes(folder: Path) -> int:
    """Bytes of file pages in a group, which the kernel takes back when memory is short."""
    words = (line.split() for line in _read(folder / "memory.stat").splitlines())
    values = {pair[0]: int(pair[1]) for pair in words if len(pair) == 2 and pair[1].isdecimal()}
    return values.get("inactive_file", 0) + values.get("active_file", 0)


def _folders(controller: str) -> Iterator[Path]:
    """Folders of this process's control groups, and of those above them, for both versions of control groups.

    A container may see its own group as the root, whatever /proc says.
    """
    for line in _read(_PROC / "self" / "cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number != "0" and controller not in controllers.split(","):
            continue
        root = _CGROUPS if number == "0" else _CGROUPS / controller
        folder = root / path.strip("/")
        while folder != root and root in folder.parents:
            yield folder
            folder = folder.parent
        yield root


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
