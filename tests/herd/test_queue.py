"""The order of jobs: by multiplier, by callers' turns, by arrival; and what waits for something is not in the way."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canister.herd import fees
from canister.herd.queue import STOP, JobQueue


@dataclass(frozen=True, slots=True)
class Job:
    number: int
    caller: str = "a"
    multiplier: float = 1.0
    chat: str = ""
    seconds: float = 1.0
    came: float = 0.0

    @property
    def id(self) -> bytes:
        return b"%d" % self.number


def filled(jobs: Iterable[Job], *, strict: bool = False) -> JobQueue[Job]:
    queue: JobQueue[Job] = JobQueue(strict=strict)
    for job in jobs:
        queue.push(job)
    return queue


def popped(queue: JobQueue[Job]) -> list[int]:
    numbers = []
    while (job := queue.pop()) is not None:
        numbers.append(job.number)
    return numbers


# -- the order


@pytest.mark.parametrize("strict", [False, True])
def test_the_herds_vector(strict: bool) -> None:
    """Quantities at needed 12, one worker, all from one client: it takes the first, and then the best of the others."""
    jobs = [Job(n, "client", fees.multiplier(paid, 12)) for n, paid in enumerate((12, 24, 12, 36, 24, 18))]
    queue: JobQueue[Job] = JobQueue(strict=strict)
    queue.push(jobs[0])
    first = queue.pop()
    assert first is not None
    for job in jobs[1:]:
        queue.push(job)
    assert [first.number, *popped(queue)] == [0, 3, 1, 4, 5, 2]


def test_callers_take_turns_among_equals() -> None:
    callers = "aaaabbc"
    jobs = [Job(n, caller) for n, caller in enumerate(callers)]
    assert popped(filled(jobs)) == [0, 4, 6, 1, 5, 2, 3]
    assert popped(filled(jobs, strict=True)) == list(range(7))


def test_who_comes_late_has_the_present_turn() -> None:
    queue = filled(Job(n, "flood") for n in range(100))
    for _ in range(50):
        queue.pop()
    queue.push(Job(100, "b"))
    queue.push(Job(101, "b"))
    assert popped(queue)[:4] == [100, 50, 101, 51]


def test_turns_of_one_multiplier_do_not_count_for_another() -> None:
    queue = filled([*(Job(n, "a", 2.0) for n in range(3)), Job(3, "a"), Job(4, "b"), Job(5, "b"), Job(6, "a")])
    assert popped(queue) == [0, 1, 2, 3, 4, 5, 6]


def test_a_job_whose_worker_is_lost_is_first_among_its_equals() -> None:
    for strict in (False, True):
        queue = filled((Job(n, caller) for n, caller in enumerate("ab")), strict=strict)
        first = queue.pop()
        assert first is not None
        queue.push(Job(9, "c", 1.5))
        queue.push(first, again=True)
        assert popped(queue) == [9, 0, 1]


def test_who_takes_jobs_back_loses_no_turn_by_that() -> None:
    queue = filled(Job(n, "a") for n in range(10))
    for n in range(10):
        assert queue.remove(b"%d" % n) == Job(n, "a")
    queue.push(Job(10, "b"))
    queue.push(Job(11, "a"))
    queue.push(Job(12, "b"))
    assert popped(queue) == [10, 11, 12]


def test_who_takes_jobs_back_wins_no_turn_by_that() -> None:
    queue = filled([Job(0, "a"), Job(1, "b"), Job(2, "b")])
    assert queue.pop() == Job(0, "a")
    for n in range(3, 8):
        queue.push(Job(n, "a"))
        queue.remove(b"%d" % n)
    queue.push(Job(9, "a"))
    assert popped(queue) == [1, 2, 9]


def test_what_the_queue_tells() -> None:
    jobs = [Job(0), Job(1, "b", 3.0), Job(2, "b", 3.0), Job(3)]
    assert popped(filled(jobs)) == [1, 2, 0, 3]
    queue = filled(jobs)
    assert (len(queue), b"1" in queue, b"9" in queue, queue.get(b"1"), queue.get(b"9")) == (
        4,
        True,
        False,
        Job(1, "b", 3.0),
        None,
    )
    assert queue.by_multiplier() == [(3.0, 2), (1.0, 2)]
    assert [queue.n_before(multiplier) for multiplier in (1.0, 2.0, 3.0, 3.5)] == [4, 2, 2, 0]
    with pytest.raises(ValueError, match="waits already"):
        queue.push(Job(0))
    assert queue.remove(b"9") is None


# -- what waits for something


def test_what_waits_for_a_chat_is_passed_by() -> None:
    queue = filled([Job(0, chat="x"), Job(1, chat="x"), Job(2, chat="y"), Job(3, chat="x")])
    busy: set[str] = set()

    def next_job() -> int | None:
        job = queue.pop(lambda job: job.chat if job.chat in busy else None)
        if job is None:
            return None
        busy.add(job.chat)
        return job.number

    def end(chat: str) -> None:
        busy.remove(chat)
        queue.free(chat)

    assert [next_job(), next_job(), next_job()] == [0, 2, None]
    end("y")
    assert next_job() is None
    end("x")
    assert [next_job(), next_job()] == [1, None]
    queue.push(Job(4, multiplier=9.0, chat="x"))
    end("x")
    assert [next_job(), next_job()] == [4, None]
    end("x")
    assert next_job() == 3
    assert len(queue) == 0


def test_nothing_is_asked_when_no_job_can_run() -> None:
    queue = filled(Job(n) for n in range(3))
    asked: list[int] = []

    def obstacle(job: Job) -> Hashable:
        asked.append(job.number)
        return STOP

    assert queue.pop(obstacle) is None
    assert asked == [0]
    assert popped(queue) == [0, 1, 2]


def test_thousands_behind_one_chat_are_asked_once() -> None:
    queue = filled([*(Job(n, chat="x", multiplier=2.0) for n in range(5000)), Job(5000, chat="y")])
    asked: Counter[int] = Counter()

    def obstacle(job: Job) -> Hashable:
        asked[job.number] += 1
        return "x" if job.chat == "x" else None

    first = queue.pop(obstacle)
    assert first is not None
    assert first.number == 5000
    for n in range(5001, 6000):
        queue.push(Job(n, chat="y"))
        other = queue.pop(obstacle)
        assert other is not None
        assert other.number == n
    assert set(asked.values()) == {1}
    queue.free("x")
    assert queue.pop(obstacle) is None
    assert sum(asked.values()) == 6001


class Plain:
    """The same queue, as plainly as it can be said: all jobs in a list, sorted whenever one is taken."""

    def __init__(self, *, strict: bool) -> None:
        self.strict = strict
        self.waiting: list[tuple[float, int, int, Job]] = []
        self.now: Counter[float] = Counter()
        self.last: dict[tuple[float, str], int] = {}
        self.taken: dict[tuple[float, str], int] = {}
        self.n = 0

    def push(self, job: Job) -> None:
        round_ = 0
        if not self.strict:
            round_ = max(self.now[job.multiplier], self.last.get((job.multiplier, job.caller), -1) + 1)
            self.last[job.multiplier, job.caller] = round_
        self.waiting.append((-job.multiplier, round_, self.n, job))
        self.n += 1

    def take(self, busy: set[str]) -> Job | None:
        for found in sorted(self.waiting, key=lambda entry: entry[:3]):
            if found[3].chat not in busy:
                self.out(found, is_taken=True)
                return found[3]
        return None

    def remove(self, id: bytes) -> Job | None:
        for found in self.waiting:
            if found[3].id == id:
                self.out(found, is_taken=False)
                return found[3]
        return None

    def out(self, found: tuple[float, int, int, Job], *, is_taken: bool) -> None:
        self.waiting.remove(found)
        job = found[3]
        key = (job.multiplier, job.caller)
        if is_taken:
            self.now[job.multiplier] = max(self.now[job.multiplier], found[1])
            self.taken[key] = max(self.taken.get(key, -1), found[1])
        equals = [other for *_, other in self.waiting if other.multiplier == job.multiplier]
        if not is_taken and not any(other.caller == job.caller for other in equals):
            self.last[key] = self.taken.get(key, -1)
        if not equals:
            del self.now[job.multiplier]
            for rounds in (self.last, self.taken):
                for other in [other for other in rounds if other[0] == job.multiplier]:
                    del rounds[other]


@settings(max_examples=300)
@given(st.data(), st.booleans())
def test_it_is_as_if_all_jobs_were_sorted(data: st.DataObject, strict: bool) -> None:
    queue: JobQueue[Job] = JobQueue(strict=strict)
    plain = Plain(strict=strict)
    busy: set[str] = set()
    n = 0
    for _ in range(data.draw(st.integers(1, 60))):
        step = data.draw(st.sampled_from(["push", "push", "pop", "end", "remove"]))
        if step == "push":
            multiplier = data.draw(st.sampled_from([1.0, 1.5, 2.0]))
            job = Job(n, data.draw(st.sampled_from("abc")), multiplier, data.draw(st.sampled_from("xyz")))
            queue.push(job)
            plain.push(job)
            n += 1
        elif step == "pop":
            found = queue.pop(lambda job: job.chat if job.chat in busy else None)
            assert found == plain.take(busy)
            if found is not None:
                busy.add(found.chat)
        elif step == "end" and busy:
            chat = data.draw(st.sampled_from(sorted(busy)))
            busy.remove(chat)
            queue.free(chat)
        elif step == "remove" and n:
            id = b"%d" % data.draw(st.integers(0, n - 1))
            assert queue.remove(id) == plain.remove(id)
        assert len(queue) == len(plain.waiting)
        assert all(entry[3].id in queue for entry in plain.waiting)
    queue.free(*busy)
    assert popped(queue) == [job.number for job in iter(lambda: plain.take(set()), None)]


# -- a flood, in virtual time


def run(jobs: Iterable[Job], n_workers: int, *, strict: bool = False) -> dict[int, float]:
    """When each job begins, with so many workers that take one at a time. Time is virtual."""
    coming = sorted(jobs, key=lambda job: (job.came, job.number))
    queue: JobQueue[Job] = JobQueue(strict=strict)
    free_at = [0.0] * n_workers
    begun: dict[int, float] = {}
    now = 0.0
    while coming or len(queue):
        while coming and coming[0].came <= now:
            queue.push(coming.pop(0))
        worker = min(range(n_workers), key=free_at.__getitem__)
        if free_at[worker] <= now and (job := queue.pop()) is not None:
            begun[job.number] = now
            free_at[worker] = now + job.seconds
            continue
        times = [free_at[worker]] if len(queue) else []
        now = max(now, min([*times, *([coming[0].came] if coming else [])]))
    return begun


@settings(max_examples=50)
@given(st.integers(10, 400), st.integers(1, 4), st.floats(0, 50), st.floats(1.001, 100))
def test_a_payer_waits_for_a_running_job_and_not_for_the_flood(
    n_flood: int, n_workers: int, came: float, multiplier: float
) -> None:
    flood = [Job(n, f"cheap{n % 3}") for n in range(n_flood)]
    payer = Job(n_flood, "payer", multiplier, came=came)
    begun = run([*flood, payer], n_workers)
    assert begun[payer.number] - came <= 1.0 + 1e-9


@settings(max_examples=50)
@given(st.integers(10, 400), st.integers(1, 4), st.lists(st.floats(0, 50), min_size=1, max_size=5))
def test_other_callers_wait_a_turn_each_and_not_for_the_flood(n_flood: int, n_workers: int, times: list[float]) -> None:
    flood = [Job(n, "flood") for n in range(n_flood)]
    others = [Job(n_flood + n, f"c{n}", came=came) for n, came in enumerate(times)]
    begun = run([*flood, *others], n_workers)
    most = 1 + math.ceil((len(others) + 1) / n_workers)  # what runs, then a job of each caller
    for job in others:
        assert begun[job.number] - job.came <= most + 1e-9
    strict = run([*flood, *others], n_workers, strict=True)
    assert all(strict[job.number] >= begun[job.number] - 1e-9 for job in others)


def test_in_a_flood_a_caller_gets_every_other_job() -> None:
    jobs = [*(Job(n, "flood") for n in range(300)), *(Job(300 + n, "b", came=10.5) for n in range(20))]
    begun = run(jobs, 1)
    assert max(begun[300 + n] for n in range(20)) <= 10.5 + 2 * 20 + 1


def test_how_many_wait_ahead_for_the_same() -> None:
    queue = filled(Job(n) for n in range(4))
    ahead: list[int] = []

    def obstacle(job: Job) -> str:
        ahead.append(queue.n_ahead(job.id, "w1"))
        return "w1"

    assert queue.pop(obstacle) is None
    assert ahead == [0, 1, 2, 3]
    queue.free("w1")
    assert queue.pop(obstacle) is None
    assert ahead[4:] == [0]  # the first one is asked again, and nobody is ahead of it
