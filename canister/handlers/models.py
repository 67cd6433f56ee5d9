"""The models of a canister: those in its stable memory, one of them in detail, and unloading. For REST only."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from canister.api.records import InputRecord
from canister.api.rest_records import FitHeaderInput, FitInput, ModelDetails, ModelEntry, ModelFit, ModelList, Unloaded
from canister.errors import BadRequest, NotFound
from canister.handlers import pages
from canister.handlers.arguments import parse_args
from canister.metering import estimate, fees
from canister.metering.cost_model import CostContext, CostModel, load_cost
from canister.model_file.gguf import GgufFile, read_gguf
from canister.model_file.parts import PartName, why_a_part
from canister.model_file.shape import ModelShape, read_shape
from canister.model_file.summary import summary
from canister.runtime.stored_model import StoredModel, read_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from canister.runtime.call import Call
    from canister.store.stable import FileInfo


async def list_models(call: Call, *, limit: str | None = None, after: str | None = None) -> ModelList:
    models = [*_together(await asyncio.to_thread(call.canister.stable.models))]
    found, following = pages.page(models, lambda model: (model[0].id,), limit, after)
    entries = []
    for parts in found:
        first, n_bytes = min(part.path for part in parts), sum(part.size for part in parts)
        entries.append(await asyncio.to_thread(_entry, call, first, n_bytes, len(parts)))
    return ModelList(models=entries, **following)


def _together(files: Sequence[FileInfo]) -> Iterator[list[FileInfo]]:
    """The files of each model, in the order of the first one of each."""
    by_path = {file.path: file for file in files}
    while by_path:
        path, file = next(iter(by_path.items()))
        name = PartName.read(path)
        parts = [file] if name is None else [by_path[part] for part in name.siblings() if part in by_path]
        for part in parts:
            del by_path[part.path]
        yield sorted(parts, key=lambda part: part.id)


async def show_model(call: Call, *, path: str) -> ModelDetails:
    return await asyncio.to_thread(_details, call, path)


async def fit_model(call: Call, arg: FitInput, *, path: str) -> ModelFit:
    return await asyncio.to_thread(lambda: _fit(call, arg, read_model(call.canister.stable, path).header))


async def unload_model(call: Call) -> Unloaded:
    await call.model_alone()
    model = call.canister.model
    if call.state.model_args is None:
        raise NotFound("no model is loaded")
    call.change(model_args=None)
    call.on_commit(model.drop)
    return Unloaded(path=parse_args(InputRecord(args=[*call.state.model_args])).model or "")


async def fit_header(call: Call, arg: FitHeaderInput) -> ModelFit:
    return await asyncio.to_thread(_fit_of_header, call, arg)


def _entry(call: Call, path: str, n_bytes: int, n_parts: int) -> ModelEntry:
    """n_bytes, n_parts: of the existing files, for a model whose header cannot be read."""
    is_loaded = call.canister.model.is_loaded_from(path)
    try:
        stored = read_model(call.canister.stable, path)
    except BadRequest as error:
        return ModelEntry(
            path=path,
            bytes=n_bytes,
            n_parts=n_parts,
            is_loaded=is_loaded,
            problem=str(error),
            architecture="",
            title="",
            quantization="",
            n_params=0,
            n_ctx_train=0,
        )
    return _told(stored, *_shape(stored), is_loaded=is_loaded)


def _shape(stored: StoredModel) -> tuple[ModelShape | None, str | None]:
    """The shape, or the reason why there is none."""
    try:
        return read_shape(stored.header, may_embed=True), None
    except BadRequest as error:
        return None, str(error)


def _told(stored: StoredModel, shape: ModelShape | None, problem: str | None, *, is_loaded: bool) -> ModelEntry:
    found = summary(stored.header)
    return ModelEntry(
        path=stored.files[0].path,
        bytes=stored.n_bytes,
        n_parts=len(stored.files),
        is_loaded=is_loaded,
        problem=problem,
        architecture=found.architecture,
        title=found.title,
        quantization=found.quantization,
        n_params=found.n_params,
        n_ctx_train=0 if shape is None else shape.n_ctx_train,
    )


def _details(call: Call, path: str) -> ModelDetails:
    stable = call.canister.stable
    stored = read_model(stable, path)
    shape, problem = _shape(stored)
    layers = () if shape is None else shape.attention_layers
    upload = stable.upload(stored.files[0].path) if len(stored.files) == 1 else None
    told = _told(stored, shape, problem, is_loaded=call.canister.model.is_loaded_from(path))
    return ModelDetails(
        **dict(told),
        files=[file.path for file in stored.files],
        sha256=upload.sha256 if upload is not None and upload.size == stored.n_bytes else None,
        n_layers=0 if shape is None else len(shape.layers),
        width=0 if shape is None else shape.width,
        n_heads=max((layer.heads for layer in layers), default=0),
        n_kv_heads=max((layer.kv_heads for layer in layers), default=0),
        n_vocab=0 if shape is None else shape.vocabulary,
        kv_bytes_per_token=0
        if shape is None
        else CostModel(shape, CostContext(shape.n_ctx_train or 1)).kv_bytes_per_token,
        chat_template=summary(stored.header).chat_template,
    )


def _fit_of_header(call: Call, arg: FitHeaderInput) -> ModelFit:
    """BadRequest for flags that are none, a header that is none, and one of a part of a model."""
    header = read_gguf(arg.header, size=arg.file_bytes)
    if (problem := why_a_part(header)) is not None:
        raise BadRequest(problem)
    return _fit(call, arg, header)


def _fit(call: Call, arg: FitInput, header: GgufFile) -> ModelFit:
    """BadRequest for flags that are none, or a file that is no model."""
    flags = parse_args(InputRecord(args=arg.args))
    shape = read_shape(header)
    context, settings = estimate.context_of(flags, shape), call.canister.settings
    limit = settings.instruction_limit
    model = CostModel(shape, context, settings.page_cost)
    found = estimate.estimate_fit(shape, context, pages=settings.page_cost, limit=limit)
    last = context.n_ctx - 1
    end = estimate.estimate_call(model, prompt_tokens=last, cached_tokens=last, generate=1, limit=limit)
    reasons = estimate.against(found, has_room=end.fits)
    answer, guesses = None, []
    try:
        answer = estimate.estimate_conversation(
            model,
            prompt_tokens=arg.prompt_tokens,
            answer_tokens=arg.answer_tokens,
            max_tokens=call.state.max_tokens_update,
            limit=limit,
            nodes=settings.subnet_nodes,
        )
    except BadRequest as error:
        guesses.append(str(error))
    return ModelFit(
        n_ctx=context.n_ctx,
        fits=not reasons,
        reasons=reasons,
        loads=found.loads,
        heap_bytes=found.heap_bytes,
        heap_limit_bytes=estimate.HEAP_LIMIT_BYTES,
        kv_bytes=model.kv_bytes,
        largest_n_ctx=found.n_ctx,
        tokens_per_call=0 if answer is None else answer.tokens_per_call_first,
        calls=0 if answer is None else answer.n_calls,
        total_instructions=0 if answer is None else answer.instructions,
        total_cycles=0 if answer is None else answer.cycles,
        usd=0.0 if answer is None else answer.usd,
        seconds=0.0 if answer is None else answer.seconds,
        upload_cycles=estimate.upload_cycles(header.size, nodes=settings.subnet_nodes),
        load_instructions=load_cost(header.size),
        load_cycles=fees.update_cycles(load_cost(header.size), nodes=settings.subnet_nodes),
        load_seconds=fees.seconds(load_cost(header.size)),
        estimated=[*model.estimates, *guesses],
    )
