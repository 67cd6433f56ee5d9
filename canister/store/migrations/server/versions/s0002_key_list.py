"""API keys in the order of their list."""

from __future__ import annotations

from alembic import op

revision = "s0002"
down_revision = "s0001"


def upgrade() -> None:
    op.create_index("ix_api_keys_created_ns", "api_keys", ["created_ns", "key_id"])
