"""What the routes of all doors share: any HTTP verb, any text in a path.

Every path accepts every verb, so that a wrong verb gets a reject that names the right ones.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import Request, Response
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.routing import Route

from canister.server import answers

ANY_VERB = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
READ_VERBS = ("GET", "HEAD")


class _AnyText(PathConvertor):
    """The rest of a path, including line breaks. `path` stops at them, and no door would answer."""

    regex = r"[\s\S]*"


register_url_convertor("any", _AnyText())


def page(path: str, endpoint: Callable[[Request], Awaitable[Response]]) -> Route:
    """A path that is only read."""

    async def answer(request: Request) -> Response:
        if request.method not in READ_VERBS:
            return answers.wrong_verb(f"{path} is read with GET, not {request.method}", ", ".join(READ_VERBS))
        return await endpoint(request)

    return Route(path, answer, methods=ANY_VERB)
