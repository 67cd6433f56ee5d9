"""Snapshots of programs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "a0002"
down_revision = "a0001"


def upgrade() -> None:
    op.create_table(
        "ao_snapshots",
        sa.Column("process", sa.Text, sa.ForeignKey("ao_processes.id"), primary_key=True),
        sa.Column("n_calls", sa.Integer, nullable=False),
        sa.Column("world", sa.Text, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
