"""Balances of a token, and the jobs and workers of a herder, each for one process in one transaction."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping, delete, func, insert, select, update

from canister.store.tables import ao_balances as balances
from canister.store.tables import ao_jobs as jobs
from canister.store.tables import ao_workers as workers


@dataclass(frozen=True, slots=True)
class Ledger:
    """Of one token. Amounts are of any size."""

    connection: Connection
    token: str

    def balance(self, account: str) -> int:
        where = (balances.c.token == self.token, balances.c.account == account)
        found = self.connection.execute(select(balances.c.amount).where(*where)).scalar_one_or_none()
        return int(found or 0)

    def add(self, account: str, amount: int) -> None:
        """amount: less than nothing takes away; there must be as much."""
        left = self.balance(account) + amount
        if left < 0:
            raise ValueError(f"{account} has not {-amount}")
        key = {"token": self.token, "account": account}
        where = (balances.c.token == self.token, balances.c.account == account)
        if not self.connection.execute(update(balances).where(*where).values(amount=str(left))).rowcount:
            self.connection.execute(insert(balances), {**key, "amount": str(left)})

    def all(self, limit: int = 1000) -> dict[str, int]:
        query = select(balances.c.account, balances.c.amount).where(
            balances.c.token == self.token, balances.c.amount != "0"
        )
        return {row[0]: int(row[1]) for row in self.connection.execute(query.order_by(balances.c.account).limit(limit))}

    def supply(self) -> int:
        query = select(balances.c.amount).where(balances.c.token == self.token)
        return sum(map(int, self.connection.execute(query).scalars()))


@dataclass(frozen=True, slots=True)
class Job:
    """A paid request. client: who paid. seq, n_tries: 0 before it is put in the queue, or given to a worker."""

    client: str
    reference: str | None
    prompt: bytes
    n_tokens: int
    termination: bytes
    quantity: int
    multiplier: float
    seq: int = 0
    n_tries: int = 0
    worker: str | None = None


@dataclass(frozen=True, slots=True)
class Desk:
    """Of one herder. A worker is idle, busy with one job, or late: its job was given to another."""

    connection: Connection
    herder: str

    def put(self, job: Job) -> None:
        row = {name: getattr(job, name) for name in ("client", "reference", "prompt", "n_tokens", "termination")}
        more = {"quantity": str(job.quantity), "multiplier": job.multiplier, "n_tries": 0}
        self.connection.execute(insert(jobs), row | more | {"herder": self.herder})

    def first(self) -> Job | None:
        """Of those that wait: the one that pays most for what it asks, the first among equals."""
        query = select(jobs).where(jobs.c.herder == self.herder, jobs.c.worker.is_(None))
        row = (
            self.connection.execute(query.order_by(jobs.c.multiplier.desc(), jobs.c.seq).limit(1))
            .mappings()
            .one_or_none()
        )
        return None if row is None else _job(row)

    def n_waiting(self) -> int:
        query = select(func.count()).select_from(jobs).where(jobs.c.herder == self.herder, jobs.c.worker.is_(None))
        return int(self.connection.execute(query).scalar_one())

    def give(self, job: Job, worker: str, due_ms: int) -> None:
        change = {"worker": worker, "due_ms": due_ms, "n_tries": job.n_tries + 1}
        self.connection.execute(update(jobs).where(jobs.c.seq == job.seq).values(change))
        self.set_worker(worker, "busy")

    def take_back(self, job: Job) -> None:
        """It waits again."""
        self.connection.execute(update(jobs).where(jobs.c.seq == job.seq).values(worker=None, due_ms=None))

    def end(self, job: Job) -> None:
        self.connection.execute(delete(jobs).where(jobs.c.seq == job.seq))

    def of_worker(self, worker: str) -> Job | None:
        query = select(jobs).where(jobs.c.herder == self.herder, jobs.c.worker == worker)
        row = self.connection.execute(query).mappings().one_or_none()
        return None if row is None else _job(row)

    def overdue(self, now_ms: int) -> list[Job]:
        query = select(jobs).where(jobs.c.herder == self.herder, jobs.c.due_ms <= now_ms).order_by(jobs.c.seq)
        return [_job(row) for row in self.connection.execute(query).mappings()]

    def idle_worker(self) -> str | None:
        query = select(workers.c.worker).where(workers.c.herder == self.herder, workers.c.state == "idle")
        found: str | None = self.connection.execute(query.order_by(workers.c.worker).limit(1)).scalar_one_or_none()
        return found

    def worker_state(self, worker: str) -> str | None:
        query = select(workers.c.state).where(workers.c.herder == self.herder, workers.c.worker == worker)
        found: str | None = self.connection.execute(query).scalar_one_or_none()
        return found

    def set_worker(self, worker: str, state: str) -> None:
        where = (workers.c.herder == self.herder, workers.c.worker == worker)
        if not self.connection.execute(update(workers).where(*where).values(state=state)).rowcount:
            self.connection.execute(insert(workers), {"herder": self.herder, "worker": worker, "state": state})

    def remove_worker(self, worker: str) -> None:
        where = (workers.c.herder == self.herder, workers.c.worker == worker)
        self.connection.execute(delete(workers).where(*where))


def next_due_ms(connection: Connection) -> int | None:
    """When the first worker of all herders is given up."""
    found: int | None = connection.execute(select(func.min(jobs.c.due_ms))).scalar_one()
    return found


def herders_due(connection: Connection, now_ms: int) -> list[tuple[str, int]]:
    """Herders with workers to be given up, and since when."""
    query = select(jobs.c.herder, func.min(jobs.c.due_ms)).where(jobs.c.due_ms <= now_ms).group_by(jobs.c.herder)
    return [(row[0], row[1]) for row in connection.execute(query)]


def put_off(connection: Connection, due_ms: int) -> None:
    """Workers could not work for a while: none is given up before."""
    connection.execute(update(jobs).where(jobs.c.due_ms < due_ms).values(due_ms=due_ms))


def _job(row: RowMapping) -> Job:
    return Job(
        row["client"],
        row["reference"],
        row["prompt"],
        row["n_tokens"],
        row["termination"],
        int(row["quantity"]),
        row["multiplier"],
        row["seq"],
        row["n_tries"],
        row["worker"],
    )
