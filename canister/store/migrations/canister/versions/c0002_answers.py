"""Answers that are kept, with the tokens of each call."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "c0002"
down_revision = "c0001"


def upgrade() -> None:
    op.create_table(
        "answers",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("caller", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("idempotency_key", sa.Text),
        sa.Column("body_hash", sa.LargeBinary, nullable=False),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("wanted", sa.Text, nullable=False),
        sa.Column("prompt", sa.LargeBinary, nullable=False),
        sa.Column("is_listed", sa.Boolean, nullable=False),
        sa.Column("goes_on", sa.Boolean, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("error", sa.JSON(none_as_null=True)),
        sa.Column("created_ns", sa.BigInteger, nullable=False),
        sa.Column("ended_ns", sa.BigInteger),
        sa.Column("kept_until_ns", sa.BigInteger, nullable=False),
        sa.Column("n_bytes", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("caller", "idempotency_key", name="uq_answers_caller"),
        sa.CheckConstraint("status IN ('running', 'left', 'done', 'failed', 'cancelled')", name="ck_answers_status"),
    )
    op.create_index("ix_answers_caller", "answers", ["caller", "created_ns"])
    op.create_index("ix_answers_ended_ns", "answers", ["ended_ns"])
    op.create_index("ix_answers_kept_until_ns", "answers", ["kept_until_ns"])
    op.create_table(
        "answer_calls",
        sa.Column("answer_id", sa.Text, sa.ForeignKey("answers.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("choice", sa.Integer, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("tokens", sa.Text, nullable=False),
        sa.Column("taken", sa.JSON, nullable=False),
        sqlite_with_rowid=False,
    )
