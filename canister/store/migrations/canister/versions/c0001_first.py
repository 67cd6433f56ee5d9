"""The first tables of a canister."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "c0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "settings",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("value", sa.JSON, nullable=False),
    )
    op.create_table("controllers", sa.Column("principal", sa.Text, primary_key=True))
    op.create_table(
        "admin_roles",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("assigned_by", sa.Text, nullable=False),
        sa.Column("assigned_at", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("principal", name="uq_admin_roles_principal"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "files",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("created_ns", sa.BigInteger, nullable=False),
        sa.Column("modified_ns", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("path", name="uq_files_path"),
        sa.CheckConstraint("kind IN ('file', 'directory')", name="ck_files_kind"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "uploads",
        sa.Column("path", sa.Text, primary_key=True),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("last_offset", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "redo",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("source", sa.Text),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("data", sa.LargeBinary),
        sa.CheckConstraint("kind IN ('put', 'append', 'drop')", name="ck_redo_kind"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "saved_chats",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("caller", sa.Text, nullable=False),
        sa.Column("timestamp", sa.Text, nullable=False),
        sa.Column("created_ns", sa.BigInteger, nullable=False),
        sa.Column("chat", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_saved_chats_caller", "saved_chats", ["caller"])
    op.create_table(
        "ledger",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("amount", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "call_log",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("caller", sa.Text, nullable=False),
        sa.Column("method", sa.Text, nullable=False),
        sa.Column("timestamp_ns", sa.BigInteger, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("instructions", sa.BigInteger, nullable=False),
        sa.Column("cycles", sa.BigInteger, nullable=False),
        sa.Column("limit", sa.BigInteger),
        sa.Column("parts", sa.JSON, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_call_log_caller", "call_log", ["caller"])
    op.create_table(
        "requests",
        sa.Column("id", sa.LargeBinary, primary_key=True),
        sa.Column("caller", sa.Text, nullable=False),
        sa.Column("kept_until_ns", sa.BigInteger, nullable=False),
        sa.Column("reply", sa.LargeBinary),
        sa.Column("reject_code", sa.Integer),
        sa.Column("reject_message", sa.Text),
        sa.Column("error_code", sa.Text),
    )
    op.create_index("ix_requests_kept_until_ns", "requests", ["kept_until_ns"])
