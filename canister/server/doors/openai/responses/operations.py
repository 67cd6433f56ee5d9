"""The documentation of the routes of Responses."""

from __future__ import annotations

from canister.server.doors.openai.operations import Operation
from canister.server.doors.openai.responses.fields import ResponsesBody
from canister.server.doors.openai.stream import SSE

OPERATIONS = (
    Operation(
        "POST",
        "/v1/responses",
        "create_response",
        "An answer that is stored, whole or as it comes, or made in the background.",
        streams=SSE,
        example={"model": "llama_cpp", "input": "Who are you?", "max_output_tokens": 16},
        body=ResponsesBody,
        differs=(
            "Input is text: images, audio and files are refused with 400. Tools that are not functions are skipped, "
            "and so are items of tools that a provider runs.",
            "Every stored answer can be gone on with by `GET …?stream=true&starting_after=N`, not only one of the "
            "background: after a crash of the server too. One that its client left, and that nobody goes on with, is "
            "`incomplete`.",
            "Thoughts are items of type `reasoning` with `reasoning_text`; there are no summaries.",
            "`conversation` and `prompt` are refused with 400; `truncation` is always `disabled`.",
            "A stream of an answer that was cancelled ends with `response.incomplete`, whose response is `cancelled`.",
            "`usage` also tells `instructions`, `cycles`, `calls` and `receipts`, the ids of their receipts.",
        ),
    ),
    Operation("GET", "/v1/responses/{id}", "get_response", "A stored answer, or its events."),
    Operation("DELETE", "/v1/responses/{id}", "delete_response", "Forget a stored answer."),
    Operation("POST", "/v1/responses/{id}/cancel", "cancel_response", "Make no more of an answer."),
    Operation("GET", "/v1/responses/{id}/input_items", "list_response_input", "What a stored answer was made of."),
    Operation(
        "POST",
        "/v1/responses/input_tokens",
        "count_response_tokens",
        "How many tokens the prompt of such a request has.",
        example={"model": "llama_cpp", "input": "Who are you?"},
    ),
)
