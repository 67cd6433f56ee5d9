"""The chain of receipts of each canister, which no worker's end takes along, and the receipt of each job."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "h0004"
down_revision = "h0003"


def upgrade() -> None:
    op.create_table(
        "receipt",
        sa.Column("canister", sa.Text, primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("chat", sa.BigInteger),
        sa.Column("record", sa.LargeBinary, nullable=False),
        sa.Column("nodes", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_receipt_chat", "receipt", ["chat", "number"])
    op.create_table(
        "receipt_terms",
        sa.Column("canister", sa.Text, primary_key=True),
        sa.Column("hash", sa.LargeBinary, primary_key=True),
        sa.Column("terms", sa.LargeBinary, nullable=False),
        sa.Column("used_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "receipt_contents",
        sa.Column("canister", sa.Text, primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("words", sa.LargeBinary, nullable=False),
        sa.Column("argument", sa.LargeBinary, nullable=False),
        sa.Column("output", sa.LargeBinary, nullable=False),
    )
    op.add_column("job", sa.Column("receipt", sa.Text))
