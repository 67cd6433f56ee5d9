"""Host: the canisters that one server holds, by name and by id, and its callers' keys.

It owns the data folder (`data_dir.py`), which no second server may use at the same time. At the first start it makes an
Ed25519 identity with an API key, the root key, and the node's identity. The settings name a canister, or a message
makes it. `dispatch` decides which methods run.
"""

from __future__ import annotations

import asyncio
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

from canister.config import Settings
from canister.engine.load.trial import Trials
from canister.engine.thread import DecodeThread
from canister.errors import BadArgument, BadRequest, CanisterError, CanisterNotFound, NotController, Trap
from canister.errors.nearest import nearest
from canister.ic import principal as principals
from canister.ic.certificate import RootKey
from canister.ic.identity import Identity
from canister.runtime import key_files
from canister.runtime.canister import Canister
from canister.runtime.sign_in import SignInCodes
from canister.runtime.stream_pacing import IDLE_SECONDS, Pacing, seconds_per_byte
from canister.state.api_keys import KeyRing
from canister.state.canisters import Birth, Canisters, KnownCanister
from canister.store.database import Database
from canister.system.data_dir import (
    CANISTERS,
    CONTROLLER_IDENTITY,
    CONTROLLER_KEY,
    NODE_IDENTITY,
    ROOT_KEY,
    SERVER_DATABASE,
    TRIED,
    FolderLock,
    take,
)
from canister.system.machine import usable_cores
from canister.telemetry.logs import get_logger

MAX_CANISTERS = 100

log = get_logger(__name__)


class TooManyCanisters(Trap):
    reject_code = 1
    error_code = "IC0102"
    http_status = 429


class CanisterNotStopped(Trap):
    error_code = "IC0510"
    http_status = 409


