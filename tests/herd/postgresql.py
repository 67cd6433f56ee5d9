"""A PostgreSQL server of the tests' own, from Debian's `postgresql`: an ordinary user's process on loopback."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

START_SECONDS = 60.0


class NotHere(Exception):
    """Why there is no server; the reason of a skip."""


def programs() -> Path:
    """The folder with initdb and postgres. Raises NotHere."""
    found = [shutil.which("initdb"), *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True))]
    for path in found:
        if path is not None and (Path(path).resolve().parent / "postgres").exists():
            return Path(path).resolve().parent
    raise NotHere("PostgreSQL is not installed; on Debian and Ubuntu: apt-get install postgresql")


def ordinary_user() -> pwd.struct_passwd | None:
    """Who runs it, since it refuses to run as root; None: who runs the tests. Raises NotHere."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise NotHere("PostgreSQL does not run as root, and there is no user postgres or nobody")


class PostgreSQL:
    """One server. It may be killed, and started again on what it has left behind."""

    def __init__(self, folder: Path, *, is_durable: bool = False) -> None:
        """folder: empty, of the user who runs it. is_durable: it waits for the disk, as a benchmark wants it."""
        self.folder = folder
        self._programs = programs()
        self._user = ordinary_user()
        self._is_durable = is_durable
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def url(self, schema: str = "public") -> str:
        """Of a schema in it, for the journal."""
        return f"postgresql://herd@127.0.0.1:{self.port}/postgres?options=-csearch_path%3D{schema}"

    def create(self) -> None:
        self._run(
            "initdb", "-D", self.folder / "data", "-U", "herd", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C"
        )

    def start(self) -> None:
        """Start, and wait until it answers. Tries again while the memory of one that was killed is still in use."""
        given = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "shared_buffers": "16MB",
            "max_connections": 60,
            "fsync": "on" if self._is_durable else "off",
        }
        command = [self._programs / "postgres", "-D", self.folder / "data"]
        command += [word for name, value in given.items() for word in ("-c", f"{name}={value}")]
        end = time.monotonic() + START_SECONDS
        while True:
            with (self.folder / "log").open("ab") as log:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.folder,
                    **self._as_user(),
                )
            while self._process.poll() is None:
                if self._answers():
                    return
                if time.monotonic() > end:
                    self.kill()
                    break
                time.sleep(0.02)
            if time.monotonic() > end:
                raise RuntimeError(f"PostgreSQL does not start: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.1)

    def kill(self) -> None:
        """All its processes, as a machine that loses its power does. Each is in a session of its own."""
        children: list[str] = []
        if self._process is not None:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        self._end(signal.SIGKILL)
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGINT)

    def query(self, sql: str, schema: str = "public") -> list[tuple[object, ...]]:
        """Run something in a connection of its own; the rows, if there are any."""
        import psycopg

        with psycopg.connect(self.url(schema), autocommit=True) as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait(60)

    def _answers(self) -> bool:
        ready = subprocess.run(
            [self._programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)], check=False
        )
        return ready.returncode == 0

    def _run(self, program: str, *arguments: str | Path) -> None:
        done = subprocess.run(
            [self._programs / program, *arguments], capture_output=True, text=True, cwd=self.folder, **self._as_user()
        )
        if done.returncode:
            raise NotHere(f"{program} failed: {done.stderr.strip()[-500:]}")

    def _as_user(self) -> dict[str, object]:
        if self._user is None:
            return {}
        return {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}


@contextmanager
def own_server(*, is_durable: bool = False) -> Iterator[PostgreSQL]:
    """A server in a folder of its own, until the end. Raises NotHere."""
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        raise NotHere(f"psycopg is not installed: {error}") from error
    user = ordinary_user()
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)
    server = None
    try:
        server = PostgreSQL(folder, is_durable=is_durable)
        server.create()
        server.start()
        yield server
    finally:
        if server is not None:
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
