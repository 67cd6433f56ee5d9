"""`canister estimate`: what a call or a whole conversation will cost, before it is run.

The question is asked for each model and context. Each answer is an EstimateResult, which `view.py` shows.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from canister.cli.estimate.question import CallTerms, EstimateResult, OneCall, Question, WholeConversation
from canister.cli.shared.connection import LOCAL, caller
from canister.cli.shared.models import (
    DEFAULT_LIMIT,
    Flags,
    Json,
    Limit,
    PageCost,
    Pages,
    read_flags,
    read_limit,
    read_model,
)
from canister.cli.shared.options import Anonymous, ApiKey, CanisterName, DataDir, IdentityName, Network, RootKey
from canister.defaults import DEFAULT_CANISTER

if TYPE_CHECKING:
    from canister.flags.parse import RunArgs


def estimate(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE",
            help="One GGUF or more; their weights are not read. Without any, the model loaded in --canister.",
            show_default=False,
        ),
    ] = None,
    args: Flags = "",
    prompt_tokens: Annotated[
        int, typer.Option(min=0, metavar="P", help="Tokens of the whole prompt, the cached ones included.")
    ] = 0,
    cached_tokens: Annotated[
        int, typer.Option(min=0, metavar="C", help="One call: tokens of the prompt that the cache already has.")
    ] = 0,
    generate: Annotated[
        int | None,
        typer.Option(min=0, metavar="G", help="One call: tokens sampled and decoded. [default: 0]", show_default=False),
    ] = None,
    saves: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="S",
            help="One call: how often the prompt cache is written. [default: 2 if it finishes a prompt, else 1]",
            show_default=False,
        ),
    ] = None,
    answer_tokens: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="A",
            help="Estimate a conversation instead of one call: the prompt and an answer of A tokens, in as many "
            "calls as needed.",
            show_default=False,
        ),
    ] = None,
    max_tokens: Annotated[
        int,
        typer.Option(
            min=0, metavar="M", help="Conversation: tokens per call, as for set_max_tokens; 0: as many as fit."
        ),
    ] = 0,
    ctx_sizes: Annotated[
        str | None,
        typer.Option(metavar="N,N,…", help="Print a table for these context sizes.", show_default=False),
    ] = None,
    page_cost: Pages = PageCost.mainnet,
    nodes: Annotated[int, typer.Option(min=1, metavar="N", help="Nodes of the subnet.")] = 13,
    request_bytes: Annotated[int, typer.Option(min=0, metavar="N", help="Size of each call's argument.")] = 0,
    instruction_limit: Limit = DEFAULT_LIMIT,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Draw the conversation: tokens per call and cycles. To .svg, .png or .pdf; needs the extra plot.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
    prompt: Annotated[str, typer.Option(metavar="TEXT", help="Without FILE: the prompt of the next run_update.")] = "",
    network: Network = LOCAL,
    canister: CanisterName = DEFAULT_CANISTER,
    api_key: ApiKey = None,
    anonymous: Anonymous = False,
    data_dir: DataDir = None,
    identity: IdentityName = None,
    root_key: RootKey = None,
) -> None:
    """Estimate what a call or a conversation would cost on the IC.

    A conversation with --answer-tokens, otherwise a call. Several files, or --ctx-sizes, give a table. With files
    nothing runs and no server is needed. Without a file, a canister tells what its next call and the rest of the
    conversation will cost.

    Example: canister estimate model.gguf --args '-c 4096 -ctk q8_0' --prompt-tokens 100 --answer-tokens 400

    Example: canister estimate --prompt "Who are you?" --args '--prompt-cache chat.cache'
    """
    if not files:
        from canister.cli.estimate.loaded import show_loaded

        given = read_flags(args)
        if not (prompt or given.prompt or given.prompt_cache):
            raise typer.BadParameter("give --prompt TEXT for the model loaded in --canister, or a FILE")
        connected = caller(
            network, canister, api_key, anonymous, data_dir, identity=identity, prefers_rest=True, root_key=root_key
        )
        show_loaded(connected, canister, args, prompt, answer_tokens, as_json)
        return
    from canister.cli.estimate import view

    if prompt:
        raise typer.BadParameter(
            "--prompt is for the model loaded in --canister; with a FILE give the length of the prompt: --prompt-tokens"
        )
    flags = read_flags(args)
    terms = CallTerms(read_limit(instruction_limit), nodes, request_bytes, flags.sampling.repeat_penalty != 1.0)
    question: Question
    if answer_tokens is None:
        if max_tokens:
            raise typer.BadParameter("--max-tokens is for a conversation: give --answer-tokens")
        question = OneCall(prompt_tokens, cached_tokens, generate or 0, saves)
    else:
        if cached_tokens or generate is not None or saves is not None:
            raise typer.BadParameter("--cached-tokens, --generate and --saves are of one call, --answer-tokens is not")
        question = WholeConversation(prompt_tokens, answer_tokens, max_tokens)
    if plot is not None:
        _check_plot(plot, question)

    found = list(_ask(question, terms, files, flags, _ctx_sizes(ctx_sizes), page_cost))
    is_table = len(files) > 1 or ctx_sizes is not None
    if not is_table and found[0].problem:
        _fail(found[0].problem)
    if plot is not None:
        _draw(plot, found, prompt_tokens)
    if as_json:
        documents = [view.document(one, terms.limit) for one in found]
        print(json.dumps(documents if is_table else documents[0], indent=2, ensure_ascii=False))
    elif is_table:
        view.show_table(found)
    else:
        view.show(found[0], question, terms)
    if all(one.problem for one in found):
        raise typer.Exit(1)


def _ask(
    question: Question,
    terms: CallTerms,
    files: list[Path],
    flags: RunArgs,
    ctx_sizes: tuple[int, ...],
    pages: PageCost,
) -> Iterator[EstimateResult]:
    from canister.errors import BadRequest
    from canister.metering.cost_model import CostModel
    from canister.metering.estimate import context_of

    for file in files:
        shape = read_model(file)
        for n_ctx in ctx_sizes or (flags.ctx_size,):
            context = context_of(replace(flags, ctx_size=n_ctx), shape)
            model = CostModel(shape, context, pages.value)
            try:
                found = question.ask(model, terms)
            except BadRequest as error:
                yield EstimateResult(file.name, context, None, problem=str(error))
            else:
                yield EstimateResult(file.name, context, found, tuple(model.estimates))


def _ctx_sizes(text: str | None) -> tuple[int, ...]:
    """Sizes of contexts; none where none was given."""
    if text is None:
        return ()
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 8:
        raise typer.BadParameter(f"--ctx-sizes is a list like 2048,4096,8192, each 8 or more, not {text!r}")
    return sizes


def _check_plot(file: Path, question: Question) -> None:
    from canister.cli.estimate.plot import FORMATS

    if not isinstance(question, WholeConversation):
        raise typer.BadParameter("--plot draws a conversation: give --answer-tokens")
    if file.suffix not in FORMATS:
        raise typer.BadParameter(f"--plot writes {', '.join(FORMATS)}, not {file.name!r}")


def _draw(file: Path, found: list[EstimateResult], prompt_tokens: int) -> None:
    from canister.cli.estimate.plot import PlotMissing, draw_conversations
    from canister.metering.estimate import ConversationEstimate

    lines = {
        f"{one.model}, context {one.context.n_ctx:,}": one.estimate
        for one in found
        if isinstance(one.estimate, ConversationEstimate)
    }
    if not lines:
        return
    try:
        draw_conversations(file, lines, prompt_tokens)
    except PlotMissing as error:
        _fail(str(error))
    print(f"drew {file}", file=sys.stderr)


def _fail(text: str) -> None:
    print(f"canister: {text}", file=sys.stderr)
    raise typer.Exit(1)
