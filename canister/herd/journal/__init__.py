"""The herd's truth in SQL: jobs with their answers, chats, money, the control log. Nothing above knows a table."""

from canister.herd.journal.journal import Journal
from canister.herd.journal.records import (
    OPERATOR,
    Accepted,
    Answer,
    Balance,
    Chat,
    ControlEntry,
    JobRow,
    JobState,
    Leader,
    NewJob,
    Payment,
    PaymentKind,
    Requeued,
    Settled,
    SettleOutcome,
    StaleReason,
    Supply,
)

__all__ = [
    "OPERATOR",
    "Accepted",
    "Answer",
    "Balance",
    "Chat",
    "ControlEntry",
    "JobRow",
    "JobState",
    "Journal",
    "Leader",
    "NewJob",
    "Payment",
    "PaymentKind",
    "Requeued",
    "SettleOutcome",
    "Settled",
    "StaleReason",
    "Supply",
]
