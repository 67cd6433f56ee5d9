"""A kept answer as bytes, which another server can have as if it had made it. What is no such copy is BadArgument."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Any, cast

from canister.errors import BadArgument
from canister.ic import cbor
from canister.state.answers import KeptAnswer, KeptCall, StoredRequest

_ASKED = tuple(field.name for field in fields(StoredRequest))


def encode(kept: KeptAnswer, calls: list[KeptCall]) -> bytes:
    return cbor.encode(
        {
            "asked": asdict(kept.asked),
            "status": kept.status,
            "error": None if kept.error is None else json.dumps(kept.error),
            "ended_ns": kept.ended_ns,
            "calls": [[call.choice, call.number, call.tokens, json.dumps(call.taken)] for call in calls],
        }
    )


def decode(data: bytes) -> tuple[KeptAnswer, list[KeptCall]]:
    try:
        told = cast("Any", cbor.decode(data))
        asked = StoredRequest(**{name: told["asked"][name] for name in _ASKED})
        error = None if told["error"] is None else json.loads(told["error"])
        calls = [KeptCall(choice, number, tokens, json.loads(taken)) for choice, number, tokens, taken in told["calls"]]
        return KeptAnswer(asked, told["status"], error, told["ended_ns"]), calls
    except (ValueError, KeyError, TypeError) as fault:
        raise BadArgument(f"this is no copy of a kept answer: {fault!r}") from None