class Host:
    """Made, then started, then stopped once. Between start and stop it serves `canisters`, and `keys` count."""

    def __init__(self, settings: Settings, lock: FolderLock | None = None, crash: str | None = None) -> None:
        """lock: of the data folder, if it is taken already. crash: how the server before this one crashed, if so."""
        self.settings = settings.server
        self._settings = settings
        self.data_dir = self.settings.data_dir.expanduser().absolute()
        self.identity_path = self.data_dir / CONTROLLER_IDENTITY
        self.key_path = self.data_dir / CONTROLLER_KEY
        self.root_key_path = self.data_dir / ROOT_KEY
        self.canisters: Sequence[Canister] = ()
        self.is_draining = False  # the server is to end: it accepts no new calls and finishes the running ones
        self.must_end = False  # as after a signal to end; set where another process has taken its place
        self.pending: dict[str, str] = {}  # by name: what a canister still waits for besides its own start
        self._changing = asyncio.Lock()  # held while a canister is made or deleted
        self._lock = lock
        self.crash = crash
        self._database = Database(self.data_dir / SERVER_DATABASE, "server")
        self.keys = KeyRing(self._database)
        self.codes = SignInCodes()
        self._known = Canisters(self._database)
        self._decode_thread = DecodeThread()  # all engines of the process decode on it
        self._trials = Trials(self.data_dir / TRIED)
        self._n_cores = usable_cores()
        self.pacing = Pacing(self.settings.stream_share, self.spare_cores, seconds_per_byte())
        self.identity: Identity
        self.node: Identity
        self.root_key: RootKey

    @property
    def default(self) -> Canister:
        """The canister of a request that names none: the first in the settings."""
        return self.canisters[0]

    @property
    def is_idle(self) -> bool:
        """True while no call runs."""
        return all(canister.is_idle for canister in self.canisters)

    @property
    def n_calls(self) -> int:
        """Calls that run or wait for their turn, including streams of files."""
        return sum(canister.n_calls + canister.streams.n_running for canister in self.canisters)

    def spare_cores(self) -> float:
        """Cores that engines leave to others; infinite while they do nothing and are not about to continue."""
        n_busy = self._decode_thread.n_busy_threads(IDLE_SECONDS)
        return max(0, self._n_cores - n_busy) if n_busy else math.inf

    def find(self, name_or_id: str) -> Canister:
        """A canister by name or id. CanisterNotFound names the nearest, or all when there are few."""
        for canister in self.canisters:
            if name_or_id in (canister.name, canister.id):
                return canister
        names = [canister.name for canister in self.canisters]
        near = nearest(name_or_id, names + [canister.id for canister in self.canisters])
        hint = f"Did you mean '{near}'?" if near else f"This server has: {', '.join(names[:20])}."
        raise CanisterNotFound(f"Canister {name_or_id[:80]!r} not found. {hint}")

    def with_id(self, canister_id: bytes) -> Canister:
        """The canister of an IC message. CanisterNotFound in the IC's words."""
        text = principals.to_text(canister_id)
        for canister in self.canisters:
            if canister.id == text:
                return canister
        raise CanisterNotFound(f"Canister {text} not found")

    def principal_of(self, key: str) -> str | None:
        """The principal of an API key; None for a key that does not count."""
        found = self.keys.find(key)
        return None if found is None else found.principal

    def not_ready(self) -> dict[str, str]:
        """By name, why canisters are not ready that should have a model and do not have it yet."""
        own = {
            canister.name: canister.model.load_error or "its model is being loaded"
            for canister in self.canisters
            if canister.model.load_error is not None or not canister.model.is_ready
        }
        return own | self.pending

    async def start(self) -> None:
        """Take the data folder and start every canister. Their models load in the background.

        A canister that cannot be opened answers why, and the others are served. Raises a CanisterError whose message
        tells the operator what to do, also if it is the only canister; nothing is left running then.
        """
        for text in self.settings.controller:
            _check_controller(text)
        await asyncio.to_thread(self._open)
        started: list[Canister] = []
        try:
            for canister in await asyncio.to_thread(self._make_canisters):
                started.append(canister)
                try:
                    await canister.start(self.crash)
                except CanisterError as error:
                    log.error("a canister cannot be served", canister=canister.name, reason=str(error))
            faults = [canister.fault for canister in started]
            if faults[0] is not None and None not in faults:
                raise faults[0]
        except BaseException:
            await asyncio.gather(*(canister.stop(0) for canister in started), return_exceptions=True)
            self._close()
            raise
        self.canisters = tuple(started)

    async def stop(self, drain_seconds: float | None = None) -> None:
        """Stop all canisters at the same time and release the data folder, whatever happens to one of them."""
        seconds = self.settings.drain_seconds if drain_seconds is None else drain_seconds
        while self.canisters:  # a call that just ended may still have made one
            stopped, self.canisters = self.canisters, ()
            outcomes = await asyncio.gather(*(canister.stop(seconds) for canister in stopped), return_exceptions=True)
            for canister, outcome in zip(stopped, outcomes, strict=True):
                if isinstance(outcome, BaseException):
                    log.error("canister did not stop well", canister=canister.name, exc_info=outcome)
        await asyncio.to_thread(self._close)

    # -- making and deleting

    async def create(self, request_id: bytes, birth: Birth) -> Canister | None:
        """The canister that a message makes, also when the message comes again. None: deleted since. Raises
        TooManyCanisters.
        """
        async with self._changing:
            known = self._known.made_by(request_id)
            if known is None:
                if len(self.canisters) >= MAX_CANISTERS:
                    raise TooManyCanisters(f"this server holds {MAX_CANISTERS} canisters, its limit; delete one first")
                known = await self._known.add(request_id, birth)
            if known.is_deleted:
                return None
            for canister in self.canisters:
                if canister.id == known.id:
                    return canister
            canister = self._make_canister(known.id, known.name, birth)
            try:
                await canister.start()
            except BaseException:
                await canister.stop(0)
                raise
            self.canisters = (*self.canisters, canister)
        log.info("canister created", canister=canister.name)
        return canister

    async def delete(self, canister_id: str, caller: str) -> None:
        """Delete a canister that a message made, and everything that it holds.

        Raises CanisterNotFound, NotController, CanisterNotStopped, and BadArgument for a canister that the settings
        name.
        """
        async with self._changing:
            canister = next((one for one in self.canisters if one.id == canister_id), None)
            if canister is None:
                raise CanisterNotFound(f"Canister {canister_id} not found")
            if caller not in canister.controllers:
                raise NotController(f"Only controllers of canister {canister_id} can call ic00 method delete_canister")
            if canister.status != "stopped":
                raise CanisterNotStopped(f"Canister {canister_id} must be stopped before it is deleted.")
            if canister.name in self.settings.canister:
                raise BadArgument(
                    f"canister {canister_id} is named in the server's settings ({canister.name}) and cannot be deleted"
                )
            before, self.canisters = self.canisters, tuple(one for one in self.canisters if one is not canister)
            try:
                await self._known.mark_deleted(canister_id)
            except BaseException:
                self.canisters = before
                raise
            await canister.stop(0)
            await asyncio.to_thread(_remove_folder, canister.folder)
        log.info("canister deleted", canister=canister.name)

    # -- the data folder

    def _open(self) -> None:
        if self._lock is None:
            self._lock = take(self.data_dir)
        try:
            self._database.open()
            self.identity = key_files.identity_in(self.identity_path)
            self.node = key_files.identity_in(self.data_dir / NODE_IDENTITY)
            self.root_key = key_files.root_key_in(self.root_key_path)
            key_files.see_to_api_key(self.key_path, self.keys, self.identity)
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        self._decode_thread.close()
        self._database.close()
        if self._lock is not None:
            self._lock.release()

    def _make_canisters(self) -> list[Canister]:
        names = self.settings.canister
        ids = self._known.ids_of(names)
        made: list[tuple[KnownCanister, Birth]] = []
        for known in self._known.all():
            if known.is_deleted:
                if known.name in names:
                    raise BadRequest(
                        f"--canister: {known.name} is the id of a canister that was deleted; choose a name"
                    )
                _remove_folder(self._folder_of(known.id))
            elif known.birth is not None and known.name not in names:
                made.append((known, known.birth))
        return [self._make_canister(ids[name], name) for name in names] + [
            self._make_canister(known.id, known.name, birth) for known, birth in made
        ]

    def _make_canister(self, canister_id: str, name: str, birth: Birth | None = None) -> Canister:
        folder = self._folder_of(canister_id)
        if birth is not None:
            return self._in_herd(
                Canister(
                    canister_id,
                    name,
                    folder,
                    birth.controllers,
                    self._settings.of(name),
                    cycles=birth.cycles,
                    state=birth.state,
                    decode_thread=self._decode_thread,
                    pacing=self.pacing,
                    trials=self._trials,
                )
            )
        controllers = dict.fromkeys([self.identity.principal, *self.settings.controller])
        return self._in_herd(
            Canister(
                canister_id,
                name,
                folder,
                controllers,
                self._settings.of(name),
                decode_thread=self._decode_thread,
                pacing=self.pacing,
                trials=self._trials,
            )
        )

    def _in_herd(self, canister: Canister) -> Canister:
        """The canister, which knows now as which worker of a herd it is run, if it is."""
        canister.herd.worker = self.settings.herd_worker
        return canister

    def _folder_of(self, canister_id: str) -> Path:
        return self.data_dir / CANISTERS / canister_id


def _remove_folder(folder: Path) -> None:
    """Remove the folder of a deleted canister. The next start tries again what cannot be removed."""
    try:
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        log.error("the folder of a deleted canister could not be removed", folder=str(folder), reason=str(error))


def _check_controller(text: str) -> None:
    try:
        principals.from_text(text)
    except principals.PrincipalError as error:
        raise BadRequest(f"--controller: {error}") from None
    if text == principals.ANONYMOUS:
        raise BadRequest(f"--controller: {text} is the anonymous caller; everybody would control the canisters")
