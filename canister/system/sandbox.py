"""Confinement by the Linux kernel, for good: what this process and every child of it cannot do from now on.

    confine_server   Landlock: writes only below the given folders, and to graphics cards; opens no TCP connection
    confine_trial    Landlock and seccomp: reads only the given files, writes nothing, no socket, no other program

Landlock binds the calling thread and what it starts later, so confine before other threads start. Where the kernel has
none, nothing fails, and `state()` says what holds. Landlock does not cover the mode, owner or times of existing files.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_VERSION_FLAG = 1
_PATH_BENEATH = 1
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 22, 36, 38
_SIGKILL = 9

MIN_ABI = 2  # before, files could not be moved from folder to folder, as every commit does

# Access rights; the comment names the first ABI that knows them.
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_AND_MAKE = sum(1 << bit for bit in range(4, 13))
_REFER, _TRUNCATE = 1 << 13, 1 << 14  # 2, 3
_CONNECT_TCP, _BIND_TCP = 1 << 1, 1 << 0  # 4
_SCOPE_ABSTRACT_SOCKET, _SCOPE_SIGNAL = 1 << 0, 1 << 1  # 6
_NET_ABI, _SCOPE_ABI = 4, 6

# Numbers of: socket, socketpair, connect, execve, execveat, ptrace, io_uring_setup
_ARCHITECTURES = {
    "x86_64": (0xC000003E, (41, 53, 42, 59, 322, 101, 425)),
    "aarch64": (0xC00000B7, (198, 199, 203, 221, 281, 117, 425)),
}
_X32_BIT = 0x40000000
_DEVICE_NODES = ("nvidia*", "dri", "kfd", "dxg")  # of CUDA, Vulkan and SYCL, ROCm, Windows' subsystem for Linux


@dataclass(frozen=True, slots=True)
class Confinement:
    """What holds for this process. abi: Landlock's version in this kernel, 0 for none. reason: why it is off."""

    is_on: bool
    abi: int
    reason: str = ""
    folders: tuple[str, ...] = ()


def abi() -> int:
    """The version of Landlock in the running kernel; 0: none."""
    if sys.platform != "linux":
        return 0
    return max(0, _syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG))


_state: Confinement | None = None


def state() -> Confinement:
    """What holds for this process now."""
    return _state or Confinement(False, abi(), "not asked for")


def confine_server(folders: Sequence[Path]) -> Confinement:
    """From now on write only below `folders`, which exist, and to graphics cards, and connect to nowhere. Never raises;
    `state` says what holds.

    Call it before there are other threads. A second call confines further.
    """
    global _state
    version = abi()
    if version < MIN_ABI:
        reason = f"Landlock {version} of this kernel is too old" if version else "this system has no Landlock"
        _state = Confinement(False, version, reason)
        return _state
    n_threads = len(os.listdir("/proc/self/task"))
    if n_threads > 1:
        _state = Confinement(False, version, f"{n_threads} threads run already, and it would bind only one of them")
        return _state
    truncate = _TRUNCATE if version >= 3 else 0
    writing = _WRITE_FILE | _REMOVE_AND_MAKE | _REFER | truncate
    try:
        nodes = [(node, _WRITE_FILE) for node in device_nodes()]
        rules = [(Path("/dev/null"), _WRITE_FILE | truncate), *nodes, *((folder, writing) for folder in folders)]
        _restrict(version, writing, _CONNECT_TCP, rules)
    except OSError as error:
        _state = Confinement(False, version, f"the kernel refused: {error}")
    else:
        _state = Confinement(True, version, "", tuple(str(folder) for folder in folders))
    return _state


def end_with_parent(parent: int | None = None) -> None:
    """Let the kernel kill this process when the thread that started it ends. Only Linux can.

    parent: its process id, so that this process ends now if the parent is gone already.
    """
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, _SIGKILL)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), _SIGKILL)


def adopt_orphans() -> None:
    """Processes that descend from this one become its children when their parents end. Only Linux can."""
    if sys.platform == "linux":
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def device_nodes() -> list[Path]:
    """What programs open to compute on a graphics card, as far as it is there."""
    return [node for pattern in _DEVICE_NODES for node in sorted(Path("/dev").glob(pattern))]


def confine_trial(readable: Iterable[Path], devices: Sequence[Path] = ()) -> None:
    """From now on read only `readable` files and folders, write nothing, open no socket, start no program.

    devices: device nodes, and folders of them, that may also be written.

    As much of that as this system has. Also ends this process with the thread that started it.
    """
    if sys.platform != "linux":
        return
    end_with_parent()
    version = abi()
    if version:
        reading = _READ_FILE | _READ_DIR
        handled = _EXECUTE | _WRITE_FILE | reading | _REMOVE_AND_MAKE
        handled |= (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
        rules = [
            (path, (reading if path.is_dir() else _READ_FILE) | extra)
            for paths, extra in ((readable, 0), (devices, _WRITE_FILE))
            for path in paths
            if path.exists()
        ]
        _restrict(version, handled, _CONNECT_TCP | _BIND_TCP, rules, scoped=_SCOPE_ABSTRACT_SOCKET | _SCOPE_SIGNAL)
    _forbid_syscalls()


def _restrict(version: int, handled: int, net: int, rules: Iterable[tuple[Path, int]], *, scoped: int = 0) -> None:
    attributes = struct.pack("=Q", handled)
    if version >= _NET_ABI:
        attributes += struct.pack("=Q", net)
    if version >= _SCOPE_ABI:
        attributes += struct.pack("=Q", scoped)
    ruleset = _checked(_syscall(_CREATE_RULESET, attributes, len(attributes), 0))
    try:
        for path, access in rules:
            beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                _checked(_syscall(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", access, beneath), 0))
            finally:
                os.close(beneath)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _checked(_syscall(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)


def _forbid_syscalls() -> None:
    """seccomp: the calls of _ARCHITECTURES fail with EPERM; those of a foreign architecture end the process."""
    if os.uname().machine not in _ARCHITECTURES:
        return
    architecture, numbers = _ARCHITECTURES[os.uname().machine]
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06  # BPF: LD W ABS; JMP JEQ K; JMP JGE K; RET K
    kill, refuse, allow = 0x80000000, 0x00050000 | 1, 0x7FFF0000  # the process; with errno EPERM
    tests = [(equal, number, len(numbers) - i, 0) for i, number in enumerate(numbers)]
    program = [
        (load, 4, 0, 0),  # seccomp_data.arch
        (equal, architecture, 1, 0),
        (give, kill, 0, 0),
        (load, 0, 0, 0),  # seccomp_data.nr
        (at_least, _X32_BIT, len(numbers) + 1, 0),
        *((code, value, yes, no) for code, value, yes, no in tests),
        (give, allow, 0, 0),
        (give, refuse, 0, 0),
    ]
    filters = b"".join(struct.pack("=HBBI", code, yes, no, value) for code, value, yes, no in program)
    filters_buffer = ctypes.create_string_buffer(filters, len(filters))
    header = struct.pack("@HP", len(program), ctypes.addressof(filters_buffer))
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_SECCOMP, 2, header)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _syscall(number: int, *arguments: int | bytes | None) -> int:
    return int(_libc().syscall(ctypes.c_long(number), *(_word(argument) for argument in arguments)))


def _prctl(option: int, value: int, argument: bytes | int = 0) -> None:
    _checked(_libc().prctl(ctypes.c_int(option), ctypes.c_ulong(value), _word(argument), _word(0), _word(0)))


def _word(value: int | bytes | None) -> object:
    return value if isinstance(value, bytes) else ctypes.c_void_p(value) if value is None else ctypes.c_long(value)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
