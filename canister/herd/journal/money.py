"""Accounts and payments: money is minted, moved, held for jobs, and goes to the operator or back. None is ever lost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, or_, select

from canister.errors import BadRequest, Conflict, InsufficientBalance
from canister.herd.journal.records import OPERATOR, Balance, Payment, PaymentKind, Supply
from canister.herd.journal.statements import Asked, Lookup, Row, Rows, fetch_together
from canister.herd.journal.tables import account, payment

MAX_AMOUNT = 10**60  # of one payment, so that no account outgrows its column


@dataclass(frozen=True, slots=True)
class Transfer:
    """source None: minted. key: of who asks, who may ask again; a second transfer of one key moves nothing."""

    source: str | None
    target: str
    amount: int
    key: bytes | None = None
    note: str = ""


@dataclass(slots=True)
class _Account:
    free: int
    held: int
    is_new: bool = False
    is_changed: bool = False


def asked(names: Sequence[str]) -> list[Asked]:
    """The query for accounts, in order of name, so that two processes cannot wait for each other."""
    return _LOCK.asked(sorted({*names, OPERATOR})) if names else []


class Books:
    """Some accounts, locked until the transaction ends, and what has moved between them. `write` writes all of it."""

    def __init__(self, connection: Connection, names: Sequence[str], rows: Sequence[Row] | None = None) -> None:
        """names: of all accounts that will be used. The operator's is taken along. rows: what `asked` has found."""
        self._connection = connection
        self._payments: list[dict[str, Any]] = []
        if rows is None:
            [rows] = fetch_together(connection, asked(names))
        self._accounts = {name: _Account(int(free), int(held)) for name, free, held in rows}

    def mint(self, target: str, amount: int, note: str, key: bytes | None) -> None:
        self._add(target, free=amount)
        self._pay("mint", None, target, amount, None, note, key)

    def transfer(self, source: str, target: str, amount: int, note: str, key: bytes | None) -> None:
        self._need(source, amount)
        self._add(source, free=-amount)
        self._add(target, free=amount)
        self._pay("transfer", source, target, amount, None, note, key)

    def hold(self, payer: str, amount: int, job: bytes) -> None:
        """Raises InsufficientBalance, and has moved nothing then."""
        self._need(payer, amount)
        self._add(payer, free=-amount, held=amount)
        self._pay("hold", payer, payer, amount, job)

    def settle(self, payer: str, amount: int, job: bytes) -> None:
        self._add(payer, held=-amount)
        self._add(OPERATOR, free=amount)
        self._pay("settle", payer, OPERATOR, amount, job)

    def refund(self, payer: str, amount: int, job: bytes) -> None:
        self._add(payer, free=amount, held=-amount)
        self._pay("refund", payer, payer, amount, job)

    def write(self, now_ns: int) -> None:
        new, changed = [], []
        for name, kept in self._accounts.items():
            if kept.is_new:
                new.append({"name": name, "free": kept.free, "held": kept.held})
            elif kept.is_changed:
                changed.append({"of_name": name, "free": kept.free, "held": kept.held})
        _NEW.run(self._connection, new)
        _CHANGE.run(self._connection, changed)
        _PAY.run(self._connection, [{**row, "at_ns": now_ns} for row in self._payments])

    def _need(self, name: str, amount: int) -> None:
        free = self._accounts[name].free if name in self._accounts else 0
        if free < amount:
            raise InsufficientBalance(
                f"{name} has {free} units free, and {amount} are needed; 10^12 units are one token"
            )

    def _add(self, name: str, *, free: int = 0, held: int = 0) -> None:
        kept = self._accounts.get(name)
        if kept is None:
            kept = self._accounts[name] = _Account(0, 0, is_new=True)
        kept.free += free
        kept.held += held
        kept.is_changed = True
        if kept.free < 0 or kept.held < 0:
            raise RuntimeError(f"the account {name} would have {kept.free} free and {kept.held} held")

    def _pay(
        self,
        kind: PaymentKind,
        source: str | None,
        target: str,
        amount: int,
        job: bytes | None,
        note: str = "",
        key: bytes | None = None,
    ) -> None:
        self._payments.append(
            {"kind": kind, "source": source, "target": target, "amount": amount, "job": job, "note": note, "key": key}
        )


