"""Which prompt caches a call reads or changes, and how its prompt begins, by its argument alone."""

from __future__ import annotations

from canister.api.methods import Method
from canister.api.records import (
    CopyPromptCacheInputRecord,
    DownloadPromptCacheInputRecord,
    EstimateInput,
    InputRecord,
    PromptCacheDetailsInputRecord,
    UploadPromptCacheInputRecord,
)
from canister.errors import BadRequest, CanisterError
from canister.handlers.arguments import parse_args
from canister.store.cache_paths import SIDECAR, sessions_of
from canister.store.paths import clean_path


def chats_of(method: Method, caller: str, arg: object) -> tuple[str, ...]:
    """Their paths in stable memory, each once. None for a name that cannot be used: the worker says what is wrong."""
    try:
        names = _names(arg)
        paths = [clean_path(f"{sessions_of(caller)}/{name.lstrip('/')}") for name in names if name.lstrip("/")]
    except CanisterError:
        return ()
    return tuple(dict.fromkeys(path for path in paths if not path.endswith(SIDECAR)))


def prompt_of(arg: object) -> str:
    """The prompt of a run; "": there is none."""
    try:
        return parse_args(arg).prompt if isinstance(arg, InputRecord) else ""
    except CanisterError:
        return ""


def check_no_model(method: Method, arg: object) -> None:
    """Raise BadRequest for a run that would load a model: it would do so at one worker alone."""
    try:
        wants_model = isinstance(arg, InputRecord) and parse_args(arg).model is not None
    except CanisterError:
        return  # the worker says what is wrong
    if wants_model:
        raise BadRequest(
            f"{method.name} takes no --model in front of a herd: load_model loads one at every worker, once for all"
        )


def _names(arg: object) -> list[str]:
    match arg:
        case InputRecord():
            return [parse_args(arg).prompt_cache]
        case CopyPromptCacheInputRecord():
            return [arg.from_, arg.to]
        case DownloadPromptCacheInputRecord() | UploadPromptCacheInputRecord() | PromptCacheDetailsInputRecord():
            return [arg.promptcache]
        case EstimateInput():
            return [parse_args(InputRecord(args=arg.args)).prompt_cache]
        case _:
            return []
