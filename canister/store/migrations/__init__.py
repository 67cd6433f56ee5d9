"""The history of the tables, one Alembic environment per schema; `upgrade` brings a database to the newest revision.

Each `env.py` only calls `run_environment`. They set up no logging and read no ini file: the server owns its logging.
A new revision is written by hand into `versions/`, named in HEADS, and compared with `tables.py` by a test.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sqlalchemy import Connection, MetaData

from canister.store.tables import ao_metadata, canister_metadata, server_metadata

if TYPE_CHECKING:  # Alembic is loaded only when it is needed
    from alembic.config import Config

Schema = Literal["ao", "canister", "server"]

HEADS: dict[Schema, str] = {"ao": "a0002", "canister": "c0006", "server": "s0002"}
"""The newest revision of each schema; held here so that an up-to-date database opens without loading Alembic."""

_TABLES: dict[Schema, MetaData] = {"ao": ao_metadata, "canister": canister_metadata, "server": server_metadata}

_one_at_a_time = threading.Lock()  # alembic.context is a global of the process


def create(connection: Connection, schema: Schema) -> None:
    """Make the tables in an empty database as all revisions would; the caller commits.

    Alembic with all that it loads would stay in memory, more than 10 MB of it, for the life of the server.
    """
    _TABLES[schema].create_all(connection)
    connection.exec_driver_sql(
        "CREATE TABLE alembic_version "
        "(version_num VARCHAR(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
    )
    connection.exec_driver_sql("INSERT INTO alembic_version (version_num) VALUES (?)", (HEADS[schema],))


def upgrade(connection: Connection, schema: Schema) -> None:
    """Run the missing revisions in the transaction that is open on `connection`; the caller commits."""
    from alembic import command

    with _one_at_a_time:
        config = make_config(schema)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def make_config(schema: Schema) -> Config:
    """Alembic's configuration for one schema; works from a checkout and from an installed wheel."""
    from alembic.config import Config

    config = Config()
    folder = str(Path(__file__).parent / schema)
    config.set_main_option("script_location", folder.replace("%", "%%"))  # % interpolates in ini values
    return config


def run_environment(metadata: MetaData) -> None:
    """The body of an `env.py`: migrate the connection that `upgrade` handed over."""
    from alembic import context

    connection = context.config.attributes["connection"]
    context.configure(connection=connection, target_metadata=metadata)
    context.run_migrations()
