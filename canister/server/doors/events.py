"""What happens at a canister, for who watches it.

    GET /canisters/{canister}/events?since=ID   lines of JSON, at each commit and once a second where something is new
    GET /canisters/{canister}/events?since=ID&stream=false   the line that such a stream begins with, alone
    GET /canisters/{canister}/logs?since=INDEX  the last lines of its log, for its controllers

A line of events: {"at": ID, "calls": […], "missed": N, "engine": {…}, "work": {…}}, or {"end": true} at the end of the
server. `at` is the id of the last logged call: who comes again gives it as `since`, and misses none. Callers get their
own calls, admins those of all and the state of the engine, controllers also what runs and waits. What may not be seen
is left out. Where something between browser and server holds streams back, one asks for a line at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any, cast

from fastapi import Request, Response
from pydantic import TypeAdapter
from starlette.responses import StreamingResponse
from starlette.routing import Route

from canister.api import management, methods
from canister.api.management import FetchLogsRecord, LogFilter, LogRange, LogsRecord
from canister.api.records import CallLogEntry, CallLogInput
from canister.errors import BadArgument, CallerBusy, CanisterError, Trap
from canister.server import answers
from canister.server.requests import caller, dispatcher
from canister.server.verbs import page

if TYPE_CHECKING:
    from canister.dispatch import Dispatcher, Reply, Target

STEP_SECONDS = 0.25  # in which the end of the server is noticed
STEPS = 4  # from one look to the next, while no call is logged
LEAST_SECONDS = 0.1  # from one look to the next, however many calls are logged
QUIET_SECONDS = 15.0  # after which a line comes although nothing is new, so that a dead connection is noticed
MOST_CALLS = 200  # in a line; more of them are counted as missed
MAX_PER_CALLER = 16  # streams at once
LARGEST = 2**63 - 1

_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # proxies must hand on each line as it comes
_ENTRIES = TypeAdapter(list[CallLogEntry])
_open: Counter[str] = Counter()


def routes() -> list[Route]:
    return [page("/canisters/{canister}/events", events), page("/canisters/{canister}/logs", log_lines)]


async def events(request: Request) -> Response:
    """The stream. Errors of its first look are a plain answer."""
    behind = dispatcher(request)
    target = behind.find(request.path_params["canister"])
    who = caller(request)
    since = _number(request, "since")
    if _open[who] >= MAX_PER_CALLER:
        raise CallerBusy(f"this caller watches {MAX_PER_CALLER} times already; close a page of the console")
    newest = await _newest(target, who, 1)
    if newest.error is not None:
        return answers.error(newest)
    at = since if since is not None else max((entry.id for entry in _entries(newest)), default=0)
    request.state.is_look = True  # a watcher is no news
    if not _is_stream(request):
        return answers.document(await _look(target, who, at), headers={"Cache-Control": "no-store"})
    if request.method == "HEAD":
        return Response(headers=_HEADERS, media_type=answers.LINES)
    return StreamingResponse(_lines(behind, target, who, at), headers=_HEADERS, media_type=answers.LINES)


async def log_lines(request: Request) -> Response:
    """index: of the log of this run of the server; a smaller one than before is of another run."""
    target = dispatcher(request).find(request.path_params["canister"])
    start = _number(request, "since")
    wanted = LogFilter(by_idx=LogRange(start=0 if start is None else start + 1, end=LARGEST))
    arg = FetchLogsRecord(canister_id=target.id, filter=wanted)
    method = management.find_method("fetch_canister_logs", "query")
    reply = await target.execute(method, caller(request), lambda: arg)
    if reply.error is not None:
        return answers.error(reply)
    assert isinstance(reply.value, LogsRecord)
    request.state.is_look = True
    lines = [
        {"index": line.idx, "time_ns": line.timestamp_nanos, "text": line.content.decode("utf-8", "replace")}
        for line in reply.value.canister_log_records
    ]
    return answers.document({"lines": lines}, headers={"Cache-Control": "no-store"})


async def _lines(behind: Dispatcher, target: Target, who: str, at: int) -> AsyncGenerator[bytes]:
    _open[who] += 1
    try:
        async with aclosing(_looks(behind, target, who, at)) as looks:
            async for look in looks:
                yield answers.json_bytes(look)
        yield answers.json_bytes({"end": True})
    finally:
        _open[who] -= 1
        if not _open[who]:
            del _open[who]


async def _looks(behind: Dispatcher, target: Target, who: str, at: int) -> AsyncGenerator[dict[str, Any]]:
    """One at each commit and one a second where something is new, until the server ends."""
    before: dict[str, Any] = {}
    told = 0.0
    n_logged = await target.wait_for_call(-1, 0)
    while not behind.is_draining:
        look = await _look(target, who, at)
        at = look["at"]
        is_news = bool(look["calls"]) or _facts(look) != _facts(before)
        if is_news or time.monotonic() - told >= QUIET_SECONDS:
            told = time.monotonic()
            yield look
        before = look
        await asyncio.sleep(LEAST_SECONDS)
        for _ in range(STEPS):
            n_before = n_logged
            if behind.is_draining or (n_logged := await target.wait_for_call(n_before, STEP_SECONDS)) != n_before:
                break


async def _look(target: Target, who: str, at: int) -> dict[str, Any]:
    calls: list[dict[str, Any]] = []
    n_missed = 0
    with suppress(CanisterError, Trap):  # busy: the next look has it
        calls, n_missed = await _since(target, who, at)
    missed = {"missed": n_missed} if n_missed else {}
    now = {"engine": await _seen(target.inspect_engine(who)), "work": await _seen(target.inspect_calls(who))}
    seen = {name: of for name, of in now.items() if of is not None}
    return {"at": max((call["id"] for call in calls), default=at), "calls": calls, **missed, **seen}


def _facts(look: dict[str, Any]) -> dict[str, Any]:
    """Without what changes by itself while nothing happens."""
    engine = dict(look.get("engine") or {})
    for name in ("uptime_seconds", "devices"):  # the memory that is free
        engine.pop(name, None)
    return {"engine": engine, "work": look.get("work")}


async def _since(target: Target, who: str, at: int) -> tuple[list[dict[str, Any]], int]:
    """Logged calls behind an id, oldest first, and how many between were too many to tell of."""
    newest = _entries(await _newest(target, who, 1))
    if not newest or newest[0].id <= at:
        return [], 0
    found = [entry for entry in _entries(await _newest(target, who, MOST_CALLS + 1)) if entry.id > at]
    shown = found[:MOST_CALLS]
    documents: list[dict[str, Any]] = _ENTRIES.dump_python(shown[::-1], mode="json", by_alias=True)
    return documents, len(found) - len(shown)


async def _newest(target: Target, who: str, n: int) -> Reply:
    return await target.execute(methods.BY_NAME["get_call_log"], who, lambda: CallLogInput(max_entries=n))


def _entries(reply: Reply) -> list[CallLogEntry]:
    return [] if reply.error is not None else cast("list[CallLogEntry]", reply.value)


async def _seen(look: Awaitable[Reply]) -> dict[str, object] | None:
    """None: this caller may not see it, or it cannot be seen now."""
    try:
        reply = await look
    except (CanisterError, Trap):
        return None
    return reply.value if reply.error is None and isinstance(reply.value, dict) else None


def _is_stream(request: Request) -> bool:
    text = request.query_params.get("stream", "true")
    if text not in ("true", "false"):
        raise BadArgument(f"?stream= takes true or false, not {text[:40]!r}")
    return text == "true"


def _number(request: Request, name: str) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and int(text[:30]) <= LARGEST):
        raise BadArgument(f"?{name}= takes the number that the last answer ended with, not {text[:40]!r}")
    return int(text)
