"""What OpenAI's own SDK takes for an event and an object of Responses."""

from __future__ import annotations

import typing
from collections.abc import Iterable
from typing import Any

import pydantic
from openai.types.responses import Response, ResponseStreamEvent

_CLASSES: dict[str, type[pydantic.BaseModel]] = {
    typing.get_args(cls.model_fields["type"].annotation)[0]: cls
    for cls in typing.get_args(typing.get_args(ResponseStreamEvent)[0])
}


def check_event(event: dict[str, Any]) -> None:
    """Raises pydantic's ValidationError for an event that is none of the SDK's."""
    _CLASSES[event["type"]].model_validate(event)


def check_events(events: Iterable[dict[str, Any]]) -> None:
    """All of an answer: of the SDK's types, numbered from 0 without a gap."""
    for number, event in enumerate(events):
        assert event["sequence_number"] == number
        check_event(event)


def check_object(response: dict[str, Any]) -> Response:
    return Response.model_validate(response)
