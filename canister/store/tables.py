"""The tables of all databases, as SQLAlchemy Core objects; their history is in `migrations/`.

A canister's database holds everything that its messages change, so that one transaction commits a whole message. The
server's holds what all canisters share, AO's holds processes. Times are nanoseconds since 1970, sizes bytes, paths
logical ones (`paths.py`). `AUTOINCREMENT` ids are never given twice, so their order is the order of creation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from canister.store.cache_paths import CACHE_FOLDER, SESSIONS, SIDECAR

NAMES = {
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
}

canister_metadata = MetaData(naming_convention=NAMES)
server_metadata = MetaData(naming_convention=NAMES)
ao_metadata = MetaData(naming_convention=NAMES)


def call_columns() -> Sequence[Column[Any]]:
    """What the log of a canister has of a call, here and in the journal of a herd."""
    return (
        Column("caller", Text, nullable=False),
        Column("method", Text, nullable=False),
        Column("timestamp_ns", BigInteger, nullable=False),
        Column("outcome", Text, nullable=False),
        Column("instructions", BigInteger, nullable=False),
        Column("cycles", BigInteger, nullable=False),
        Column("limit", BigInteger),  # NULL: not enforced
        Column("parts", JSON, nullable=False),  # instructions by part of the formula
        Column("n_prompt", BigInteger),  # tokens of the prompt that were decoded; NULL: it had none to decode
        Column("n_generated", BigInteger),
    )


def saved_chat_columns() -> Sequence[Column[Any]]:
    """A chat that a caller keeps, here and in the journal of a herd."""
    return (
        Column("caller", Text, nullable=False),
        Column("timestamp", Text, nullable=False),
        Column("created_ns", BigInteger, nullable=False),
        Column("chat", Text, nullable=False),
    )


def receipt_columns() -> Sequence[Column[Any]]:
    """The record of a call, here and in the journal of a herd: `ic/receipts/` tells its form."""
    return (
        Column("record", LargeBinary, nullable=False),
        Column("nodes", LargeBinary, nullable=False),  # of the tree, that this record completes; mostly none
    )


def receipt_content_columns() -> Sequence[Column[Any]]:
    """What is kept of a call beside its record, here and in the journal of a herd."""
    return (
        Column("words", LargeBinary, nullable=False),  # of the tokens behind the call
        Column("argument", LargeBinary, nullable=False),  # CBOR
        Column("output", LargeBinary, nullable=False),
    )


settings = Table(
    "settings",
    canister_metadata,
    Column("key", Text, primary_key=True),
    Column("value", JSON, nullable=False),
)

controllers = Table("controllers", canister_metadata, Column("principal", Text, primary_key=True))

admin_roles = Table(
    "admin_roles",
    canister_metadata,
    Column("id", Integer, primary_key=True),
    Column("principal", Text, nullable=False, unique=True),
    Column("role", Text, nullable=False),
    Column("note", Text, nullable=False),
    Column("assigned_by", Text, nullable=False),
    Column("assigned_at", BigInteger, nullable=False),
    sqlite_autoincrement=True,
)

# Conditions and expressions of indexes. SQLite takes such an index for a query that says the same in the very words, so
# they have no parameters, and queries take them from here.
_BELOW = f"substr(path, {len(CACHE_FOLDER) + 2})"  # <caller>/<area>/…
_SLASH = f"instr({_BELOW}, '/')"

AREA = f"substr({_BELOW}, 1, {_SLASH} + instr(substr({_BELOW}, {_SLASH} + 1), '/'))"
"""`<caller>/<area>/` of what lies in a caller's folder; areas are sessions, chats and logs."""

IN_AREA = (
    f"kind = 'file' AND substr(path, 1, {len(CACHE_FOLDER) + 1}) = '{CACHE_FOLDER}/' "
    f"AND substr(path, -{len(SIDECAR)}) <> '{SIDECAR}'"
)
IS_CACHE = f"{IN_AREA} AND substr({_BELOW}, {_SLASH}, {len(SESSIONS) + 2}) = '/{SESSIONS}/'"
PARENT = "rtrim(path, replace(path, '/', ''))"  # with a slash behind it; of the root ''
IS_MODEL = (
    f"kind = 'file' AND lower(substr(path, -5)) = '.gguf' "
    f"AND substr(path, 1, {len(CACHE_FOLDER) + 1}) <> '{CACHE_FOLDER}/'"
)

