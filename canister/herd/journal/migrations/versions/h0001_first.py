"""The first tables of a herd."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "h0001"
down_revision = None

_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_amount = sa.Numeric(78, 0).with_variant(sa.Text, "sqlite")
_WAITING = sa.text("state IN ('queued', 'running')")


def upgrade() -> None:
    _leaders()
    _jobs()
    _chats()
    _canisters()
    _money()


def _leaders() -> None:
    op.create_table(
        "leader",
        sa.Column("one", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("since_ns", sa.BigInteger, nullable=False),
        sa.CheckConstraint("one = 1", name=op.f("ck_leader_one")),
    )
    op.create_table(
        "writer",
        sa.Column("id", sa.LargeBinary, primary_key=True),
        sa.Column("mark", sa.LargeBinary, nullable=False),
        sa.Column("at_ns", sa.BigInteger, nullable=False),
    )


def _jobs() -> None:
    op.create_table(
        "job",
        sa.Column("seq", _id, primary_key=True),
        sa.Column("id", sa.LargeBinary, nullable=False),
        sa.Column("canister", sa.Text, nullable=False),
        sa.Column("caller", sa.Text, nullable=False),
        sa.Column("method", sa.Text, nullable=False),
        sa.Column("arg", sa.LargeBinary, nullable=False),
        sa.Column("chats", sa.JSON, nullable=False),
        sa.Column("multiplier", sa.Double, nullable=False),
        sa.Column("hold", _amount, nullable=False),
        sa.Column("payer", sa.Text),
        sa.Column("due_ns", sa.BigInteger),
        sa.Column("kept_until_ns", sa.BigInteger, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("worker", sa.Text),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("made_ns", sa.BigInteger, nullable=False),
        sa.Column("started_ns", sa.BigInteger),
        sa.Column("ended_ns", sa.BigInteger),
        sa.Column("reply", sa.LargeBinary),
        sa.Column("reject_code", sa.Integer),
        sa.Column("reject_message", sa.Text),
        sa.Column("error_code", sa.Text),
        sa.Column("http_status", sa.Integer),
        sa.Column("instructions", sa.BigInteger),
        sa.Column("cycles", sa.BigInteger),
        sa.Column("is_refunded", sa.Boolean, nullable=False),
        sa.UniqueConstraint("id", name="uq_job_id"),
        sa.CheckConstraint("state IN ('queued', 'running', 'done', 'refused')", name=op.f("ck_job_state")),
        sa.CheckConstraint(f"payer IS NOT NULL OR hold = {_zero()}", name=op.f("ck_job_payer")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_job_kept_until_ns", "job", ["kept_until_ns"])
    op.create_index("ix_job_waiting", "job", ["seq"], sqlite_where=_WAITING, postgresql_where=_WAITING)


def _chats() -> None:
    op.create_table(
        "chat",
        sa.Column("id", _id, primary_key=True),
        sa.Column("canister", sa.Text, nullable=False),
        sa.Column("caller", sa.Text, nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("head", sa.LargeBinary, nullable=False),
        sa.Column("n_tokens", sa.Integer, nullable=False),
        sa.Column("n_changes", sa.Integer, nullable=False),
        sa.Column("header", sa.LargeBinary, nullable=False),
        sa.Column("worker", sa.Text),
        sa.Column("stored_head", sa.LargeBinary),
        sa.Column("changed_ns", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("path", "canister", "caller", name="uq_chat_path"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_chat_caller", "chat", ["canister", "caller"])
    op.create_table(
        "chat_record",
        sa.Column("chat", _id, sa.ForeignKey("chat.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("first", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("n_tokens", sa.Integer, nullable=False),
        sa.Column("tokens", sa.LargeBinary, nullable=False),
        sa.Column("marks", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "saved_chat",
        sa.Column("id", _id, primary_key=True),
        sa.Column("canister", sa.Text, nullable=False),
        sa.Column("caller", sa.Text, nullable=False),
        sa.Column("timestamp", sa.Text, nullable=False),
        sa.Column("created_ns", sa.BigInteger, nullable=False),
        sa.Column("chat", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_saved_chat_caller", "saved_chat", ["canister", "caller", "id"])


def _canisters() -> None:
    op.create_table(
        "canister",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("rev", sa.BigInteger, nullable=False),
        sa.Column("cycles", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "control",
        sa.Column("canister", sa.Text, primary_key=True),
        sa.Column("rev", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("caller", sa.Text, nullable=False),
        sa.Column("method", sa.Text, nullable=False),
        sa.Column("arg", sa.LargeBinary),
        sa.Column("object", sa.LargeBinary),
        sa.Column("now_ns", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "call_log",
        sa.Column("id", _id, primary_key=True),
        sa.Column("canister", sa.Text, nullable=False),
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
    op.create_index("ix_call_log_canister", "call_log", ["canister", "id"])
    op.create_index("ix_call_log_caller", "call_log", ["canister", "caller", "id"])


def _money() -> None:
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    sound = "free NOT LIKE '-%' AND held NOT LIKE '-%'" if is_sqlite else "free >= 0 AND held >= 0"
    op.create_table(
        "account",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("free", _amount, nullable=False),
        sa.Column("held", _amount, nullable=False),
        sa.CheckConstraint(sound, name=op.f("ck_account_amounts")),
    )
    op.create_table(
        "payment",
        sa.Column("id", _id, primary_key=True),
        sa.Column("key", sa.LargeBinary),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("source", sa.Text),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("amount", _amount, nullable=False),
        sa.Column("job", sa.LargeBinary),
        sa.Column("at_ns", sa.BigInteger, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.UniqueConstraint("key", name="uq_payment_key"),
        sa.CheckConstraint("kind IN ('mint', 'transfer', 'hold', 'settle', 'refund')", name=op.f("ck_payment_kind")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_payment_source", "payment", ["source", "id"])
    op.create_index("ix_payment_target", "payment", ["target", "id"])


def _zero() -> str:
    return "'0'" if op.get_bind().dialect.name == "sqlite" else "0"
