"""Receipts: the records of calls, the terms that they share, and what is kept for replays."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "c0004"
down_revision = "c0003"


def upgrade() -> None:
    op.create_table(
        "receipts",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("chat", sa.BigInteger),
        sa.Column("record", sa.LargeBinary, nullable=False),
        sa.Column("nodes", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_receipts_chat", "receipts", ["chat"])
    op.create_table(
        "receipt_terms",
        sa.Column("hash", sa.LargeBinary, primary_key=True),
        sa.Column("terms", sa.LargeBinary, nullable=False),
        sa.Column("used_at", sa.Integer, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "receipt_contents",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("words", sa.LargeBinary, nullable=False),
        sa.Column("argument", sa.LargeBinary, nullable=False),
        sa.Column("output", sa.LargeBinary, nullable=False),
    )
