"""Ollama's interface: chats and texts as lines of JSON, and its views of models."""

from canister.server.doors.openai.ollama.routes import OPERATIONS, routes

__all__ = ["OPERATIONS", "routes"]
