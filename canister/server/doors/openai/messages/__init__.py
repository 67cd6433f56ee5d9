"""Anthropic's Messages: `POST /v1/messages` and `/v1/messages/count_tokens`."""

from canister.server.doors.openai.messages.routes import OPERATIONS, routes

__all__ = ["OPERATIONS", "routes"]
