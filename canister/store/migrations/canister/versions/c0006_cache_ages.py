"""Prompt caches by the time of their last change, of all callers and of each."""

from __future__ import annotations

from alembic import op

revision = "c0006"
down_revision = "c0005"

_BELOW = "substr(path, 17)"
_CALLER = f"substr({_BELOW}, 1, instr({_BELOW}, '/') - 1)"
_IS_CACHE = (
    "kind = 'file' AND substr(path, 1, 16) = '.canister_cache/' "
    f"AND substr({_BELOW}, instr({_BELOW}, '/'), 10) = '/sessions/' "
    "AND substr(path, -8) <> '.icppfmt'"
)


def upgrade() -> None:
    op.execute(f"CREATE INDEX ix_files_cache_age ON files (modified_ns) WHERE {_IS_CACHE}")
    op.execute(f"CREATE INDEX ix_files_cache_of ON files ({_CALLER}, modified_ns) WHERE {_IS_CACHE}")
