"""The first tables of AO."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "a0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "ao_processes",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("module", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("tags", sa.LargeBinary, nullable=False),
        sa.Column("n_slots", sa.Integer, nullable=False),
        sa.Column("n_done", sa.Integer, nullable=False),
        sa.Column("n_calls", sa.Integer, nullable=False),
        sa.Column("published", sa.LargeBinary),
        sa.Column("kept", sa.LargeBinary),
        sa.Column("cron_ms", sa.BigInteger),
        sa.Column("cron_due_ms", sa.BigInteger),
        sa.Column("instructions", sa.BigInteger, nullable=False),
        sa.Column("cycles", sa.BigInteger, nullable=False),
        sa.CheckConstraint("kind IN ('lua', 'token', 'herder', 'worker')", name="ck_ao_processes_kind"),
    )
    op.create_index("ix_ao_processes_cron_due_ms", "ao_processes", ["cron_due_ms"])
    op.create_table(
        "ao_messages",
        sa.Column("process", sa.Text, sa.ForeignKey("ao_processes.id"), primary_key=True),
        sa.Column("slot", sa.Integer, primary_key=True),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("sender", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.Column("tags", sa.LargeBinary, nullable=False),
        sa.Column("anchor", sa.LargeBinary, nullable=False),
        sa.Column("timestamp_ms", sa.BigInteger, nullable=False),
        sa.Column("offspring", sa.Integer, nullable=False),
        sa.Column("result", sa.LargeBinary),
        sa.UniqueConstraint("process", "id", name="uq_ao_messages_process"),
    )
    op.create_index("ix_ao_messages_id", "ao_messages", ["id"])
    op.create_table(
        "ao_calls",
        sa.Column("process", sa.Text, sa.ForeignKey("ao_processes.id"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("entry", sa.LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "ao_balances",
        sa.Column("token", sa.Text, sa.ForeignKey("ao_processes.id"), primary_key=True),
        sa.Column("account", sa.Text, primary_key=True),
        sa.Column("amount", sa.Text, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "ao_jobs",
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("herder", sa.Text, sa.ForeignKey("ao_processes.id"), nullable=False),
        sa.Column("client", sa.Text, nullable=False),
        sa.Column("reference", sa.Text),
        sa.Column("prompt", sa.LargeBinary, nullable=False),
        sa.Column("n_tokens", sa.Integer, nullable=False),
        sa.Column("termination", sa.LargeBinary, nullable=False),
        sa.Column("quantity", sa.Text, nullable=False),
        sa.Column("multiplier", sa.Double, nullable=False),
        sa.Column("n_tries", sa.Integer, nullable=False),
        sa.Column("worker", sa.Text),
        sa.Column("due_ms", sa.BigInteger),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_ao_jobs_due_ms", "ao_jobs", ["due_ms"])
    op.create_index("ix_ao_jobs_queue", "ao_jobs", ["herder", "worker", "multiplier", "seq"])
    op.create_table(
        "ao_workers",
        sa.Column("herder", sa.Text, sa.ForeignKey("ao_processes.id"), primary_key=True),
        sa.Column("worker", sa.Text, primary_key=True),
        sa.Column("state", sa.Text, nullable=False),
        sa.CheckConstraint("state IN ('idle', 'busy', 'late')", name="ck_ao_workers_state"),
        sqlite_with_rowid=False,
    )
