"""Chats by the time of their last change."""

from __future__ import annotations

from alembic import op

revision = "h0006"
down_revision = "h0005"


def upgrade() -> None:
    op.create_index("ix_chat_changed", "chat", ["canister", "changed_ns", "id"])
