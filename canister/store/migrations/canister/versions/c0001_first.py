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
        "file_moves",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("source", sa.Text),
        sa.Column("target", sa.Text, nullable=False),
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
