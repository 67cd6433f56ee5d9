"""How Ray is started on a machine: what its own program takes, and nothing that lets others in."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from canister.errors import BadRequest
from canister.herd.launch.ray_machine import (
    AGENT_PORTS,
    HEAD_PORT,
    NODE_PORTS,
    Machine,
    arguments,
    environment,
    resources,
)

HEAD = Machine(Path("/data"), own_address="10.0.0.1", cpus=4, gpus=0, resources={"fast": 1})
OTHER = Machine(Path("/data"), head="10.0.0.1:6379")


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed here")
def test_ray_knows_all_that_is_said() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", "start", "--help"], capture_output=True, text=True, check=True
    )
    for machine in (HEAD, OTHER):
        for argument in arguments(machine)[1:]:
            assert argument.partition("=")[0] in done.stdout.split()


def test_a_head_and_another_machine() -> None:
    assert {"--head", f"--port={HEAD_PORT}", "--node-ip-address=10.0.0.1", "--num-cpus=4", "--num-gpus=0"} <= {
        *arguments(HEAD)
    }
    assert '--resources={"fast": 1}' in arguments(HEAD)
    assert "--include-dashboard=false" in arguments(HEAD)
    assert "--address=10.0.0.1:6379" in arguments(OTHER)
    assert "--head" not in arguments(OTHER)


def test_ports_are_known_and_none_is_used_twice() -> None:
    ports = [HEAD_PORT, *NODE_PORTS.values()]
    assert len(set(ports)) == len(ports)
    assert not set(ports) & set(range(AGENT_PORTS[0], AGENT_PORTS[1] + 1))


def test_nobody_gets_in_without_the_token() -> None:
    assert environment(HEAD, Path("/token"))["RAY_AUTH_TOKEN_PATH"] == "/token"
    for machine in (HEAD, OTHER):
        assert environment(machine)["RAY_AUTH_MODE"] == "token"


def test_what_a_machine_has() -> None:
    assert resources(["CPU=2", "fast=0.5"]) == {"CPU": 2.0, "fast": 0.5}


@pytest.mark.parametrize("text", ["CPU", "CPU=", "=1", "CPU=two", "CPU=-1", "CPU=nan", "CPU=inf"])
def test_what_does_not_say_how_much_of_what_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="NAME=N"):
        resources([text])
    with pytest.raises(BadRequest, match="each name once"):
        resources(["CPU=1", "CPU=2"])
