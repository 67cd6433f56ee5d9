"""Measures what only this machine can tell about a model: which decodes give the same bits, and the best thread count.

Kernels differ by processor and weight type, so they are compared, not looked up. Everything here is a generator that
yields after each decode, so that other engines get their turns, and runs in a small context of its own. It leaves
streams empty where this memory can be emptied.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from random import Random
from time import perf_counter, process_time
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from canister.engine.batch_invariance import CHUNK_RULES, PLAIN, ChunkRule, Kernels, RowClasses, rows_of_one_class
from canister.engine.kv.rows import KvRowsError, parse
from canister.engine.llama import Context, Logits

Result = TypeVar("Result")
Steps = Generator[None, None, Result]

PROBE_ROWS = 48  # of the longest chunk that is compared
PROBE_STREAMS = 4  # that share a decode
ROW_COUNTS = (1, 2, 3, 4, 7, 8, 16)
N_BEFORE = 3  # tokens of a stream before the one that is compared
N_BEFORE_VERIFIED = 8  # tokens of a stream before those that are verified
VERIFIED = (2, 3, 4, 8, 16)  # so many at once are compared
CUTS = (1, 2, 3, 5, 7, 13, 17)  # of PROBE_ROWS
MAX_ROUNDS = 8  # of comparisons, each with other tokens
ROUNDS_PARAMS = 300_000_000  # parameters of all rounds together; roughly a second's work
TIE = 0.03  # fewer threads are taken when they are so nearly as fast
QUIET_SHARE = 0.75  # a measurement counts if its threads got this part of the processor time that they could have had
ABSURD = 50  # times slower than the best; too many threads slow a small model down, but never so much
_DUMMY_TOKEN = 0
_TIMED_STEPS = 16  # at most, for one number of threads
_TIMED_SECONDS = 0.15  # enough for one

Bits = tuple[NDArray[np.uint8], Logits]


def measure_kernels(context: Context, n_vocab: int, n_params: int) -> Steps[Kernels]:
    """Measure all that exact mode needs. The context: flash attention off, PROBE_ROWS rows, two streams or more.

    With one stream there are no decodes of several rows. Where a context has room for as many outputs as rows, all rows
    of a chunk ask for logits. Two ways of computing differ only in the last bits of some values. Small models have few
    values, so they are measured several times.
    """
    n_rounds = max(1, min(MAX_ROUNDS, ROUNDS_PARAMS // max(1, n_params)))
    rounds = [Random(i).choices(range(n_vocab), k=PROBE_ROWS) for i in range(n_rounds)]
    context.decode([0, 0], [0, 1], rounds[0][:2], [])
    yield
    rolls_back = context.remove(0, 1)
    context.clear(0)
    if not rolls_back:
        return Kernels((), (yield from _chunk_rule(context, rounds, [PLAIN])), (), False)
    classes = yield from row_classes(context, rounds)
    attention = yield from _attention_classes(context, rounds[0])
    rule = yield from _chunk_rule(context, rounds, CHUNK_RULES)
    side_by_side = rule is not None and (yield from _side_by_side(context, rounds, rule))
    n_verified = yield from _n_verified(context, rounds, rule or PLAIN, rows_of_one_class(classes)[1])
    return Kernels(classes, rule, attention, True, side_by_side, n_verified)


def row_classes(context: Context, rounds: Sequence[Sequence[int]]) -> Steps[RowClasses]:
    """Groups of row counts whose common rows are equal bit for bit, every time. Each row is of another stream."""
    classes: dict[int, tuple[int, ...]] = {}  # of each count, its group in each round
    for tokens in rounds:
        for i, members in enumerate((yield from _row_classes(context, tokens))):
            for n in members:
                classes[n] = (*classes.get(n, ()), i)
    return tuple(tuple(n for n in classes if classes[n] == group) for group in dict.fromkeys(classes.values()))


def _row_classes(context: Context, tokens: Sequence[int]) -> Steps[list[list[int]]]:
    n_streams = context.params.n_streams
    counts = sorted({n for n in ROW_COUNTS if n < n_streams} | {n_streams})
    for stream in range(n_streams):
        first = [tokens[(stream + i) % len(tokens)] for i in range(N_BEFORE)]
        context.decode([stream] * N_BEFORE, range(N_BEFORE), first, [])
        yield
    groups: list[tuple[list[Logits], list[int]]] = []
    for n in counts:
        rows = range(n)
        context.decode(rows, [N_BEFORE] * n, [tokens[-1 - row % len(tokens)] for row in rows], rows)
        logits = [context.logits(row).copy() for row in rows]
        for row in rows:
            context.remove(row, N_BEFORE)
        _sort_in(groups, logits, n)
        yield
    for stream in range(n_streams):
        context.clear(stream)
    return [members for _, members in groups]


def _sort_in(groups: list[tuple[list[Logits], list[int]]], logits: list[Logits], n: int) -> None:
    for known, members in groups:
        if all(np.array_equal(a, b) for a, b in zip(known, logits, strict=False)):
            members.append(n)
            known += logits[len(known) :]
            return
    groups.append((logits, [n]))


def _attention_classes(context: Context, tokens: Sequence[int]) -> Steps[RowClasses]:
    """Does one token of a stream give the same bits as several?"""
    several = yield from _prompt(context, tokens[:8], [8], PLAIN)
    alone = yield from _prompt(context, tokens[:8], [7, 1], PLAIN)
    return ((1, 2),) if _equal(several, alone) else ((1,), (2,))


def _chunk_rule(
    context: Context, rounds: Sequence[Sequence[int]], rules: Sequence[ChunkRule]
) -> Steps[ChunkRule | None]:
    """The first rule under which a prompt is the same in one piece and in many, every time."""
    for rule in rules:
        for tokens in rounds:
            whole = yield from _prompt(context, tokens, [rule.most or context.params.n_rows], rule)
            cut = yield from _prompt(context, tokens, CUTS, rule)
            if not _equal(whole, cut):
                break
        else:
            return rule
    return None


def _side_by_side(context: Context, rounds: Sequence[Sequence[int]], rule: ChunkRule) -> Steps[bool]:
    """Are prompts of several streams that share a decode the same as alone, every time?"""
    params = context.params
    streams = range(min(PROBE_STREAMS, params.n_streams))
    n_each = rule.rows(PROBE_ROWS // len(streams))
    may_share = rule.most is None and len(streams) > 1 and n_each * len(streams) <= params.n_rows
    if not may_share or params.max_outputs >= params.n_rows:
        return False
    for tokens in rounds:
        # Of different lengths, so that there are dummy rows between them.
        prompts = [[*tokens[stream:], *tokens[:stream]][: n_each - stream % 2] for stream in streams]
        alone: list[Bits] = []
        for stream, prompt in enumerate(prompts):
            alone.append((yield from _prompt(context, prompt, [len(prompt)], rule, stream)))
        rows: list[int] = []
        for prompt in prompts:
            rows += [*prompt, *[_DUMMY_TOKEN] * (n_each - len(prompt))]
        ends = [stream * n_each + len(prompt) - 1 for stream, prompt in enumerate(prompts)]
        context.decode(
            [stream for stream in streams for _ in range(n_each)], [*range(n_each)] * len(streams), rows, ends
        )
        are_equal = True
        for stream, prompt in enumerate(prompts):
            context.remove(stream, len(prompt))
            are_equal = are_equal and _equal(alone[stream], (_kv_bits(context, stream), context.logits(ends[stream])))
            context.clear(stream)
        yield
        if not are_equal:
            return False
    return True


def _n_verified(context: Context, rounds: Sequence[Sequence[int]], rule: ChunkRule, needs_pairs: bool) -> Steps[int]:
    """The largest number of tokens of a stream that are the same at once as one by one, every time, as all smaller ones
    are.
    """
    params = context.params
    if params.n_verified < 2 or (needs_pairs and params.n_streams < 2) or rule.most is not None:
        return 0
    counts = sorted({n for n in VERIFIED if n < params.n_verified} | {params.n_verified})
    first = N_BEFORE_VERIFIED
    n_rows = rule.rows(first)
    for tokens in rounds:
        answer = tokens[first : first + counts[-1]]
        context.decode([0] * n_rows, range(n_rows), [*tokens[:first], *[_DUMMY_TOKEN] * (n_rows - first)], [])
        context.remove(0, first)
        alone: list[Bits] = []
        for at, token in enumerate(answer):
            if needs_pairs:
                context.decode([0, 1], [first + at, 0], [token, _DUMMY_TOKEN], [0, 1])
                context.remove(1, 0)
            else:
                context.decode([0], [first + at], [token], [0])
            alone.append((_kv_bits(context, 0), context.logits(0).copy()))
            yield
        for n in counts:
            context.remove(0, first)
            context.decode_verified(0, first, answer[:n])
            are_equal = all(np.array_equal(alone[row][1], context.logits(row)) for row in range(n))
            if not are_equal or not np.array_equal(alone[n - 1][0], _kv_bits(context, 0)):
                counts = [smaller for smaller in counts if smaller < n]
                break
            yield
        context.clear(0)
        if not counts:
            return 0
    return counts[-1]


def _prompt(
    context: Context, tokens: Sequence[int], cuts: Sequence[int], rule: ChunkRule, stream: int = 0
) -> Steps[Bits]:
    """KV rows and last logits of a prompt decoded in chunks of these sizes, the last size repeated."""
    n_done, at = 0, 0
    while n_done < len(tokens):
        chunk = [*tokens[n_done : n_done + min(cuts[at], rule.most or cuts[at])]]
        n, n_dummies = len(chunk), rule.rows(len(chunk)) - len(chunk)
        n_rows = n + n_dummies
        at_end = n_done + n == len(tokens)
        chunk += [_DUMMY_TOKEN] * n_dummies
        outputs = range(n_rows) if context.params.max_outputs >= context.params.n_rows else [n - 1]
        context.decode([stream] * n_rows, range(n_done, n_done + n_rows), chunk, outputs if at_end else [])
        n_done += n
        if n_dummies:
            context.remove(stream, n_done)
        at = min(at + 1, len(cuts) - 1)
        if not at_end:
            yield
    logits = context.logits(n - 1).copy()
    bits = _kv_bits(context, stream)
    context.clear(stream)
    yield
    return bits, logits


def _kv_bits(context: Context, stream: int) -> NDArray[np.uint8]:
    """The KV rows of a stream; empty for memories that order rows as they like."""
    blob = context.state(stream)
    try:
        parse(blob)
    except KvRowsError:
        return np.empty(0, np.uint8)
    return blob


def _equal(a: Bits, b: Bits) -> bool:
    return np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1])


@dataclass(frozen=True, slots=True)
class ThreadSpeeds:
    """by_count: tokens per second of single rows by number of threads. are_quiet: no other work slowed the threads
    down.
    """

    by_count: dict[int, float]
    are_quiet: bool


def measure_threads(
    context: Context,
    counts: Sequence[int],
    clock: Callable[[], float] = perf_counter,
    cpu_clock: Callable[[], float] = process_time,
) -> Steps[ThreadSpeeds]:
    """How fast single rows are decoded with each number of threads. The clocks count seconds."""
    speeds: dict[int, float] = {}
    position = 0
    are_quiet = True
    for n in counts:
        context.set_threads(n)
        seconds: list[float] = []
        cpu_seconds = 0.0
        while len(seconds) < 2 or (len(seconds) <= _TIMED_STEPS and sum(seconds) < _TIMED_SECONDS):
            started, cpu_started = clock(), cpu_clock()
            context.decode([0], [position], [_DUMMY_TOKEN], [])
            seconds.append(clock() - started)
            cpu_seconds += cpu_clock() - cpu_started
            position += 1
            if position == context.params.n_cells:
                context.clear(0)
                position = 0
            yield
        # The first step wakes the threads. The fastest step was the least disturbed by other work on the machine.
        speeds[n] = 1 / max(min(seconds[1:]), 1e-9)
        # Threads of a decode wait for each other without sleeping, so other work got the time that they did not get.
        are_quiet = are_quiet and cpu_seconds >= QUIET_SHARE * n * sum(seconds)
    context.clear(0)
    return ThreadSpeeds(speeds, are_quiet and not are_absurd(speeds))


def are_absurd(speeds: dict[int, float]) -> bool:
    """Is one speed so far below the others that something else than the number of threads explains it?"""
    return min(speeds.values()) * ABSURD < max(speeds.values())


def thread_counts(n_cores: int) -> list[int]:
    """The numbers of threads to try: each one up to 8, beyond that in steps of about a quarter."""
    counts, n = [*range(1, min(n_cores, 8) + 1)], 8
    while n < n_cores:
        n = min(n_cores, n + max(2, n // 4))
        counts.append(n)
    return counts


def best_threads(speeds: dict[int, float]) -> int:
    """The fewest threads that are as fast as any, give or take TIE."""
    fastest = max(speeds.values())
    return min(n for n, speed in speeds.items() if speed >= fastest * (1 - TIE))