files = Table(
    "files",
    canister_metadata,
    Column("id", Integer, primary_key=True),
    Column("path", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("modified_ns", BigInteger, nullable=False),
    UniqueConstraint("path"),
    CheckConstraint("kind IN ('file', 'directory')", name="ck_files_kind"),
    Index("ix_files_cache_age", "modified_ns", sqlite_where=text(IS_CACHE)),
    Index("ix_files_area", text(AREA), "modified_ns", "id", "size", sqlite_where=text(IN_AREA)),
    Index("ix_files_parent", text(PARENT), "id"),
    Index("ix_files_models", "id", sqlite_where=text(IS_MODEL)),
    sqlite_autoincrement=True,
)

uploads = Table(
    "uploads",
    canister_metadata,
    Column("path", Text, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),  # lower-case hex, of the bytes so far
    Column("last_offset", BigInteger, nullable=False),
)

# What is committed but perhaps not on the disk yet; `journal.py` explains the kinds.
redo = Table(
    "redo",
    canister_metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("source", Text),
    Column("offset", BigInteger, nullable=False),
    Column("data", LargeBinary),
    CheckConstraint("kind IN ('put', 'append', 'drop')", name="ck_redo_kind"),
    sqlite_autoincrement=True,
)

saved_chats = Table(
    "saved_chats",
    canister_metadata,
    Column("id", Integer, primary_key=True),
    *saved_chat_columns(),
    Index("ix_saved_chats_caller", "caller"),
    sqlite_autoincrement=True,
)

# Amounts that calls draw from and add to. Calls change them by differences, so they may commit in any order.
ledger = Table(
    "ledger",
    canister_metadata,
    Column("name", Text, primary_key=True),
    Column("amount", BigInteger, nullable=False),
)

call_log = Table(
    "call_log",
    canister_metadata,
    Column("id", Integer, primary_key=True),
    *call_columns(),
    Index("ix_call_log_caller", "caller"),
    sqlite_autoincrement=True,
)

# Answers to update calls that came as IC messages, so that a message that comes again is answered and not run again.
requests = Table(
    "requests",
    canister_metadata,
    Column("id", LargeBinary, primary_key=True),
    Column("caller", Text, nullable=False),
    Column("kept_until_ns", BigInteger, nullable=False, index=True),
    Column("reply", LargeBinary),  # Candid; NULL: rejected
    Column("reject_code", Integer),
    Column("reject_message", Text),
    Column("error_code", Text),
)

# How far a worker of a herd has come: `state/herd_marks.py`.
herd_marks = Table(
    "herd_marks",
    canister_metadata,
    Column("name", Text, primary_key=True),
    Column("value", BigInteger, nullable=False),
)

# Whole answers that are kept: what was asked, so that it can be answered again or gone on with, and how it stands.
answers = Table(
    "answers",
    canister_metadata,
    Column("id", Text, primary_key=True),
    Column("caller", Text, nullable=False),
    Column("kind", Text, nullable=False),  # the interface that it was asked through
    Column("idempotency_key", Text),
    Column("body_hash", LargeBinary, nullable=False),
    Column("request", Text, nullable=False),  # JSON, of the door
    Column("wanted", Text, nullable=False),  # JSON, of dispatch: all that the tokens depend on but the prompt
    Column("prompt", LargeBinary, nullable=False),  # token ids, four bytes each, little-endian
    Column("is_listed", Boolean, nullable=False),  # found by its id; else by its idempotency key alone
    Column("goes_on", Boolean, nullable=False),  # without its client
    Column("status", Text, nullable=False),
    Column("error", JSON(none_as_null=True)),
    Column("created_ns", BigInteger, nullable=False),
    Column("ended_ns", BigInteger, index=True),  # NULL while it is running
    Column("kept_until_ns", BigInteger, nullable=False, index=True),
    Column("n_bytes", BigInteger, nullable=False),  # of all that is kept of it
    UniqueConstraint("caller", "idempotency_key"),
    CheckConstraint("status IN ('running', 'left', 'done', 'failed', 'cancelled')", name="ck_answers_status"),
    Index("ix_answers_caller", "caller", "created_ns"),
)

# What one committed call gave an answer, written in the transaction of the call.
answer_calls = Table(
    "answer_calls",
    canister_metadata,
    Column("answer_id", Text, ForeignKey("answers.id", ondelete="CASCADE"), primary_key=True),
    Column("choice", Integer, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("tokens", Text, nullable=False),  # JSON
    Column("taken", JSON, nullable=False),  # draws, counts, costs and times after it
    sqlite_with_rowid=False,
)

# The records of calls, in the order of their commits; `state/receipts.py` has the chain.
receipts = Table(
    "receipts",
    canister_metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("chat", BigInteger, index=True),  # a hash of caller and prompt cache; NULL: none
    *receipt_columns(),
)

# What many records have in common, under its SHA-256.
receipt_terms = Table(
    "receipt_terms",
    canister_metadata,
    Column("hash", LargeBinary, primary_key=True),
    Column("terms", LargeBinary, nullable=False),
    Column("used_at", Integer, nullable=False),  # the number of a record not long before the last that has them
    sqlite_with_rowid=False,
)

# Arguments and outputs, where they are kept.
receipt_contents = Table(
    "receipt_contents",
    canister_metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    *receipt_content_columns(),
)

canisters = Table(
    "canisters",
    server_metadata,
    Column("name", Text, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("created_ns", BigInteger, nullable=False),
    Column("request_id", LargeBinary, unique=True),  # of the message that made it; NULL: named in the settings
    Column("birth", JSON(none_as_null=True)),  # what that message gave it: state.canisters.Birth
    Column("deleted_ns", BigInteger),  # its row stays, so that its id is never given again
)

api_keys = Table(
    "api_keys",
    server_metadata,
    Column("name", Text, primary_key=True),
    Column("key_id", Text, nullable=False, unique=True),
    Column("hash", Text, nullable=False),
    Column("principal", Text, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("expires_ns", BigInteger),
    Index("ix_api_keys_created_ns", "created_ns", "key_id"),
)

# -- AO: processes with their messages, and the money of native ones (`ao/journal/`). Times are milliseconds, as
# programs see them. Tags, results and calls are values of Lua (`ao/lua/values.py`).

ao_processes = Table(
    "ao_processes",
    ao_metadata,
    Column("id", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("module", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("tags", LargeBinary, nullable=False),
    Column("n_slots", Integer, nullable=False),  # messages that came
    Column("n_done", Integer, nullable=False),  # messages that were run, in order
    Column("n_calls", Integer, nullable=False),  # of its log
    Column("published", LargeBinary),
    Column("kept", LargeBinary),  # what its model has read and said
    Column("cron_ms", BigInteger),  # NULL: it is not monitored
    Column("cron_due_ms", BigInteger, index=True),
    Column("instructions", BigInteger, nullable=False),  # of the canister, for its model
    Column("cycles", BigInteger, nullable=False),
    CheckConstraint("kind IN ('lua', 'token', 'herder', 'worker')", name="ck_ao_processes_kind"),
)

ao_messages = Table(
    "ao_messages",
    ao_metadata,
    Column("process", Text, ForeignKey("ao_processes.id"), primary_key=True),
    Column("slot", Integer, primary_key=True),
    Column("id", Text, nullable=False, index=True),
    Column("owner", Text, nullable=False),
    Column("sender", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("tags", LargeBinary, nullable=False),
    Column("anchor", LargeBinary, nullable=False),
    Column("timestamp_ms", BigInteger, nullable=False),
    Column("offspring", Integer, nullable=False),
    Column("result", LargeBinary),  # NULL: it waits
    UniqueConstraint("process", "id"),
)

# What made the state of a program: each call with what the host answered it.
ao_calls = Table(
    "ao_calls",
    ao_metadata,
    Column("process", Text, ForeignKey("ao_processes.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("entry", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

# Of each program the last state that was written down, so that only later calls are run again. It may be deleted.
ao_snapshots = Table(
    "ao_snapshots",
    ao_metadata,
    Column("process", Text, ForeignKey("ao_processes.id"), primary_key=True),
    Column("n_calls", Integer, nullable=False),  # that gave it
    Column("world", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

ao_balances = Table(
    "ao_balances",
    ao_metadata,
    Column("token", Text, ForeignKey("ao_processes.id"), primary_key=True),
    Column("account", Text, primary_key=True),
    Column("amount", Text, nullable=False),  # of any size
    sqlite_with_rowid=False,
)

ao_jobs = Table(
    "ao_jobs",
    ao_metadata,
    Column("seq", Integer, primary_key=True),
    Column("herder", Text, ForeignKey("ao_processes.id"), nullable=False),
    Column("client", Text, nullable=False),
    Column("reference", Text),
    Column("prompt", LargeBinary, nullable=False),
    Column("n_tokens", Integer, nullable=False),
    Column("termination", LargeBinary, nullable=False),
    Column("quantity", Text, nullable=False),
    Column("multiplier", Double, nullable=False),
    Column("n_tries", Integer, nullable=False),
    Column("worker", Text),  # NULL: it waits
    Column("due_ms", BigInteger, index=True),  # when its worker is given up
    Index("ix_ao_jobs_queue", "herder", "worker", "multiplier", "seq"),
    sqlite_autoincrement=True,
)

ao_workers = Table(
    "ao_workers",
    ao_metadata,
    Column("herder", Text, ForeignKey("ao_processes.id"), primary_key=True),
    Column("worker", Text, primary_key=True),
    Column("state", Text, nullable=False),
    CheckConstraint("state IN ('idle', 'busy', 'late')", name="ck_ao_workers_state"),
    sqlite_with_rowid=False,
)
