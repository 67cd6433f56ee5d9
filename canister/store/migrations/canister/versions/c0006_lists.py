"""Files are found in the order of their lists: what a folder has, caches by their age, a caller's files, models."""

from __future__ import annotations

from alembic import op

revision = "c0006"
down_revision = "c0005"

_BELOW = "substr(path, 17)"
_SLASH = f"instr({_BELOW}, '/')"
_AREA = f"substr({_BELOW}, 1, {_SLASH} + instr(substr({_BELOW}, {_SLASH} + 1), '/'))"
_IN_AREA = "kind = 'file' AND substr(path, 1, 16) = '.canister_cache/' AND substr(path, -8) <> '.icppfmt'"
_IS_CACHE = f"{_IN_AREA} AND substr({_BELOW}, {_SLASH}, 10) = '/sessions/'"
_PARENT = "rtrim(path, replace(path, '/', ''))"
_IS_MODEL = "kind = 'file' AND lower(substr(path, -5)) = '.gguf' AND substr(path, 1, 16) <> '.canister_cache/'"


def upgrade() -> None:
    op.execute(f"CREATE INDEX ix_files_cache_age ON files (modified_ns) WHERE {_IS_CACHE}")
    op.execute(f"CREATE INDEX ix_files_area ON files ({_AREA}, modified_ns, id, size) WHERE {_IN_AREA}")
    op.execute(f"CREATE INDEX ix_files_parent ON files ({_PARENT}, id)")
    op.execute(f"CREATE INDEX ix_files_models ON files (id) WHERE {_IS_MODEL}")
