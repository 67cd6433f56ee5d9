"""Dockerfile, compose file and systemd unit: linted, and the commands in them run as they stand."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
UNIT = (ROOT / "deploy" / "llama-canister.service").read_text(encoding="utf-8")
SECONDS = 120.0


def instructions(name: str) -> list[str]:
    """What stands behind an instruction of the Dockerfile, lines put together, comments left out."""
    lines = [line for line in DOCKERFILE.splitlines() if not line.lstrip().startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [line.partition(" ")[2].strip() for line in text.splitlines() if line.startswith(f"{name} ")]


def unit_values(key: str) -> list[str]:
    return [line.partition("=")[2] for line in UNIT.splitlines() if line.startswith(f"{key}=")]


def tool(name: str) -> str:
    """A linter, beside this Python or on the PATH."""
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if found is None:
        pytest.skip(f"{name} is not installed here")
    return found


@contextmanager
def running(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> Iterator[str]:
    """A server by the very command that was found, with this installation's `canister`, on a free port."""
    assert Path(command[0]).name == "canister"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CANISTER_")}
    settings = {**environment, "CANISTER_HOST": "127.0.0.1", "CANISTER_PORT": "0", "CANISTER_DATA_DIR": str(folder)}
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "canister", *command[1:]],
            env={**clean, **settings},
            cwd=folder,
            stdout=out,
            stderr=err,
        )
    try:
        end = time.monotonic() + SECONDS
        while not (found := re.search(r"listening on (\S+)", (folder / "out").read_text(encoding="utf-8"))):
            assert process.poll() is None, (folder / "err").read_text(encoding="utf-8")
            assert time.monotonic() < end
            time.sleep(0.05)
        yield found[1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_dockerfile_passes_its_linter() -> None:
    done = subprocess.run([tool("hadolint"), ROOT / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_compose_file_fits_the_specification() -> None:
    check = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", ROOT / "compose.yaml"]
    done = subprocess.run(check, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_unit_passes_its_linter(tmp_path: Path) -> None:
    command = shlex.split(unit_values("ExecStart")[0])[0]
    unit = tmp_path / "llama-canister.service"
    unit.write_text(UNIT.replace(command, sys.executable), encoding="utf-8")  # it has to be there
    done = subprocess.run([tool("systemd-analyze"), "verify", "--man=no", unit], capture_output=True, text=True)
    told = [line for line in done.stderr.splitlines() if "llama-canister" in line]  # other units are not ours
    assert done.returncode == 0, done.stderr
    assert told == []


def test_what_the_image_copies_is_there_and_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [source for line in instructions("COPY") if "--from" not in line for source in line.split()[:-1]]
    assert "canister" in copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in ignored, source


def test_the_command_of_the_image_serves_and_its_health_check_tells(tmp_path: Path) -> None:
    (command,) = instructions("CMD")
    (environment,) = instructions("ENV")
    (health,) = instructions("HEALTHCHECK")
    settings = dict(pair.split("=", 1) for pair in environment.split() if pair.startswith("CANISTER_"))
    check = json.loads(health.partition("CMD ")[2])
    assert check[0] == "python"

    def is_healthy(port: str) -> bool:
        asked = [sys.executable, *check[1:]]
        told = subprocess.run(asked, env={**os.environ, "CANISTER_PORT": port}, capture_output=True)
        return told.returncode == 0

    with running(json.loads(command), settings, tmp_path) as url:
        port = url.rpartition(":")[2]
        assert is_healthy(port)
    assert not is_healthy(port)


def test_the_command_of_the_unit_serves(tmp_path: Path) -> None:
    settings = dict(pair.split("=", 1) for line in unit_values("Environment") for pair in line.split())
    with running(shlex.split(unit_values("ExecStart")[0]), settings, tmp_path) as url:
        assert httpx.get(f"{url}/healthz").status_code == 200


def test_the_wheel_that_the_image_installs_has_the_shipped_model(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="hatchling is not installed here")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    listing = subprocess.run([sys.executable, "-m", "zipfile", "-l", wheel], capture_output=True, text=True, check=True)
    assert "canister/shipped/llama-canister-tiny.gguf" in listing.stdout
