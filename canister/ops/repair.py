"""Mends a data folder as far as nothing is lost. No server may run on it meanwhile.

recover       what a start does: redo rows are done, uncommitted bytes cut off
container     a prompt cache is written anew without damaged KV rows, and without what follows damaged tokens; the
              old one goes to quarantine
quarantine    what is not in the tables is moved to `quarantine/<time>/`, never deleted
permissions   keys are for their owner alone
upload note   of a file that is gone
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from canister.errors import CanisterError, StoreDamaged
from canister.ops.doctor import Examination, Finding, examine
from canister.store.container import CacheFile
from canister.store.database import Database
from canister.store.stable import StableMemory
from canister.store.uploads import forget_upload
from canister.system.data_dir import CANISTER_DATABASE, CANISTERS, LOCK, QUARANTINE, STABLE, STAGING, FolderLock


def repair(data_dir: Path) -> tuple[list[str], Examination]:
    """Returns what was done, and what is found afterwards. Raises Conflict while a server runs, OSError."""
    lock = FolderLock(data_dir / LOCK)
    lock.take()
    try:
        quarantine = data_dir / QUARANTINE / time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        repairing = _Repair(data_dir, quarantine)
        repairing.recover()
        for finding in examine(data_dir, is_ours=True).problems:
            repairing.mend(finding)
    finally:
        lock.release()
    return repairing.done, examine(data_dir)


class _Repair:
    def __init__(self, data_dir: Path, quarantine: Path) -> None:
        self.data_dir = data_dir
        self.quarantine = quarantine
        self.done: list[str] = []

    def recover(self) -> None:
        """Bring every canister that can be opened to its committed state."""
        for folder in sorted((self.data_dir / CANISTERS).glob("*")):
            if (folder / CANISTER_DATABASE).is_file():
                try:
                    with _Store(folder) as store:
                        recovery = store.recovery
                except CanisterError as error:
                    self.done.append(f"{CANISTERS}/{folder.name}: could not be recovered: {error}")
                    continue
                n_done = recovery.n_redone + recovery.n_leftovers + len(recovery.truncated)
                if n_done:
                    self.done.append(f"{CANISTERS}/{folder.name}: {n_done} things that a crash had left")

    def mend(self, finding: Finding) -> None:
        path = self.data_dir / finding.place
        match finding.mend:
            case "permissions":
                path.chmod(0o700 if path.is_dir() else 0o600)
                self.done.append(f"{finding.place}: made private")
            case "quarantine":
                self._put_away(path, finding.place)
                self.done.append(f"{finding.place}: moved to {self._away(finding.place)}")
            case "container":
                self._write_anew(*_split(finding.place))
                self.done.append(f"{finding.place}: written anew; the old one is {self._away(finding.place)}")
            case "upload note":
                id, name = _split(finding.place)
                with _Store(self.data_dir / CANISTERS / id) as store:
                    forget_upload(store.database, name)
                self.done.append(f"{finding.place}: the note of its upload removed")
            case _:
                pass

    def _away(self, place: str) -> Path:
        return self.quarantine / place

    def _put_away(self, path: Path, place: str) -> None:
        target = self._away(place)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.rename(target)

    def _write_anew(self, id: str, name: str) -> None:
        with _Store(self.data_dir / CANISTERS / id) as store:
            memory = store.memory
            known = memory.stat(name)
            assert known is not None
            kept = self._away(f"{CANISTERS}/{id}/{STABLE}/{name}")
            kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.copyfile(memory.physical(name), kept)
            with memory.begin() as transaction:
                try:
                    container = CacheFile.parse(lambda offset, size: memory.read(name, offset, size), known.size)
                    transaction.write_file(name, container.compacted()[1])
                except StoreDamaged:  # nothing of it can be read, so the chat starts anew
                    transaction.remove(name)
                transaction.commit_sync()


class _Store:
    """One canister's store, open."""

    def __init__(self, folder: Path) -> None:
        self.database = Database(folder / CANISTER_DATABASE, "canister")
        self.memory = StableMemory(folder / STABLE, folder / STAGING, self.database)

    def __enter__(self) -> _Store:
        self.database.open()
        try:
            self.recovery = self.memory.recover()
        except BaseException:
            self.database.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.memory.close()
        self.database.close()


def _split(place: str) -> tuple[str, str]:
    """Id of the canister, and path in its stable memory."""
    _, id, _, name = place.split("/", 3)
    return id, name
