"""`POST /v1/embeddings`: vectors of texts. `/embedding` and a body with `content` get llama.cpp's own form."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import Request, Response
from pydantic import Field, JsonValue
from starlette.routing import Route

from canister.api import strict_json
from canister.dispatch import Embedded, TextRefused, TextTooLong
from canister.errors import ContextExceeded
from canister.server.answers import JSON
from canister.server.doors.openai import door
from canister.server.doors.openai.door import Model
from canister.server.doors.openai.errors import invalid, too_long
from canister.server.doors.openai.fields import Body, Text, Whole
from canister.server.doors.openai.native.prompts import prompts_of
from canister.server.doors.openai.operations import Operation
from canister.server.requests import while_connected

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float32]

MAX_TEXTS = 2048
VALUES_AT_ONCE = 4096  # that are written on the event loop

Encoding = Literal["float", "base64"]
Given = str | tuple[int, ...]


class EmbeddingsBody(Body):
    model: Text | None = Field(None, description="A canister's name; absent: the first.")
    input: JsonValue = Field(None, description="A text, tokens, or a list of these.")
    content: JsonValue = Field(None, description="The same, for llama.cpp's own form of an answer.")
    encoding_format: Encoding = Field("float", description="float, or base64 of 32-bit floats.")
    dimensions: Annotated[Whole, Field(ge=1)] | None = Field(
        None, description="Of each vector, at most the model's: the rest is cut off, and the length is 1 again."
    )
    embd_normalize: Annotated[Whole, Field(ge=-1, le=64)] = Field(
        2, description="llama.cpp's form alone: the norm that is 1. -1: none, 0: largest value 32760."
    )


OPERATIONS = (
    Operation(
        "POST",
        "/v1/embeddings",
        "embeddings",
        "Vectors of texts, of length 1, by a canister with an embedding model.",
        body=EmbeddingsBody,
        example={"input": ["The cat sat on the mat.", "What did the cat do?"]},
        differs=(
            "A text that is too long is refused with `context_length_exceeded`, never cut off; an empty one with 400. "
            "Models that continue texts answer 501.",
            "`dimensions` cuts vectors of any model, and gives them length 1 again: that makes sense for models that "
            "were trained for it.",
            "Special tokens in a text, such as `[SEP]`, are tokens, as with llama.cpp's server.",
            "`usage` also has `instructions`, `cycles` and `calls`.",
        ),
    ),
    Operation(
        "POST",
        "/embedding",
        "embed_texts",
        "llama.cpp's own form: `[{index, embedding: [[…]]}]`.",
        body=EmbeddingsBody,
        example={"content": "The cat sat on the mat."},
        differs=("Not with `/v1`. At `/embeddings` a body with `content` gets this form, one with `input` OpenAI's.",),
    ),
)


def routes() -> list[Route]:
    native = [door.at(prefix + "/embedding", {"POST": create_native}) for prefix in ("", door.PREFIX)]
    return [*door.route("/v1/embeddings", {"POST": create}), *native]


async def create(request: Request) -> Response:
    body = await door.body_of(request, EmbeddingsBody)
    if body.has("content") and not body.has("input"):
        return await _native(request, body)
    model = door.model_of(request, body.model)
    with door.counted(model, "embeddings"):
        is_large = strict_json.is_large(body.input)
        texts = await door.beside_loop(is_large, lambda: texts_of(body.input))
        return await while_connected(request, _answer(model, body, texts))


async def create_native(request: Request) -> Response:
    return await _native(request, await door.body_of(request, EmbeddingsBody))


async def _answer(model: Model, body: EmbeddingsBody, texts: Sequence[Given]) -> Response:
    check_dimensions(body.dimensions, model.view.n_embd)
    made = await embedded(model, texts)

    def written() -> bytes:
        vectors = [cut(vector, body.dimensions) for vector in made.normalized()]
        data = (_item(index, vector, body.encoding_format) for index, vector in enumerate(vectors))
        n_tokens = sum(made.n_tokens)
        usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens, **_costs(made)}
        head = f'{{"object":"list","model":{json.dumps(model.view.name)},"usage":{json.dumps(usage)},"data":['
        return (head + ",".join(data) + "]}").encode()

    return await _written(written, made)


async def _native(request: Request, body: EmbeddingsBody) -> Response:
    field = "content" if body.has("content") or not body.has("input") else "input"
    given = body.content if field == "content" else body.input
    is_large = strict_json.is_large(given)
    texts = await door.beside_loop(is_large, lambda: _native_texts(given, field))
    model = door.model_of(request, body.model)

    async def answer() -> Response:
        made = await embedded(model, texts, field)

        def written() -> bytes:
            vectors = [scaled(vector, body.embd_normalize) for vector in made.vectors]
            items = (f'{{"index":{i},"embedding":[{numbers(vector)}]}}' for i, vector in enumerate(vectors))
            return ("[" + ",".join(items) + "]").encode()

        return await _written(written, made)

    with door.counted(model, "embedding"):
        return await while_connected(request, answer())


async def embedded(model: Model, texts: Sequence[Given], field: str = "input", *, truncates: bool = False) -> Embedded:
    """The vectors. DoorError names the text, as a part of the field."""
    try:
        return await model.canister.embed(model.caller, texts, truncates=truncates)
    except TextTooLong as error:
        raise too_long(error.n_prompt_tokens, error.n_ctx, _place(field, error.index, len(texts))) from None
    except TextRefused as error:
        place = _place(field, error.index, len(texts))
        raise invalid(f"{place}: {error}", place) from None
    except ContextExceeded as error:
        raise too_long(error.n_prompt_tokens, error.n_ctx, field) from None


# -- requests


def texts_of(value: JsonValue, field: str = "input") -> list[Given]:
    """The texts: "text", [1, 2], ["text", …], [[1, 2], …]. Pure. DoorError names the field."""
    if isinstance(value, str):
        return [_text(value, field)]
    if not isinstance(value, list):
        raise invalid(f"{field}: a text, a list of tokens, or a list of these is wanted", field)
    if not value:
        raise invalid(f"{field}: it is empty", field)
    if isinstance(value[0], int):
        return [_tokens(value, field)]
    if len(value) > MAX_TEXTS:
        raise invalid(f"{field}: at most {MAX_TEXTS} texts are taken at once (given: {len(value)})", field)
    return [_either(item, f"{field}[{index}]") for index, item in enumerate(value)]


def _either(value: JsonValue, field: str) -> Given:
    if isinstance(value, str):
        return _text(value, field)
    if isinstance(value, list):
        return _tokens(value, field)
    raise invalid(f"{field}: a text or a list of tokens is wanted", field)


def _text(value: str, field: str) -> str:
    if not value:
        raise invalid(f"{field}: the text is empty", field)
    return value


def _tokens(value: Sequence[JsonValue], field: str) -> tuple[int, ...]:
    if not value:
        raise invalid(f"{field}: the list of tokens is empty", field)
    found: list[int] = []
    for token in value:
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < 2**31:
            raise invalid(f"{field}: a token is its number, a whole one", field)
        found.append(token)
    return tuple(found)


def _native_texts(value: JsonValue, field: str) -> list[Given]:
    if value is None:
        raise invalid(f"{field} is missing", field)
    prompts, is_list = prompts_of(value, field)
    texts: list[Given] = []
    for index, prompt in enumerate(prompts):
        place = f"{field}[{index}]" if is_list else field
        if isinstance(prompt, str):
            texts.append(_text(prompt, place))
        elif len(prompt) == 1 and isinstance(prompt[0], str):
            texts.append(_text(prompt[0], place))
        else:
            texts.append(_tokens([*prompt], place))
    return texts


def check_dimensions(dimensions: int | None, n_embd: int) -> None:
    """DoorError for more than there are."""
    if dimensions is not None and dimensions > n_embd:
        raise invalid(f"dimensions: the model's vectors have {n_embd} (given: {dimensions})", "dimensions")


def _place(field: str, index: int, n_texts: int) -> str:
    return field if n_texts == 1 else f"{field}[{index}]"


# -- answers


def cut(vector: Vector, dimensions: int | None) -> Vector:
    """The first dimensions of a vector, of length 1 again."""
    return vector if dimensions in (None, len(vector)) else scaled(vector[:dimensions], 2)


def scaled(vector: Vector, norm: int) -> Vector:
    """The vector with this norm 1, as llama.cpp counts norms: -1: as it is, 0: the largest value is 32760."""
    if norm < 0:
        return vector
    wide = abs(vector.astype("float64"))
    largest = float(wide.max())
    if norm == 0:
        length = largest / 32760
    else:
        length = largest and largest * float(((wide / largest) ** norm).sum()) ** (1 / norm)
    return (vector / length).astype("float32") if length and math.isfinite(length) else vector


def numbers(vector: Vector) -> str:
    """A JSON list."""
    return "[" + ",".join(map(repr, vector.tolist())) + "]"


def _item(index: int, vector: Vector, encoding: Encoding) -> str:
    if encoding == "base64":
        value = f'"{base64.b64encode(vector.astype("<f4").tobytes()).decode()}"'
    else:
        value = numbers(vector)
    return f'{{"object":"embedding","index":{index},"embedding":{value}}}'


def _costs(made: Embedded) -> dict[str, int]:
    return {"instructions": made.instructions, "cycles": made.cycles, "calls": made.n_calls}


async def _written(written: Callable[[], bytes], made: Embedded) -> Response:
    """Vectors are many numbers: a worker thread writes more than some."""
    content = await door.beside_loop(sum(map(len, made.vectors)) > VALUES_AT_ONCE, written)
    headers = {"X-IC-Instructions": str(made.instructions), "X-IC-Cycles": str(made.cycles)}
    return Response(content, headers=headers, media_type=JSON)
