"""A Ray cluster of two machines, as processes on loopback, which tests take apart: `python -m
tests.herd.launch.ray_cluster`.

A process of its own, so that tests import nothing of Ray. FOLDER is its argument; lines of JSON come in, and each is
answered by one. It ends, and all of the cluster with it, when its input ends.

    {"do": "address"}                         {"ok": "127.0.0.1:PORT"}
    {"do": "add", "node": "second", "resources": {"second": 9}}
    {"do": "kill raylet", "node": "second"}   -9, as if the machine had burned
    {"do": "kill head"}                       the GCS, -9
    {"do": "start head"}                      again, on the same port and what it kept
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ray._private.node import Node
from ray.cluster_utils import Cluster

OBJECT_STORE_BYTES = 80_000_000  # the least that Ray takes; a herd puts nothing there


class Machines:
    """The cluster; each machine has a folder of its own for its workers, as machines have."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._nodes: dict[str, Node] = {}
        self._gcs: subprocess.Popen[bytes] | None = None
        self._command: list[str] = []
        self._cluster = Cluster()
        self.add("first", {"first": 9, "any": 9})

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self, node: str, resources: dict[str, float]) -> None:
        head = {"temp_dir": str(self._folder / "ray"), "include_dashboard": False} if not self._nodes else {}
        self._nodes[node] = self._cluster.add_node(
            num_cpus=4,
            object_store_memory=OBJECT_STORE_BYTES,
            resources=resources,
            node_ip_address="127.0.0.1",
            env_vars={"CANISTER_HERD_DIR": str(self._folder / node)},
            **head,
        )

    def kill_raylet(self, node: str) -> None:
        gone = self._nodes.pop(node)
        gone.all_processes["raylet"][0].process.kill()
        gone.all_processes["raylet"][0].process.wait()
        self._cluster.remove_node(gone)

    def kill_head(self) -> None:
        gcs = self._cluster.head_node.all_processes["gcs_server"][0].process
        said = Path(f"/proc/{gcs.pid}/cmdline").read_bytes().decode().split("\0")
        port = self.address.rpartition(":")[2]
        self._command = [
            f"--gcs_server_port={port}" if word.startswith("--gcs_server_port") else word for word in said if word
        ]
        gcs.kill()
        gcs.wait()

    def start_head(self) -> None:
        with (self._folder / "gcs.out").open("ab") as out:
            self._gcs = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def close(self) -> None:
        self._cluster.shutdown()
        if self._gcs is not None:
            self._gcs.kill()
            self._gcs.wait()


def answer(machines: Machines, asked: dict[str, Any]) -> object:
    match asked["do"]:
        case "address":
            return machines.address
        case "add":
            return machines.add(asked["node"], asked["resources"])
        case "kill raylet":
            return machines.kill_raylet(asked["node"])
        case "kill head":
            return machines.kill_head()
        case "start head":
            return machines.start_head()
    raise ValueError(asked["do"])


def main() -> None:
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what Ray prints is no answer
    machines = Machines(Path(sys.argv[1]))
    try:
        for line in sys.stdin:
            try:
                said = {"ok": answer(machines, json.loads(line))}
            except Exception as error:
                said = {"error": f"{type(error).__name__}: {error}"}
            told.write(json.dumps(said) + "\n")
            told.flush()
    finally:
        machines.close()


if __name__ == "__main__":
    main()
