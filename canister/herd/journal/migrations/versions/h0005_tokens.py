"""How many tokens a call of the log decoded."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "h0005"
down_revision = "h0004"


def upgrade() -> None:
    op.add_column("call_log", sa.Column("n_prompt", sa.BigInteger))
    op.add_column("call_log", sa.Column("n_generated", sa.BigInteger))
