"""Rows for what REST offers beside the interface: conversations, models and files, for chat clients and operators.

They are run, admitted, metered and committed like the interface's methods, but no IC client knows them. Handlers get
the names in the path, such as that of a chat, as named arguments.
"""

from __future__ import annotations

from types import NoneType

from canister.api.methods import Method, query, update
from canister.api.records import FilesystemRemoveRecord
from canister.api.rest_records import (
    ApplyTemplateInput,
    ApplyTemplateOutput,
    CacheList,
    Chat,
    ChatInput,
    ChatList,
    DetokenizeInput,
    DetokenizeOutput,
    FitHeaderInput,
    FitInput,
    Folder,
    InfillInput,
    InfillOutput,
    ModelDetails,
    ModelFit,
    ModelList,
    Props,
    Slots,
    TokenizeInput,
    TokenizeOutput,
    Unloaded,
)

# A row is a line, and its text another where they do not fit in one.
# fmt: off
PROPS = query("props", "conversations", "inference_query", None, Props,
        "What the loaded model is: its name, its context, its chat template.")
APPLY_TEMPLATE = query("apply_template", "conversations", "inference_query", ApplyTemplateInput, ApplyTemplateOutput,
        "The prompt that the loaded model's chat template makes of messages, for `run_update -p`. Nothing is decoded.")
TOKENIZE = query("tokenize", "conversations", "inference_query", TokenizeInput, TokenizeOutput,
        "The tokens of a text, as the loaded model has them.")
DETOKENIZE = query("detokenize", "conversations", "inference_query", DetokenizeInput, DetokenizeOutput,
        "The text of tokens.")
INFILL_PROMPT = query("infill_prompt", "conversations", "inference_query", InfillInput, InfillOutput,
        "The prompt for what stands between two texts, for models that were trained to fill it in.")
SLOTS = query("slots", "conversations", "inference_query", None, Slots,
        "The places in which conversations are decoded together, and how many are in use; which ones is not told.")
LIST_CHATS = query("list_chats", "conversations", "inference_query", None, ChatList,
        "The caller's named chats, the one written last first.")
GET_CHAT = query("get_chat", "conversations", "inference_query", None, Chat,
        "What was said in one of the caller's named chats.")
PUT_CHAT = update("put_chat", "conversations", "inference_update", ChatInput, Chat,
        "Keep what was said under a name of the caller's; it takes the place of what stood there.")
REMOVE_CHAT = update("remove_chat", "conversations", "inference_update", None, NoneType,
        "Forget one of the caller's named chats, and its prompt cache.")
LIST_CACHES = query("list_caches", "conversations", "inference_query", None, CacheList,
        "The caller's prompt caches: the tokens of each, and where a call finds them.")
LIST_FOLDER = query("list_folder", "files", "admin_query", None, Folder,
        "What lies directly in a folder, given by its path with a slash at the end; empty for all of stable memory.")
REMOVE_FILE = update("remove_file", "files", "admin_update", None, FilesystemRemoveRecord,
        "Remove a file or an empty folder.")
LIST_MODELS = query("list_models", "models", "admin_query", None, ModelList,
        "All GGUF files of stable memory, a model in parts as one; headers are read, weights are not.")
SHOW_MODEL = query("show_model", "models", "admin_query", None, ModelDetails,
        "A model of stable memory in detail: shape, context, quantization, chat template.")
FIT_MODEL = query("fit_model", "models", "admin_query", FitInput, ModelFit,
        "Would a model of stable memory fit the Internet Computer, and what does an answer cost? Weights are not read.")
FIT_HEADER = query("fit_header", "models", "admin_query", FitHeaderInput, ModelFit,
        "As fit_model, for a file that is not here yet, by its header: what it would need, and what it would cost.")
UNLOAD_MODEL = update("unload_model", "models", "admin_update", None, Unloaded,
        "Unload the model, once the calls that use it are over; the next start does not load it again.")
# fmt: on

ROWS: tuple[Method, ...] = (
    PROPS,
    APPLY_TEMPLATE,
    TOKENIZE,
    DETOKENIZE,
    INFILL_PROMPT,
    SLOTS,
    LIST_CHATS,
    GET_CHAT,
    PUT_CHAT,
    REMOVE_CHAT,
    LIST_CACHES,
    LIST_FOLDER,
    REMOVE_FILE,
    LIST_MODELS,
    SHOW_MODEL,
    FIT_MODEL,
    FIT_HEADER,
    UNLOAD_MODEL,
)