def move(connection: Connection, transfers: Sequence[Transfer]) -> list[bool | Exception]:
    """Mint or transfer. False: it was done before, under the same key."""
    done = _known_keys(connection, [transfer.key for transfer in transfers if transfer.key is not None])
    names = {name for transfer in transfers for name in (transfer.source, transfer.target) if name is not None}
    books = Books(connection, sorted(names))
    results: list[bool | Exception] = []
    for transfer in transfers:
        asked = (transfer.source, transfer.target, transfer.amount)
        if transfer.key is not None and transfer.key in done:
            same = done[transfer.key] == asked
            results.append(False if same else Conflict("the same key was used for another transfer; take a new one"))
            continue
        try:
            if transfer.source is None:
                books.mint(transfer.target, transfer.amount, transfer.note, transfer.key)
            else:
                books.transfer(transfer.source, transfer.target, transfer.amount, transfer.note, transfer.key)
        except InsufficientBalance as error:
            results.append(error)
            continue
        if transfer.key is not None:
            done[transfer.key] = asked
        results.append(True)
    books.write(time.time_ns())
    return results


def check_amount(amount: int) -> None:
    """BadRequest for an amount that cannot be moved."""
    if not 0 < amount <= MAX_AMOUNT:
        raise BadRequest(f"an amount is from 1 to 10^60 units, not {_shown(amount)}")


def check_names(*names: str | None) -> None:
    """BadRequest for what cannot be an account."""
    for name in names:
        if name is not None and (not name.strip() or len(name) > 256 or not name.isprintable()):
            raise BadRequest(
                f"an account is named by 1 to 256 printable characters, as a principal is, not {name[:80]!r}"
            )


def _shown(amount: int) -> str:
    return str(amount) if abs(amount) < 10**80 else f"a number of {amount.bit_length()} bits"


def _known_keys(connection: Connection, keys: Sequence[bytes]) -> dict[bytes, tuple[str | None, str, int]]:
    if not keys:
        return {}
    c = payment.c
    rows = connection.execute(select(c.key, c.source, c.target, c.amount).where(c.key.in_(keys)))
    return {row.key: (row.source, row.target, row.amount) for row in rows}


# -- reading


def balance(connection: Connection, name: str) -> Balance:
    row = connection.execute(select(account.c.free, account.c.held).where(account.c.name == name)).one_or_none()
    return Balance(0, 0) if row is None else Balance(*row)


def balances(connection: Connection) -> dict[str, Balance]:
    return {
        row.name: Balance(row.free, row.held) for row in connection.execute(select(account).order_by(account.c.name))
    }


def payments(connection: Connection, name: str | None, before_id: int | None, max_entries: int) -> list[Payment]:
    """The newest payments first, of one account or of all."""
    c = payment.c
    query = select(c.id, c.kind, c.source, c.target, c.amount, c.job, c.at_ns, c.note).order_by(c.id.desc())
    if name is not None:
        query = query.where(or_(c.source == name, c.target == name))
    if before_id is not None:
        query = query.where(c.id < before_id)
    return [Payment(*row) for row in connection.execute(query.limit(max_entries))]


def supply(connection: Connection) -> Supply:
    """Added up here, for SQLite has amounts as texts."""
    minted = sum(connection.scalars(select(payment.c.amount).where(payment.c.kind == "mint")))
    rows = connection.execute(select(account.c.free, account.c.held)).all()
    return Supply(minted, sum(row.free for row in rows), sum(row.held for row in rows))


_LOCK = Lookup(
    select(account.c.name, account.c.free, account.c.held).order_by(account.c.name).with_for_update(), account.c.name
)
_NEW = Rows(account, ("name", "free", "held"))
_CHANGE = Rows(account, ("free", "held"), key="name")
_PAY = Rows(payment, ("key", "kind", "source", "target", "amount", "job", "at_ns", "note"))
