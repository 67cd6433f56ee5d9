"""The job that an entry of the control log was made for, so that a job which is asked for again finds its entry."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "h0003"
down_revision = "h0002"


def upgrade() -> None:
    op.add_column("control", sa.Column("job", sa.LargeBinary))
    op.create_index("ix_control_job", "control", ["canister", "job"], unique=True)
