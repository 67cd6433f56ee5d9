"""Models in Anthropic's form, which its clients ask for at the path of OpenAI's. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from pydantic import JsonValue

from canister.dispatch import ModelView


def page(views: Sequence[ModelView]) -> dict[str, JsonValue]:
    """All of them: there is no second page."""
    return {
        "data": [described(view) for view in views],
        "has_more": False,
        "first_id": views[0].name if views else None,
        "last_id": views[-1].name if views else None,
    }


def described(view: ModelView) -> dict[str, JsonValue]:
    created = datetime.fromtimestamp(view.created, UTC)
    return {
        "type": "model",
        "id": view.name,
        "display_name": view.name,
        "created_at": f"{created:%Y-%m-%dT%H:%M:%SZ}",
        "max_input_tokens": view.n_ctx,
    }
