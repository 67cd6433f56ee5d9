"""The first tables of the server."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "s0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "canisters",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("created_ns", sa.BigInteger, nullable=False),
        sa.Column("request_id", sa.LargeBinary),
        sa.Column("birth", sa.JSON),
        sa.Column("deleted_ns", sa.BigInteger),
        sa.UniqueConstraint("id", name="uq_canisters_id"),
        sa.UniqueConstraint("request_id", name="uq_canisters_request_id"),
    )
    op.create_table(
        "api_keys",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("created_ns", sa.BigInteger, nullable=False),
        sa.Column("expires_ns", sa.BigInteger),
        sa.UniqueConstraint("key_id", name="uq_api_keys_key_id"),
    )
