"""The history of a herd's tables; `bring_up` brings a database to the newest revision.

A new revision is written by hand into `versions/`, named in HEAD, and compared with `tables.py` by a test.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from canister.errors import Conflict
from canister.herd.journal.tables import metadata

if TYPE_CHECKING:  # Alembic is loaded only when it is needed
    from alembic.config import Config

HEAD = "h0006"

_LOCK = 0x6C6C_6D68  # of PostgreSQL, while tables are made: several processes may open an empty database at once
_one_at_a_time = threading.Lock()  # alembic.context is a global of the process


def bring_up(connection: Connection, name: str) -> None:
    """Make the tables, or bring them to this version, in a transaction that is open; the caller commits.

    name: of the database, for the error. Conflict: a newer version has written them.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    revision = _revision(connection)
    if revision == HEAD:
        return
    if revision is None:
        _create(connection)
    elif _is_known(revision):
        _upgrade(connection)
    else:
        raise Conflict(
            f"{name} has the tables of revision {revision!r}, which this version does not know: it was written by a "
            "newer llama-canister; upgrade llama-canister"
        )


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("herd_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM herd_version")).scalar_one_or_none()
    return None if found is None else str(found)


def _create(connection: Connection) -> None:
    """All tables as all revisions would make them, without loading Alembic."""
    metadata.create_all(connection)
    connection.execute(
        text(
            "CREATE TABLE herd_version "
            "(version_num VARCHAR(32) NOT NULL, CONSTRAINT herd_version_pkc PRIMARY KEY (version_num))"
        )
    )
    connection.execute(text("INSERT INTO herd_version (version_num) VALUES (:head)"), {"head": HEAD})


def _upgrade(connection: Connection) -> None:
    from alembic import command

    with _one_at_a_time:
        config = make_config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _is_known(revision: str) -> bool:
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(make_config())
    return any(script.revision == revision for script in scripts.walk_revisions())


def make_config() -> Config:
    """Alembic's configuration; works from a checkout and from an installed wheel."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))  # % interpolates
    return config


def run_environment() -> None:
    """The body of `env.py`: migrate the connection that was handed over."""
    from alembic import context

    connection = context.config.attributes["connection"]
    context.configure(connection=connection, target_metadata=metadata, version_table="herd_version")
    context.run_migrations()
