"""What `canister status` shows: a report as a page in the manner of icp, and the same in a few lines.

A report is the management canister's answer, with the server's report on the model as `engine`. The page shows all of
it. The rows of SHORT choose what a person looks for first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

Report: TypeAlias = Mapping[str, Any]

_HEAD = ("id", "name", "settings", "engine", "status")


def as_page(report: Report) -> str:
    """A title with its value per line, parts of a part set in; the model comes before settings and zeros."""
    lines = [f"Canister Id: {report['id']}", f"Canister Name: {report['name']}", "Canister Status Report:"]
    parts: dict[str, Any] = {name: report[name] for name in ("status", "engine") if name in report}
    parts |= report["settings"] | {name: value for name, value in report.items() if name not in _HEAD}
    return "\n".join([*lines, *_lines(parts, "  ")])


def settings_page(report: Report) -> str:
    """The settings alone."""
    return "\n".join([f"Canister Id: {report['id']}", *_lines(report["settings"], "")])


def _lines(values: Mapping[str, Any], indent: str) -> list[str]:
    lines = []
    for name, value in values.items():
        title = f"{indent}{name.replace('_', ' ').capitalize()}:"
        match value:
            case dict():
                lines += [title, *_lines(value, indent + "  ")]
            case list():
                lines.append(f"{title} {', '.join(map(str, value)) or 'none'}")
            case int() if not isinstance(value, bool):
                lines.append(f"{title} {value:_}")
            case None:
                lines.append(f"{title} none")
            case _:
                lines.append(f"{title} {value}")
    return lines


def as_few_lines(report: Report) -> str:
    """The rows of SHORT that have something to say."""
    engine = report.get("engine")
    lines = [f"{report['name']} ({report['id']}): {_running(report)}"]
    if engine is None:
        lines.append(f"controllers  {', '.join(report['settings']['controllers'])}")
        lines.append("Only who controls it, or is its admin, is told of its model.")
        return "\n".join(lines)
    for title, told in SHORT:
        text = told(engine)
        if text is not None:
            lines.append(f"{title:<12} {text}")
    return "\n".join(lines)


def _running(report: Report) -> str:
    status = str(report.get("status", "it is there")).lower()
    seconds = report.get("engine", {}).get("uptime_seconds")
    return status if seconds is None else f"{status}, up for {duration(seconds)}"


def duration(seconds: int) -> str:
    """`4 s`, `12 min`, `3 h 5 min`, `9 d 4 h`."""
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{seconds} s"


def size(n_bytes: int) -> str:
    """`871 bytes`, `2.4 MB`, `5.03 GB`."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "KB")):
        if n_bytes >= unit:
            return f"{n_bytes / unit:.3g} {name}"
    return f"{n_bytes} bytes"


# -- the rows


def _model(engine: Report) -> str:
    if engine["model"] is None:
        reason = engine.get("reason") or "none"
        if reason != "none":
            return f"none is loaded: {reason}"
        return "none is loaded; canister upload FILE puts one in, canister models load NAME loads it"
    file = engine.get("file") or {}
    n_bytes = file.get("bytes")
    return f"{file.get('name')}{'' if n_bytes is None else f', {size(n_bytes)}'}: {engine['model']}"


def _context(engine: Report) -> str | None:
    memory = engine.get("memory")
    if memory is None:
        return None
    return f"{memory['context']:,} tokens a chat, KV {'/'.join(memory['kv_types'])}; {memory['slots']} slots"


def _memory(engine: Report) -> str | None:
    return "; ".join((engine.get("memory") or {}).get("notes") or ()) or None


def _exact(engine: Report) -> str | None:
    exact = engine.get("exact")
    return None if exact is None else f"{'yes' if exact['is_exact'] else 'no'}: {exact['why']}"


def _devices(engine: Report) -> str | None:
    """Which devices compute the model and what memory they have, and what was asked of them for nothing."""
    found = engine.get("devices") or {}
    told = [*found.get("notes", ())]
    if found.get("gpu_layers"):
        free = (
            f"{size(one['free_bytes'])} of {size(one['total_bytes'])} free"
            for one in found["memory"].values()
            if one["kind"] in ("gpu", "igpu")
        )
        told.insert(0, f"{found['gpu_layers']} layers on {', '.join(found['computing'])}: {', '.join(free)}")
    return "; ".join(told) or None


def _drafts(engine: Report) -> str | None:
    """Which model guesses tokens and how many were right, or why it does not; nothing where there is none."""
    found, total = engine.get("speculation") or {}, engine.get("total") or {}
    told = [*found.get("notes", ())]
    if found.get("draft_model"):
        drafted, accepted = total.get("drafted_tokens", 0), total.get("accepted_tokens", 0)
        told.insert(0, f"guessed by {found['draft_model']}; {accepted:,} of {drafted:,} drafted tokens were right")
    return "; ".join(told) or None


def _threads(engine: Report) -> str | None:
    threads = engine.get("threads")
    return None if threads is None else f"{threads['count']}: {threads['why']}"


def _llama_cpp(engine: Report) -> str | None:
    """What is switched off in llama.cpp here, and what a rebuild would give; nothing where all is well."""
    found = engine.get("llama_cpp") or {}
    return "; ".join([*found.get("switched_off", ()), *filter(None, [found.get("advice")])]) or None


def _limits(engine: Report) -> str | None:
    limits = engine.get("limits")
    if limits is None:
        return None
    tokens, instructions = (
        f"{_amount(limits[update], what)}, {_amount(limits[query], 'in queries')}"
        for what, update, query in (
            ("tokens", "max_tokens_update", "max_tokens_query"),
            ("instructions", "instruction_limit", "query_instruction_limit"),
        )
    )
    return f"of a call: {tokens}; {instructions}"


def _amount(limit: int | None, of: str) -> str:
    return f"{limit:,} {of}" if limit else f"any number {of}" if of == "in queries" else f"any number of {of}"


def _access(engine: Report) -> str | None:
    access = engine.get("access")
    return None if access is None else f"{access['level']}: {access['who'].lower()} may chat"


def _now(engine: Report) -> str | None:
    now = engine.get("now")
    if now is None:
        return None
    return f"{now['running']} calls decode, {now['waiting']} wait; {now['resident']} chats in slots"


SHORT: tuple[tuple[str, Callable[[Report], str | None]], ...] = (
    ("model", _model),
    ("llama.cpp", _llama_cpp),
    ("context", _context),
    ("memory", _memory),
    ("exact", _exact),
    ("devices", _devices),
    ("threads", _threads),
    ("drafts", _drafts),
    ("limits", _limits),
    ("access", _access),
    ("now", _now),
)
"""Title and text of each line; None: there is nothing to say of it."""
