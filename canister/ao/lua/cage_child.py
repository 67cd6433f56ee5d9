"""Inside a cage: one program's state, which does what its keeper asks, one call after the other.

asked      "call" kind subject arguments instructions seconds now seed dry; "define" path;
           "spare", then a socket: a copy of this process waits there, with the state as it is now;
           "wake" and the nursery's number, of such a copy; "save"; "restore" snapshot, before any call
answered   "host" path arguments, which the keeper answers with "ok" values or "error" text;
           "done" values error used printed; "spare" and the copy's number; "awake";
           "saved" snapshot, "restored" and the bytes of memory it takes, or "not kept" and why
"""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass

from canister.ao.lua import frames, values
from canister.ao.lua.sandbox import HostError, Limits, NotKept, Outcome, Sandbox
from canister.ao.lua.values import Value
from canister.system.sandbox import end_with_parent

MAX_SNAPSHOT_BYTES = 32 << 20
HOST_PRICE = 2000  # instructions: the keeper works too, and writes the answer down


@dataclass(slots=True)
class _Line:
    """To the keeper; a spare has another one than the process that it is a copy of."""

    connection: socket.socket


def run(connection: socket.socket, sandbox: Sandbox) -> None:
    """Until the keeper has gone."""
    line = _Line(connection)
    while True:
        try:
            message = frames.receive(line.connection)
            match message[0]:
                case b"define":
                    _define(line, sandbox, _bytes(message[1]).decode())
                case b"spare":
                    _leave_spare(line)
                case b"wake":
                    _wake(_int(message[1]))
                    frames.send(line.connection, b"awake")
                case b"save":
                    _save(line.connection, sandbox)
                case b"restore":
                    _restore(line.connection, sandbox, _bytes(message[1]))
                case _ if message[-1]:
                    _dry(line.connection, sandbox, message)
                case _:
                    _answer(line.connection, _called(sandbox, message))
        except frames.CageEnded:
            return


def _leave_spare(line: _Line) -> None:
    """The copy takes the new socket and waits; this process goes on. Copies that have ended are reaped."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    _, descriptors, _, _ = socket.recv_fds(line.connection, 1, 1)
    if not descriptors:
        raise frames.CageEnded("no socket came for a spare")
    child = os.fork()
    if child:
        os.close(descriptors[0])
        frames.send(line.connection, b"spare", child)
    else:
        line.connection.close()
        line.connection = socket.socket(fileno=descriptors[0])


def _wake(nursery: int) -> None:
    """The process that this one is a copy of has ended, so the nursery is its parent, and it ends with it."""
    if os.getppid() != nursery:  # which has ended too: nobody could end this process then
        raise frames.CageEnded("the nursery has gone")
    end_with_parent(nursery)


def _save(connection: socket.socket, sandbox: Sandbox) -> None:
    try:
        snapshot = sandbox.save()
        if len(snapshot) > MAX_SNAPSHOT_BYTES:
            raise NotKept(f"its state takes {len(snapshot)} bytes; {MAX_SNAPSHOT_BYTES} are kept")
        frames.send(connection, b"saved", snapshot)
    except (NotKept, MemoryError) as error:
        frames.send(connection, b"not kept", (str(error) or "there is no memory for it").encode())


def _restore(connection: socket.socket, sandbox: Sandbox, snapshot: bytes) -> None:
    try:
        sandbox.restore(snapshot)
        frames.send(connection, b"restored", sandbox.memory_bytes)
    except (NotKept, MemoryError) as error:
        frames.send(connection, b"not kept", (str(error) or "there is no memory for it").encode())


def _define(line: _Line, sandbox: Sandbox, path: str) -> None:
    def call(*arguments: Value) -> Value:
        frames.send(line.connection, b"host", path.encode(), values.encode(*arguments))
        word, given = frames.receive(line.connection)
        if word != b"ok":
            raise HostError(_bytes(given).decode(errors="replace"))
        found = values.decode(_bytes(given))
        return found[0] if found else None

    sandbox.define(path, call, HOST_PRICE)


def _called(sandbox: Sandbox, message: list[Value]) -> Outcome:
    _, kind, subject, arguments, instructions, seconds, now, seed, _ = message
    limits = Limits(_int(instructions), float(_number(seconds)))
    sandbox.at(_int(now))
    sandbox.seed(_int(seed))
    if kind == b"load":
        return sandbox.load(_bytes(subject), _bytes(arguments).decode(), limits)
    if kind == b"evaluate":
        return sandbox.evaluate(_bytes(subject), limits)
    return sandbox.call(_bytes(subject).decode(), *values.decode(_bytes(arguments)), limits=limits)


def _dry(connection: socket.socket, sandbox: Sandbox, message: list[Value]) -> None:
    """In a copy of this process, which ends afterwards; this one has changed nothing."""
    parent = os.getpid()
    child = os.fork()
    if not child:
        try:
            end_with_parent(parent)
            _answer(connection, _called(sandbox, message))
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if status:
        _answer(connection, Outcome((), "the program's process ended", 0, b""))


def _answer(connection: socket.socket, outcome: Outcome) -> None:
    error = None if outcome.error is None else outcome.error.encode()
    try:
        frames.send(connection, b"done", values.encode(*outcome.values), error, outcome.used, outcome.printed)
    except values.BadValue as refusal:
        frames.send(connection, b"done", b"", str(refusal).encode(), outcome.used, b"")


def _bytes(value: Value) -> bytes:
    assert isinstance(value, bytes)
    return value


def _int(value: Value) -> int:
    assert isinstance(value, int)
    return value


def _number(value: Value) -> float:
    assert isinstance(value, int | float)
    return value
