"""The documentation of the door's routes: rows from which docs/openai.md and the OpenAPI document are made.

Each dialect has its rows in `OPERATIONS`, beside its routes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel


@dataclass(frozen=True, slots=True)
class Operation:
    """One verb of one path. name: unique. body: the fields of the request's JSON object, where they are told; example:
    such an object, None: the request has no body.

    streams: the media type of an answer that comes piece by piece; "" for none. differs: from the interface that it is
    made after, a sentence each.
    """

    verb: str
    path: str
    name: str
    summary: str
    body: type[BaseModel] | None = None
    example: Mapping[str, object] | None = None
    streams: str = ""
    differs: tuple[str, ...] = ()
