"""The tables of a herd, the same on SQLite and PostgreSQL; their history is in `migrations/`.

Rows are locked and read, the new values are computed here, and then they are written: so amounts may be larger than a
database's integers, and what is decided once is the same on both.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.types import TypeEngine

from canister.store.tables import NAMES, call_columns, receipt_columns, receipt_content_columns, saved_chat_columns

metadata = MetaData(naming_convention=NAMES)

AMOUNT_DIGITS = 78  # of an unsigned integer of 256 bits, as tokens elsewhere have them


class Amount(TypeDecorator[int]):
    """A whole number of up to 78 digits: NUMERIC, and on SQLite, whose integers end at 63 bits, TEXT."""

    impl = Numeric
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        kind: TypeEngine[Any] = Text() if dialect.name == "sqlite" else Numeric(AMOUNT_DIGITS, 0)
        return dialect.type_descriptor(kind)

    def process_bind_param(self, value: int | None, dialect: Dialect) -> object:
        if value is None:
            return None
        return str(value) if dialect.name == "sqlite" else Decimal(value)

    def process_result_value(self, value: object, dialect: Dialect) -> int | None:
        return None if value is None else int(str(value))


Id = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows only by a column of exactly this type

# Who leads: one row. Whoever ends a job locks it, so that a new leader waits for what the old one is committing.
leader = Table(
    "leader",
    metadata,
    Column("one", Integer, primary_key=True, autoincrement=False),
    Column("holder", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("since_ns", BigInteger, nullable=False),
    CheckConstraint("one = 1", name="one"),
)

# Doors that wait until they may lead, and when each was there last.
door = Table(
    "door",
    metadata,
    Column("address", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("seen_ns", BigInteger, nullable=False),
)

# What all doors of a herd have alike, since a caller must not see which one leads: keys, secrets.
shared = Table(
    "shared",
    metadata,
    Column("name", Text, primary_key=True),
    Column("content", LargeBinary, nullable=False),
)

# The newest commit of each writer, in that commit. After a COMMIT whose outcome is unknown it tells whether it holds.
writer = Table(
    "writer",
    metadata,
    Column("id", LargeBinary, primary_key=True),
    Column("mark", LargeBinary, nullable=False),
    Column("at_ns", BigInteger, nullable=False),
)

job = Table(
    "job",
    metadata,
    Column("seq", Id, primary_key=True),
    Column("id", LargeBinary, nullable=False, unique=True),
    Column("canister", Text, nullable=False),
    Column("caller", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("arg", LargeBinary, nullable=False),
    Column("chats", JSON, nullable=False),
    Column("multiplier", Double, nullable=False),
    Column("hold", Amount, nullable=False),
    Column("payer", Text),
    Column("due_ns", BigInteger),
    Column("kept_until_ns", BigInteger, nullable=False, index=True),
    Column("state", Text, nullable=False),
    Column("worker", Text),
    Column("fence", BigInteger, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("made_ns", BigInteger, nullable=False),
    Column("started_ns", BigInteger),
    Column("ended_ns", BigInteger),
    Column("reply", LargeBinary),  # Candid; NULL: rejected, or not ended
    Column("reject_code", Integer),
    Column("reject_message", Text),
    Column("error_code", Text),
    Column("http_status", Integer),
    Column("instructions", BigInteger),
    Column("cycles", BigInteger),
    Column("is_refunded", Boolean, nullable=False),
    Column("receipt", Text),  # its id
    CheckConstraint("state IN ('queued', 'running', 'done', 'refused')", name="state"),
    CheckConstraint("payer IS NOT NULL OR hold = '0'", name="payer").ddl_if(dialect="sqlite"),
    CheckConstraint("payer IS NOT NULL OR hold = 0", name="payer").ddl_if(dialect="postgresql"),
    sqlite_autoincrement=True,
)
Index(
    "ix_job_waiting",
    job.c.seq,
    sqlite_where=text("state IN ('queued', 'running')"),
    postgresql_where=text("state IN ('queued', 'running')"),
)

# A chat that is not there has no row, and the head b"".
chat = Table(
    "chat",
    metadata,
    Column("id", Id, primary_key=True),
    Column("canister", Text, nullable=False),
    Column("caller", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("head", LargeBinary, nullable=False),
    Column("n_tokens", Integer, nullable=False),
    Column("n_changes", Integer, nullable=False),
    Column("header", LargeBinary, nullable=False),  # of its container
    Column("worker", Text),
    Column("stored_head", LargeBinary),
    Column("changed_ns", BigInteger, nullable=False),
    UniqueConstraint("path", "canister", "caller"),
    Index("ix_chat_caller", "canister", "caller", "changed_ns", "id"),
    Index("ix_chat_changed", "canister", "changed_ns", "id"),
    sqlite_autoincrement=True,
)

# Tokens and marks. A record holds from `first` on; those of the one before that lie behind `first` are dead.
chat_record = Table(
    "chat_record",
    metadata,
    Column("chat", Id, ForeignKey("chat.id", ondelete="CASCADE"), primary_key=True),
    Column("first", Integer, primary_key=True),
    Column("n_tokens", Integer, nullable=False),
    Column("tokens", LargeBinary, nullable=False),  # i32, little-endian
    Column("marks", LargeBinary, nullable=False),  # `chats.py` has the form
)

saved_chat = Table(
    "saved_chat",
    metadata,
    Column("id", Id, primary_key=True),
    Column("canister", Text, nullable=False),
    *saved_chat_columns(),
    Index("ix_saved_chat_caller", "canister", "caller", "id"),
    sqlite_autoincrement=True,
)

# What a canister has beside its chats: its cycles, and the newest number of its control log.
canister = Table(
    "canister",
    metadata,
    Column("name", Text, primary_key=True),
    Column("rev", BigInteger, nullable=False),
    Column("cycles", BigInteger, nullable=False),
)

control = Table(
    "control",
    metadata,
    Column("canister", Text, primary_key=True),
    Column("rev", BigInteger, primary_key=True, autoincrement=False),
    Column("caller", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("arg", LargeBinary),
    Column("object", LargeBinary),  # SHA-256 of the argument, which lies in the objects
    Column("now_ns", BigInteger, nullable=False),
    Column("job", LargeBinary),  # that it was made for, where that may be asked for again
    Index("ix_control_job", "canister", "job", unique=True),
)

call_log = Table(
    "call_log",
    metadata,
    Column("id", Id, primary_key=True),
    Column("canister", Text, nullable=False),
    *call_columns(),
    Index("ix_call_log_canister", "canister", "id"),
    Index("ix_call_log_caller", "canister", "caller", "id"),
    sqlite_autoincrement=True,
)

# The records of settled calls, in their order, one chain for each canister; as those of a single server.
receipt = Table(
    "receipt",
    metadata,
    Column("canister", Text, primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("chat", BigInteger),  # a hash of caller and prompt cache; NULL: none
    *receipt_columns(),
    Index("ix_receipt_chat", "chat", "number"),
)

receipt_terms = Table(
    "receipt_terms",
    metadata,
    Column("canister", Text, primary_key=True),
    Column("hash", LargeBinary, primary_key=True),
    Column("terms", LargeBinary, nullable=False),
    Column("used_at", BigInteger, nullable=False),  # the number of a record not long before the last that has them
)

receipt_contents = Table(
    "receipt_contents",
    metadata,
    Column("canister", Text, primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    *receipt_content_columns(),
)

account = Table(
    "account",
    metadata,
    Column("name", Text, primary_key=True),  # a principal, an address, or a name
    Column("free", Amount, nullable=False),
    Column("held", Amount, nullable=False),
    CheckConstraint("free NOT LIKE '-%' AND held NOT LIKE '-%'", name="amounts").ddl_if(dialect="sqlite"),
    CheckConstraint("free >= 0 AND held >= 0", name="amounts").ddl_if(dialect="postgresql"),
)

payment = Table(
    "payment",
    metadata,
    Column("id", Id, primary_key=True),
    Column("key", LargeBinary, unique=True),  # of what asked for it, which may ask again; NULL: nothing does
    Column("kind", Text, nullable=False),
    Column("source", Text),  # NULL: minted
    Column("target", Text, nullable=False),
    Column("amount", Amount, nullable=False),
    Column("job", LargeBinary),
    Column("at_ns", BigInteger, nullable=False),
    Column("note", Text, nullable=False),
    CheckConstraint("kind IN ('mint', 'transfer', 'hold', 'settle', 'refund')", name="kind"),
    Index("ix_payment_source", "source", "id"),
    Index("ix_payment_target", "target", "id"),
    sqlite_autoincrement=True,
)
