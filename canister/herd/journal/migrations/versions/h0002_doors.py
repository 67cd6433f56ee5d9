"""Doors that wait for the lead, and what all doors have alike."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "h0002"
down_revision = "h0001"


def upgrade() -> None:
    op.create_table(
        "door",
        sa.Column("address", sa.Text, primary_key=True),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("seen_ns", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "shared",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
