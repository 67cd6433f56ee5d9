"""How Ray is started on a machine of a herd: with a token, on known ports, and so that its head may come back. Pure.

The same settings for every machine, since some of them count at the head and some at the others.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from canister.errors import BadRequest

HEAD_PORT = 6379
NODE_PORTS = {
    "node-manager-port": 6380,
    "object-manager-port": 6381,
    "runtime-env-agent-port": 6382,
    "dashboard-agent-listen-port": 6383,
    "dashboard-agent-grpc-port": 6384,
    "metrics-export-port": 6385,
}
AGENT_PORTS = (10002, 10999)  # of Ray's worker processes, in which agents run
OBJECT_STORE_BYTES = 80_000_000  # the least that Ray takes; a herd puts nothing there


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine of a herd. head: HOST:PORT of the head; None: this is the head. folder: for its workers, and at the
    head for what Ray knows. own_address: by which the others reach it; None: Ray finds one. resources: names of one's
    own that workers can ask for.
    """

    folder: Path
    head: str | None = None
    own_address: str | None = None
    cpus: int | None = None
    gpus: int | None = None
    resources: Mapping[str, float] = field(default_factory=dict)


def environment(machine: Machine, token_file: Path | None = None) -> dict[str, str]:
    """What Ray has to see there. token_file: None where RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH is set."""
    found = {
        "CANISTER_HERD_DIR": str(machine.folder / "workers"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        # A head that was killed finds what it knew; its machines wait ten minutes for it.
        "RAY_gcs_storage": "rocksdb",
        "RAY_gcs_storage_path": str(machine.folder / "head"),
        "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
        # Workers outlive their agents, and Ray on their machine; the next agent adopts them.
        "RAY_kill_child_processes_on_worker_exit": "0",
        "RAY_process_group_cleanup_enabled": "0",
        # A machine that is lost is known after some 4 s, a hung one after 10; the usual settings take a minute.
        "RAY_health_check_initial_delay_ms": "1000",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "2000",
        "RAY_health_check_failure_threshold": "3",
    }
    if token_file is not None:
        found["RAY_AUTH_TOKEN_PATH"] = str(token_file)
    return found


def arguments(machine: Machine) -> list[str]:
    """The arguments of the program `ray`. It stays in the foreground, and ends with what it started."""
    found = ["start", "--block", "--disable-usage-stats", f"--object-store-memory={OBJECT_STORE_BYTES}"]
    if machine.head is None:
        found += ["--head", f"--port={HEAD_PORT}", "--include-dashboard=false"]
    else:
        found += [f"--address={machine.head}"]
    found += [f"--{name}={port}" for name, port in NODE_PORTS.items()]
    found += [f"--min-worker-port={AGENT_PORTS[0]}", f"--max-worker-port={AGENT_PORTS[1]}"]
    if machine.own_address is not None:
        found += [f"--node-ip-address={machine.own_address}"]
    if machine.cpus is not None:
        found += [f"--num-cpus={machine.cpus}"]
    if machine.gpus is not None:
        found += [f"--num-gpus={machine.gpus}"]
    if machine.resources:
        found += [f"--resources={json.dumps(dict(machine.resources))}"]
    return found


def resources(given: Iterable[str]) -> dict[str, float]:
    """Of texts such as `CPU=2` and `fast=1`. Raises BadRequest."""
    found: dict[str, float] = {}
    for text in given:
        name, _, value = text.partition("=")
        try:
            n = float(value)
        except ValueError:
            n = -1.0
        if not name or not 0 <= n < 1e15 or name in found:
            raise BadRequest(f"{text!r} does not say how much of what: give NAME=N, such as CPU=2, each name once")
        found[name] = n
    return found
