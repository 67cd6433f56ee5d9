"""What one call changes: begun when it is needed, seen when it is committed, and gone when it is not."""

from __future__ import annotations

from pathlib import Path

from canister.state import settings
from canister.state.controllers import Controllers
from canister.state.roles import Roles
from canister.state.settings import State
from canister.state.unit_of_work import UnitOfWork
from tests.store.home import Home

CALLER = "2vxsx-fae"


def loaded_roles(home: Home) -> Roles:
    roles = Roles(home.database)
    roles.load()
    return roles


def test_a_transaction_is_begun_when_it_is_asked_for(tmp_path: Path) -> None:
    with Home(tmp_path / "home") as home:
        work = UnitOfWork(home.memory.begin, CALLER)
        assert not work.has_transaction
        work.change(access_level=1)
        assert not work.has_transaction  # fields of the State need none before the commit
        assert work.tx is work.tx
        assert work.has_transaction
        work.tx.rollback()


def test_what_is_committed_is_durable_and_then_seen(tmp_path: Path) -> None:
    with Home(tmp_path / "home") as home:
        roles, controllers = loaded_roles(home), Controllers(home.database, ["configured"])
        work = UnitOfWork(home.memory.begin, CALLER)
        roles.assign(work, "someone", "AdminQuery", "note")
        controllers.replace(work, ["another"])
        work.change(access_level=1)
        settings.record(work.tx, work.changes)
        assert "someone" not in roles
        assert list(controllers) == ["configured"]
        work.tx.commit_sync()
        work.committed()
        assert "someone" in roles
        assert list(controllers) == ["another"]
        known = loaded_roles(home)
        assert known.all() == roles.all()
        assert (known.all()[0].assigned_by, known.all()[0].assigned_at) == (CALLER, work.now_ns)
        assert settings.load(home.database, State()).access_level == 1


def test_what_is_undone_leaves_nothing(tmp_path: Path) -> None:
    with Home(tmp_path / "home") as home:
        roles = loaded_roles(home)
        work = UnitOfWork(home.memory.begin, CALLER)
        told: list[str] = []
        work.on_commit(lambda: told.append("committed"))
        work.on_rollback(lambda: told.append("undone"))
        roles.assign(work, "someone", "AdminQuery", "")
        work.tx.rollback()
        work.undone()
        assert told == ["undone"]
        assert "someone" not in roles
        assert loaded_roles(home).all() == []
