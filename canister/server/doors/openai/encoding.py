"""JSON as the door sends it: compact. Halves of surrogate pairs, which have no bytes, become question marks."""

from __future__ import annotations

import json

dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def encoded(content: object) -> bytes:
    return dumps(content).encode("utf-8", "replace")


def sse(content: object, event: str = "") -> bytes:
    """One server-sent event. event: its name; "" for none."""
    name = f"event: {event}\n".encode() if event else b""
    return name + b"data: " + encoded(content) + b"\n\n"
