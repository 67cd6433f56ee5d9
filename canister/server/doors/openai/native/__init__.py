"""llama.cpp's own routes, for clients of llama-server."""

from starlette.routing import Route

from canister.server.doors.openai.native import completions, server, tokens

OPERATIONS = (*completions.OPERATIONS, *tokens.OPERATIONS, *server.OPERATIONS)


def routes() -> list[Route]:
    return [*completions.routes(), *tokens.routes(), *server.routes()]
