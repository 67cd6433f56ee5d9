"""A stable memory with its database, as a whole: opened, looked at, killed, opened again."""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from canister.store.database import Database
from canister.store.filesystem import FileLayer
from canister.store.stable import Recovery, StableMemory
from tests.store.faults import Faults, FaultyDatabase, FaultyLayer, Unsynced


class Home:
    """What a canister keeps on the disk, opened with or without faults. Its clock ticks once per transaction."""

    def __init__(self, root: Path, faults: Faults | None = None, unsynced: list[Unsynced] | None = None) -> None:
        """unsynced: what another process left so on this disk."""
        root.mkdir(exist_ok=True)
        self.root = root
        self.faults = faults
        self.layer: FileLayer | None = None
        if faults is None:
            self.database = Database(root / "canister.db", "canister")
        else:
            graveyard = root.with_name(root.name + "-graveyard")
            graveyard.mkdir(exist_ok=True)
            self.layer = FaultyLayer(faults, graveyard, unsynced or [])
            self.database = FaultyDatabase(root / "canister.db", faults)
        ticks = itertools.count(1_000)
        self.memory = StableMemory(
            root / "stable",
            root / "staging",
            self.database,
            layer=self.layer,
            clock=lambda: next(ticks),
            sync_seconds=None,
        )

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> Recovery:
        self.database.open()
        return self.memory.recover()

    def close(self) -> None:
        if self.faults is not None and self.faults.is_dead:
            self.memory.volume.close()
        self.memory.close()
        self.database.close()
        if isinstance(self.layer, FaultyLayer):
            self.layer.close()
            shutil.rmtree(self.layer.graveyard, ignore_errors=True)

    def make_folder(self, path: str) -> None:
        """An empty folder, which is what remains when the last file in it is removed."""
        with self.memory.begin() as transaction:
            transaction.write_file(f"{path}/last", b"")
            transaction.commit_sync()
        with self.memory.begin() as transaction:
            transaction.remove(f"{path}/last")
            transaction.commit_sync()

    def crashed(self, image: Path, forgotten: float = 0) -> Path:
        """A copy of what is on the disk at this moment, less the given share of what was never synced."""
        if forgotten:
            assert isinstance(self.layer, FaultyLayer)
            self.layer.forget(forgotten)
        shutil.copytree(self.root, image, symlinks=True)
        (image / "canister.db-shm").unlink(missing_ok=True)  # shared memory dies with the machine
        return image

    def state(self) -> dict[str, Any]:
        """All that is committed: files with their contents, in their order, and the tables."""
        infos = self.memory.walk("")
        assert infos is not None
        with closing(sqlite3.connect(self.root / "canister.db")) as connection:
            rows = {
                table: connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()
                for table in ("files", "uploads", "settings")
            }
        return {
            "walk": infos,
            "contents": {info.path: self.memory.read(info.path, 0, 1 << 20) for info in infos if info.kind == "file"},
            "total_bytes": self.memory.total_bytes(),
            **rows,
        }

    def check_disk(self) -> None:
        """The disk holds the committed files and nothing else; nothing waits in staging or to be redone."""
        infos = self.memory.walk("")
        assert infos is not None
        on_disk = {}
        for folder, names, file_names in os.walk(self.root / "stable"):
            for name in names + file_names:
                path = Path(folder) / name
                on_disk[str(path.relative_to(self.root / "stable"))] = (
                    path.is_dir(),
                    0 if path.is_dir() else path.stat().st_size,
                )
        assert on_disk == {info.path: (info.kind == "directory", info.size) for info in infos}
        assert os.listdir(self.root / "staging") == []

    def n_redo_rows(self) -> int:
        with closing(sqlite3.connect(self.root / "canister.db")) as connection:
            return int(connection.execute("SELECT count(*) FROM redo").fetchone()[0])
