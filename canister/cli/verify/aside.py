"""Decodes calls again in a child process: a model file may crash llama.cpp, and then the verifier says so and goes on.

Where it crashes, it is tried once more without llama.cpp's extra buffers, as a server does that finds them broken.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from canister.cli.verify.verdict import Verdict
from canister.errors import CanisterError
from canister.ic.receipts.document import read_terms

Found = list[list[tuple[str, list[str]]]]
"""Of each verdict of each group: what is told of its tokens, and its faults."""

Work = Callable[[Path, Sequence[Sequence[Verdict]], bool, bool], Found]


def decoded(file: Path, groups: Sequence[Sequence[Verdict]], one_by_one: bool, extra_buffers: bool) -> Found:
    """Decode the calls of each group, which have the same terms of the engine, in this process."""
    asyncio.run(_decode(file, groups, one_by_one, extra_buffers))
    return [[(verdict.tokens, verdict.faults) for verdict in group] for group in groups]


def judge_aside(
    file: Path, groups: Sequence[Sequence[Verdict]], *, one_by_one: bool, work: Work = decoded
) -> str | None:
    """Fill in what was found about the tokens. Returns a sentence where a child has crashed; None: none has."""
    first = _in_child(work, file, groups, one_by_one, True)
    found = first if not isinstance(first, str) else _in_child(work, file, groups, one_by_one, False)
    if isinstance(found, str):
        for group in groups:
            for verdict in group:
                verdict.tokens = f"not decoded again: llama.cpp crashed ({found}) with this model file, twice"
        return f"llama.cpp crashed ({found}) when it decoded with {file.name}: nothing is said about tokens"
    for group, rows in zip(groups, found, strict=True):
        for verdict, (tokens, faults) in zip(group, rows, strict=True):
            verdict.tokens, verdict.faults = tokens, faults
    if isinstance(first, str):
        return f"llama.cpp crashed ({first}) when it decoded with {file.name}, and did not without extra buffers"
    return None


def _in_child(
    work: Work, file: Path, groups: Sequence[Sequence[Verdict]], one_by_one: bool, extra_buffers: bool
) -> Found | str:
    """What the child has found, or how it ended without."""
    context = multiprocessing.get_context("spawn")  # a fork would copy threads of llama.cpp that are none there
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(there, work, file, groups, one_by_one, extra_buffers), daemon=True)
    child.start()
    there.close()
    try:
        found: Found | Exception = here.recv()
    except EOFError:
        child.join()
        return _told_end(child.exitcode)
    finally:
        here.close()
    child.join()
    if isinstance(found, Exception):
        raise found
    return found


def _answer(
    there: Connection,
    work: Work,
    file: Path,
    groups: Sequence[Sequence[Verdict]],
    one_by_one: bool,
    extra_buffers: bool,
) -> None:
    try:
        there.send(work(file, groups, one_by_one, extra_buffers))
    except Exception as error:  # told where it can be shown
        there.send(error)


def _told_end(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    return signal.Signals(-code).name


async def _decode(file: Path, groups: Sequence[Sequence[Verdict]], one_by_one: bool, extra_buffers: bool) -> None:
    from canister.cli.verify.replays import Replayer

    for group in groups:
        first = group[0].proven
        assert first is not None
        engine = read_terms(first.receipt.terms)["engine"]
        assert isinstance(engine, dict)
        terms = {str(name): value for name, value in engine.items()}
        try:
            replayer = Replayer(file, terms, extra_buffers=extra_buffers)
            try:
                await replayer.judge(group, one_by_one=one_by_one)
            finally:
                await replayer.close()
        except CanisterError as error:
            _tell_all(group, str(error))
        except Exception as error:  # whoever wrote the terms: the calls of others are looked at all the same
            _tell_all(group, f"its terms cannot be used ({type(error).__name__}: {error})"[:500])


def _tell_all(group: Sequence[Verdict], why: str) -> None:
    for verdict in group:
        verdict.tokens = f"not decoded again: {why}"
