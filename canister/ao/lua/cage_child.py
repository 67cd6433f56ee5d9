"""Inside a cage: one program's state, which does what its keeper asks, one call after the other.

asked      "call" kind subject arguments instructions seconds now seed dry      "define" path
answered   "host" path arguments, which the keeper answers with "ok" values or "error" text;
           "done" values error used printed
"""

from __future__ import annotations

import os
import socket

from canister.ao.lua import frames, values
from canister.ao.lua.sandbox import HostError, Limits, Outcome, Sandbox
from canister.ao.lua.values import Value
from canister.system.sandbox import end_with_parent


def run(connection: socket.socket, sandbox: Sandbox) -> None:
    """Until the keeper has gone."""
    while True:
        try:
            message = frames.receive(connection)
            if message[0] == b"define":
                _define(connection, sandbox, _bytes(message[1]).decode())
            elif message[-1]:
                _dry(connection, sandbox, message)
            else:
                _answer(connection, _called(sandbox, message))
        except frames.CageEnded:
            return


def _define(connection: socket.socket, sandbox: Sandbox, path: str) -> None:
    def call(*arguments: Value) -> Value:
        frames.send(connection, b"host", path.encode(), values.encode(*arguments))
        word, given = frames.receive(connection)
        if word != b"ok":
            raise HostError(_bytes(given).decode(errors="replace"))
        found = values.decode(_bytes(given))
        return found[0] if found else None

    sandbox.define(path, call)


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
