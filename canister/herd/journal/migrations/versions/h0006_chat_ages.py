"""Chats by the time of their last change, of all callers and of each."""

from __future__ import annotations

from alembic import op

revision = "h0006"
down_revision = "h0005"


def upgrade() -> None:
    op.drop_index("ix_chat_caller", "chat")
    op.create_index("ix_chat_caller", "chat", ["canister", "caller", "changed_ns", "id"])
    op.create_index("ix_chat_changed", "chat", ["canister", "changed_ns", "id"])
