"""What is decoded between two calls of one answer, so that the second finds it: the rest of a prompt, or tokens.

It is nobody's call: nothing is charged, committed or told before the next call hands it out. Of a prompt there are only
KV rows. Of an answer there are tokens, drawn as the next call will draw them.

Whole answers say that their next call comes. Of a client that goes on with an answer call by call it is guessed, where
several chats share steps: its next call is there soon, but not before the step that follows without it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from canister.engine.kv.lookahead import Lookahead
from canister.engine.kv.slots import SlotTable
from canister.engine.request import Ahead, GenerateRequest
from canister.engine.runner import Runner
from canister.engine.task import Task
from canister.flags.params import SamplingParams

LOGITS_BYTES = 4 << 20  # of a chat, for tokens of which nobody was told
MOST_TOKENS = 16
GUESSED_TOKENS = 2  # that are drawn for a call which nobody has announced; all but the last are decoded


def n_lookahead(n_vocab: int) -> int:
    """How many tokens of an answer are decoded ahead, at most."""
    return max(1, min(MOST_TOKENS, LOGITS_BYTES // (4 * n_vocab)))


def may_be_there(task: Task) -> bool:
    """Is it a call of an answer whose prompt goes on, so that its part may be decoded by now?"""
    request = task.request
    return request.ahead is not None and request.want_rows and bool(len(request.prompt))


def hand_out(task: Task, running: Iterable[Task], slot_table: SlotTable, runner: Runner) -> bool:
    """Let a planned call that samples nothing have what was decoded ahead of it, if all of that is there.

    It takes no slot, and what is decoded ahead goes on. So such a call waits for nobody's decode.
    """
    slot = slot_table.slot_of(task.key)
    if slot is None or slot.caller != task.caller:
        return False
    ahead = next((each for each in running if each.is_ahead and each.key == task.key), None)
    if slot.busy and (ahead is None or ahead.placed is not slot):
        return False
    if not runner.hand_out(task.sequence, slot, None if ahead is None else ahead.sequence):
        return False
    task.outcome = task.sequence.result
    if task.sampler is not None:
        task.sampler.close()
    return True


def task_ahead(task: Task, n_tokens: int, *, may_guess: bool) -> Task | None:
    """What to decode after a call that has ended, if its answer goes on. may_guess: also if nobody has said so."""
    calls = task.request.ahead
    if calls is None and may_guess and _may_go_on(task):
        return _answer_ahead(task, Ahead(is_guess=True), min(n_tokens, GUESSED_TOKENS))
    if calls is None or calls.is_over:
        return None
    return _prompt_ahead(task, calls) if len(task.sequence.rest()) else _answer_ahead(task, calls, n_tokens)


def _may_go_on(task: Task) -> bool:
    """Did the call itself go on with an answer, so that another one may follow it in the same way?"""
    request = task.request
    return request.key is not None and request.keep and not len(request.prompt)


def _prompt_ahead(task: Task, calls: Ahead) -> Task | None:
    sequence, rest = task.sequence, task.sequence.rest()
    is_cut = sequence.finished in ("instructions", "length", "time") and not sequence.result.sampled
    if not is_cut or sequence.is_scored or len(task.slot.tokens) >= sequence.n_done + len(rest):
        return None
    wanted = replace(_here(task, calls), prompt=rest, n_predict=0)
    return Task(wanted, task.loop, task.done, is_ahead=True)


def _answer_ahead(task: Task, calls: Ahead, n_tokens: int) -> Task | None:
    """It takes over the call's sampler, which is in the state in which the next call begins."""
    request, sequence = task.request, task.sequence
    if not sequence.ends_before_a_draw or request.context_shift or task.slot.ahead is not None:
        return None  # it is over, or there still is some
    if request.n_predict >= 0:
        n_tokens = min(n_tokens, request.n_predict - len(sequence.result.sampled))
    if n_tokens <= 0:
        return None
    n_before = request.n_continued
    wanted = replace(
        _here(task, calls),
        sampling=request.sampling,
        n_draws=sequence.result.n_draws,
        n_continued=None if n_before is None else n_before + sequence.result.n_generated,
        n_predict=n_tokens,
        decodes_end=False,
    )
    sampler, task.sampler = task.sampler, None
    return Task(wanted, task.loop, task.done, None, sampler, is_ahead=True, found=Lookahead(calls))


def _here(task: Task, calls: Ahead) -> GenerateRequest:
    """A request that goes on where a call has ended."""
    request, (tokens, generated, starts) = task.request, task.sequence.held()
    return GenerateRequest(
        request.key,
        request.caller,
        tokens.copy(),
        generated.copy(),
        task.sequence.rest()[:0],
        SamplingParams(),
        request.seed,
        ahead=calls,
        prefix_starts=starts.copy(),
        want_rows=False,
    )
