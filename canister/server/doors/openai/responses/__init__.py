"""OpenAI's Responses: stored answers, as objects and as numbered events that can be read again."""

from canister.server.doors.openai.responses.operations import OPERATIONS
from canister.server.doors.openai.responses.routes import routes

__all__ = ["OPERATIONS", "routes"]
