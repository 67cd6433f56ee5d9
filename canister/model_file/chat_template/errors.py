"""What is wrong with a template, or with messages for it."""

from __future__ import annotations

from canister.errors import BadRequest


class TemplateError(BadRequest):
    """The template cannot be read, fails, or refuses the messages; the message says which."""
