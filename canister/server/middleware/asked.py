"""A request, as what looks at it before its door sees it and may change it."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope


class Asked:
    """headers: by name, the first of each name, since most have one.

    scope, receive: what its door gets. over: to be called when it has been answered; None: nothing is to be done.
    """

    __slots__ = ("headers", "over", "receive", "scope")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self.receive = receive
        self.headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))
        self.over: Callable[[], None] | None = None

    def header(self, name: bytes) -> str | None:
        """The first header of this name, which is in lower case."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    def all_of(self, name: bytes) -> list[str]:
        """All headers of this name."""
        if name not in self.headers:
            return []
        return [value.decode("latin-1") for other, value in self.scope["headers"] if other == name]


Check = Callable[[Asked], ASGIApp | None]
"""Looks at a request, may change it, and returns what answers it instead of its door; None: it may go on."""
