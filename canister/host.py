"""Host: the canisters that one server holds, by name and by id, and who its callers are.

It owns the data folder, which no second server may use at the same time:

    lock               held while a server runs
    server.db          canisters (name → id), API keys
    controller.pem     the server's own Ed25519 identity, made at the first start; controls every canister
    controller.key     an API key for that identity
    root.key           the key that certifies IC replies (64 hex digits): clients remember its public half
    node.pem           the identity that signs answers to IC queries
    canisters/<id>/    all that belongs to one canister

Which methods run, and whether they may, is decided in dispatch, above.
"""

from __future__ import annotations

import asyncio
import difflib
import fcntl
import os
import time
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Connection, func, insert, select

from canister.canister import Canister
from canister.config import Settings
from canister.errors import BadRequest, CanisterNotFound, Conflict
from canister.ic import principal as principals
from canister.ic.certificate import CertificateError, RootKey
from canister.ic.identity import Identity, IdentityError
from canister.keys import SERVER_DATABASE, KeyRing, write_private
from canister.store.db import Database
from canister.store.tables import canisters as canister_table
from canister.telemetry import get_logger

CONTROLLER_KEY_NAME = "controller"

log = get_logger(__name__)


class Host:
    """Made, then started, then stopped once. Between start and stop `canisters` are served and `keys` count."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.data_dir = settings.data_dir.expanduser().absolute()
        self.identity_path = self.data_dir / "controller.pem"
        self.key_path = self.data_dir / "controller.key"
        self.root_key_path = self.data_dir / "root.key"
        self.canisters: Sequence[Canister] = ()
        self.pending: dict[str, str] = {}  # what a canister, by name, still waits for besides its own start
        self._lock = FolderLock(self.data_dir / "lock")
        self._database = Database(self.data_dir / SERVER_DATABASE, "server")
        self.keys = KeyRing(self._database)
        self.identity: Identity
        self.node: Identity
        self.root_key: RootKey

    @property
    def default(self) -> Canister:
        """The canister that a request means which names none: the first in the settings."""
        return self.canisters[0]

    def find(self, name_or_id: str) -> Canister:
        """CanisterNotFound names the nearest, or all when there are few."""
        for canister in self.canisters:
            if name_or_id in (canister.name, canister.id):
                return canister
        names = [canister.name for canister in self.canisters]
        near = difflib.get_close_matches(
            name_or_id, names + [canister.id for canister in self.canisters], n=1, cutoff=0.5
        )
        hint = f"Did you mean '{near[0]}'?" if near else f"This server has: {', '.join(names[:20])}."
        raise CanisterNotFound(f"Canister {name_or_id[:80]!r} not found. {hint}")

    def with_id(self, canister_id: bytes) -> Canister:
        """The canister of an IC message. CanisterNotFound in the IC's words."""
        text = principals.to_text(canister_id)
        for canister in self.canisters:
            if canister.id == text:
                return canister
        raise CanisterNotFound(f"Canister {text} not found")

    def principal_of(self, key: str) -> str | None:
        """Whom an API key stands for; None for a key that does not count."""
        found = self.keys.find(key)
        return None if found is None else found.principal

    def not_ready(self) -> dict[str, str]:
        """Why a canister is not ready, for each by name that should have a model and has it not (yet)."""
        own = {
            canister.name: canister.load_error or "its model is being loaded"
            for canister in self.canisters
            if canister.load_error is not None or not canister.ready
        }
        return own | self.pending

    async def start(self) -> None:
        """Take the data folder and start every canister; their models load in the background.

        Raises a CanisterError whose message tells the operator what to do; then nothing is left running.
        """
        for text in self.settings.controller:
            _check_controller(text)
        await asyncio.to_thread(self._open)
        started: list[Canister] = []
        try:
            for canister in await asyncio.to_thread(self._make_canisters):
                started.append(canister)
                await canister.start()
        except BaseException:
            await asyncio.gather(*(canister.stop(0) for canister in started), return_exceptions=True)
            self._close()
            raise
        self.canisters = tuple(started)

    async def stop(self, drain_seconds: float | None = None) -> None:
        """Stop all canisters, next to each other, and let the data folder go, whatever happens to one of them."""
        seconds = self.settings.drain_seconds if drain_seconds is None else drain_seconds
        stopped, self.canisters = self.canisters, ()
        outcomes = await asyncio.gather(*(canister.stop(seconds) for canister in stopped), return_exceptions=True)
        await asyncio.to_thread(self._close)
        for canister, outcome in zip(stopped, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                log.error("canister did not stop well", canister=canister.name, exc_info=outcome)

    # -- the data folder

    def _open(self) -> None:
        try:
            self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock.take()
        except OSError as error:
            raise BadRequest(
                f"the data folder {self.data_dir} cannot be used: {error.strerror}; "
                "choose another one with --data-dir or CANISTER_DATA_DIR"
            ) from error
        try:
            self._database.open()
            self.identity = self._own_identity(self.identity_path)
            self.node = self._own_identity(self.data_dir / "node.pem")
            self.root_key = self._own_root_key()
            self._own_key()
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        self._database.close()
        self._lock.release()

    def _own_identity(self, path: Path) -> Identity:
        if not path.exists():
            identity = Identity.generate()
            write_private(path, identity.to_pem())
            return identity
        try:
            return Identity.from_pem(path.read_bytes())
        except IdentityError as error:
            raise BadRequest(
                f"{path}: {error}; restore the file, or move it away to get a new identity (the canisters' controllers "
                "follow)"
            ) from error

    def _own_root_key(self) -> RootKey:
        if not self.root_key_path.exists():
            root_key = RootKey.generate()
            write_private(self.root_key_path, f"{root_key.to_bytes().hex()}\n".encode("ascii"))
            return root_key
        try:
            return RootKey.from_bytes(bytes.fromhex(self.root_key_path.read_text(encoding="ascii", errors="replace")))
        except (CertificateError, ValueError) as error:
            raise BadRequest(
                f"{self.root_key_path}: {error}; restore the file, or move it away to get a new root key "
                "(clients that have remembered the old one have to fetch it)"
            ) from error

    def _own_key(self) -> None:
        """See to it that controller.key holds a key of our own identity, unless the operator has revoked it."""
        known = self.keys.get(CONTROLLER_KEY_NAME)
        is_ours = known is None or known.principal == self.identity.principal
        if self.key_path.exists() and is_ours:
            if self.principal_of(self.key_path.read_text(encoding="ascii", errors="replace").strip()) is None:
                log.warning(
                    "the controller's API key does not count any more; delete the file to get a new one at a start",
                    file=str(self.key_path),
                )
            return
        key = self.keys.create(CONTROLLER_KEY_NAME, self.identity.principal, replace=True)
        write_private(self.key_path, f"{key}\n".encode("ascii"))

    def _make_canisters(self) -> list[Canister]:
        names = self.settings.canister
        ids = self._database.submit(lambda connection: _ids_of(connection, names)).result()
        controllers = dict.fromkeys([self.identity.principal, *self.settings.controller])
        return [
            Canister(ids[name], name, self.data_dir / "canisters" / ids[name], controllers, self.settings)
            for name in names
        ]


def _ids_of(connection: Connection, names: Sequence[str]) -> dict[str, str]:
    """The id of each name: as it was, or the next free one. A name keeps its id also while it is not served."""
    known = {row.name: row.id for row in connection.execute(select(canister_table.c.name, canister_table.c.id))}
    taken = set(known.values())
    for name in names:
        if name not in known:
            index = connection.execute(select(func.count()).select_from(canister_table)).scalar_one()
            while principals.canister_id(index) in taken:
                index += 1
            known[name] = principals.canister_id(index)
            taken.add(known[name])
            connection.execute(insert(canister_table).values(name=name, id=known[name], created_ns=time.time_ns()))
    return known


def _check_controller(text: str) -> None:
    try:
        principals.from_text(text)
    except principals.PrincipalError as error:
        raise BadRequest(f"--controller: {error}") from None
    if text == principals.ANONYMOUS:
        raise BadRequest(f"--controller: {text} is the anonymous caller; everybody would control the canisters")


class FolderLock:
    """An advisory lock that the kernel drops when its holder dies, however it dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def take(self) -> None:
        """Conflict when another process holds it; OSError when the file cannot be made."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 20).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise Conflict(
                f"another server uses the data folder {self._path.parent} (process {holder}); "
                "stop it, or choose another folder with --data-dir"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
