"""From the file of a draft model to a context of it: is it of the same vocabulary, can it go back, is there room?"""

from __future__ import annotations

from canister.engine.aside import Steps, done_aside
from canister.engine.drafting.model import MOST_BEHIND, MOST_CELLS, DraftModel
from canister.engine.llama import Context, Model
from canister.engine.llama_types import ContextParams, ModelError
from canister.engine.load.loaded import LoadParams
from canister.engine.load.memory_budget import CELLS_STEP, Need, check

NO_DRAFTS = "the model cannot decode several tokens as if one by one here, so that nothing is drafted for it"
NO_SPECULATION = "--spec-type none forbids drafts"


def draft_context(n_ctx: int) -> int:
    """Tokens of a chat that a draft model sees, beside a model with so long a context; 0: the model's own."""
    return min(n_ctx or MOST_CELLS, MOST_CELLS)


def check_draft(params: LoadParams, model: Model, draft: Model) -> None:
    """ModelError for a draft model whose tokens are not those of the model, or whose memory is for one chat alone."""
    assert params.draft is not None
    why = model.unlike(draft)
    if why is not None:
        raise ModelError(
            f"Cannot use the draft model {params.draft.name} with the model {params.name}: {why}; --model-draft takes "
            "a small model of the same family, with the same vocabulary"
        )
    one = params.draft.memory.one_stream
    if one is not None:
        raise ModelError(f"Cannot use the draft model {params.draft.name}: its memory is for one chat alone: {one}")


def prepare_draft(
    params: LoadParams, weights: Model, n_vocab: int, n_chats: int, n_threads: int, free_bytes: int
) -> Steps[DraftModel]:
    """Make its context, with a stream for each chat. params: of the model that it drafts for. ModelError."""
    draft = params.draft
    assert draft is not None
    n_ctx = draft_context(draft.n_ctx)
    n_cells = -(-n_ctx // CELLS_STEP) * CELLS_STEP
    check(draft.name, Need(n_ctx, n_cells, n_chats, draft.kv_bytes // max(1, n_ctx), draft.kv_bytes), free_bytes)
    shape = ContextParams(
        n_streams=n_chats,
        n_cells=n_cells,
        n_rows=min(MOST_BEHIND, n_cells),
        n_threads=n_threads,
        type_k=draft.type_k,
        type_v=draft.type_v,
        flash_attn=draft.ways_of_attention()[0] == "on",
        most_at_once=draft.restrictions.max_rows,
    )
    context = yield from done_aside(lambda: Context(weights, shape, draft.name), lambda made: made.close())
    try:
        context.decode([0, 0], [0, 1], [0, 0], [1])
        goes_back = context.remove(0, 1)
        context.clear(0)
        if not goes_back:
            raise ModelError(
                f"Cannot use the draft model {draft.name}: its memory cannot take back a token that was guessed wrong "
                "(as those of Mamba and other recurrent models); --model-draft takes a model with attention alone"
            )
        made = DraftModel(
            weights, context, draft.name, n_vocab, n_min=params.spec_draft_n_min, p_min=params.spec_draft_p_min
        )
        yield None
        made.measure()
    except BaseException:
        context.close()
        raise
    return made
