"""Arguments and answers of what only REST offers: conversations, models and folders, beside the canister's interface.

They are JSON alone, in the forms that clients of chat models know, and no part of `canister.did`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StrictBool

from canister.api.record_types import blob, vec

MAX_MESSAGES = 10_000
MAX_PARTS = 1_000  # of a message
MAX_TOOLS = 1_000
MAX_TOKENS = 100_000
MAX_TOKENS_ALONE = 1_000_000  # without their texts


MOST_OF_PAGE = 10_000  # entries


class Document(BaseModel):
    """A JSON object; fields beyond the known ones are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


class ContentPart(Document):
    """Part of what is said in a message. Models here read text alone."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """What somebody said. Further fields, such as tool_calls, are handed on to the template."""

    model_config = ConfigDict(frozen=True, extra="allow", defer_build=True)

    role: Annotated[str, Field(min_length=1, max_length=64, description="system, user, assistant, tool …")]
    content: str | Annotated[vec[ContentPart], Field(max_length=MAX_PARTS)] | None = None

    __pydantic_extra__: dict[str, JsonValue]


Messages = Annotated[vec[Message], Field(max_length=MAX_MESSAGES)]


class ApplyTemplateInput(Document):
    messages: Annotated[Messages, Field(min_length=1)]
    add_generation_prompt: Annotated[StrictBool, Field(description="End where the model is to go on.")] = True
    continue_final_message: Annotated[
        StrictBool, Field(description="End within the last message, behind what it says.")
    ] = False
    tools: Annotated[
        Annotated[vec[JsonValue], Field(max_length=MAX_TOOLS)] | None,
        Field(description="Tools that the model may call."),
    ] = None
    chat_template_kwargs: Annotated[
        dict[str, JsonValue], Field(description="Variables of the template, such as enable_thinking.")
    ] = {}


class ApplyTemplateOutput(Document):
    """n_tokens: what run_update would count for the prompt."""

    prompt: str
    n_tokens: int


TextsAndTokens = Annotated[
    str | Annotated[vec[Annotated[int, Field(strict=True, ge=0, lt=2**31)] | str], Field(max_length=MAX_TOKENS)],
    Field(description="A text, or a list of texts and numbers of tokens."),
]


class TokenizeInput(Document):
    content: TextsAndTokens = ""
    add_special: Annotated[StrictBool, Field(description="Put BOS first where the model has it so.")] = False
    parse_special: Annotated[StrictBool, Field(description="The likes of <|im_end|> are tokens, not texts.")] = True
    with_pieces: Annotated[StrictBool, Field(description="Tell the text of each token too.")] = False


class Piece(Document):
    """A token. piece: its text; its bytes where these are no whole characters."""

    id: int
    piece: str | vec[int]


class TokenizeOutput(Document):
    tokens: vec[int] | vec[Piece]


class DetokenizeInput(Document):
    tokens: Annotated[vec[Annotated[int, Field(strict=True, ge=0, lt=2**31)]], Field(max_length=MAX_TOKENS)] = []


class DetokenizeOutput(Document):
    content: Annotated[str, Field(description="Special tokens are shown.")]


class ExtraFile(Document):
    """Part of another file that the editor has seen."""

    text: str
    filename: str = "tmp"


class InfillInput(Document):
    """What stands before and behind the place to fill in. n_predict: tokens of the answer; 0 or less: not known."""

    input_prefix: TextsAndTokens
    input_suffix: TextsAndTokens
    input_extra: Annotated[vec[ExtraFile], Field(max_length=MAX_PARTS)] = []
    prompt: Annotated[str, Field(description="How what is filled in begins.")] = ""
    n_predict: int = -1


class InfillOutput(Document):
    """tokens: of the prompt. missing: tokens that the model would need for it, and has not; then there is none."""

    tokens: vec[int]
    missing: vec[str]


class Slot(Document):
    """A place for a conversation that is decoded."""

    id: int
    n_ctx: int
    speculative: bool = False
    is_processing: bool


class Slots(Document):
    slots: vec[Slot]


class GenerationDefaults(Document):
    params: Annotated[
        dict[str, JsonValue], Field(description="What holds where a request does not say otherwise.")
    ] = {}
    n_ctx: Annotated[int, Field(description="Tokens that a conversation may have.")]


TemplateKind = Literal["model", "flag", "chatml", "none"]


class TemplateCapabilities(Document):
    """What the chat template makes something of; found out by applying it."""

    supports_system_role: Annotated[bool, Field(description="A system message is part of the prompt.")]
    supports_tools: Annotated[bool, Field(description="Tools are told to the model.")]
    supports_tool_calls: Annotated[bool, Field(description="Calls of earlier turns are shown again.")]
    supports_parallel_tool_calls: Annotated[
        bool, Field(description="All of several calls of one turn are shown again.")
    ]
    supports_preserve_reasoning: Annotated[bool, Field(description="Thoughts of earlier turns are shown again.")]
    supports_thinking_switch: Annotated[bool, Field(description="enable_thinking makes another prompt.")]


class Modalities(Document):
    """What can be sent beside text."""

    vision: Annotated[bool, Field(description="Images.")] = False
    audio: Annotated[bool, Field(description="Sound.")] = False


class Props(Document):
    """What who may chat may know of the loaded model; the first fields are as llama.cpp's server has them."""

    default_generation_settings: GenerationDefaults
    total_slots: int
    model_alias: Annotated[str, Field(description="The canister's name.")]
    model_path: str
    model_ftype: Annotated[str, Field(description="How the weights are stored.")]
    modalities: Annotated[Modalities, Field(description="What can be sent beside text: nothing.")]
    chat_template: Annotated[str, Field(description="Empty for none.")]
    chat_template_caps: Annotated[TemplateCapabilities, Field(description="What the template makes something of.")]
    bos_token: str
    eos_token: str
    build_info: Annotated[str, Field(description="The release of llama-canister, and llama.cpp's libraries.")]
    description: str
    chat_template_source: Annotated[
        TemplateKind,
        Field(description="flag: --chat-template of load_model. chatml: the model has none, but the tokens of ChatML."),
    ]


class ChatInput(Document):
    """A conversation as its client wants to find it again. settings: the client's own."""

    messages: Messages
    settings: dict[str, JsonValue] = {}


class Chat(ChatInput):
    name: str
    modified_ns: int


class ChatEntry(Document):
    """cache_bytes: what the canister keeps of the model's state for it; 0: nothing, it is computed again."""

    name: str
    modified_ns: int
    cache_bytes: int


class ChatList(Document):
    chats: vec[ChatEntry]
    next: Annotated[
        str | None, Field(description="With `limit`: `after` of the page that follows; null: this is the last one.")
    ] = None


class CacheEntry(Document):
    """A prompt cache of the caller. null: not known, of a damaged one, or in a herd."""

    name: Annotated[str, Field(description="What run_update takes as --prompt-cache.")]
    bytes: int | None
    modified_ns: int
    tokens: Annotated[int | None, Field(description="Of the conversation that it holds.")]
    is_usable: Annotated[bool | None, Field(description="Was it made with the model that is loaded?")]
    tier: Annotated[
        Literal["slot", "memory", "file", "worker"],
        Field(description="Where it is: in the model's memory, parked beside it, in its file; in a herd, at a worker."),
    ]


class CacheList(Document):
    """The caches that were written last, the newest first."""

    caches: Annotated[vec[CacheEntry], Field(description="Those of this page.")]
    n_caches: Annotated[int, Field(description="All that the caller has.")]
    n_bytes: Annotated[int | None, Field(description="Size of all.")]
    next: Annotated[str | None, Field(description="`after` of the page that follows; null: this is the last one.")] = (
        None
    )


# -- models and folders


class ModelEntry(Document):
    """A GGUF file, or all parts of one, as its header tells. problem: why it cannot be loaded; null: nothing known."""

    path: Annotated[str, Field(description="What load_model takes as --model; of a model in parts, the first.")]
    bytes: Annotated[int, Field(description="Size of the file, or of all parts.")]
    n_parts: Annotated[int, Field(description="Files that it has.")]
    is_loaded: bool
    problem: str | None
    architecture: Annotated[str, Field(description="Empty where the header cannot be read.")]
    title: Annotated[str, Field(description="The name that the file gives itself.")]
    quantization: Annotated[str, Field(description="How the weights are stored, such as Q4_K_M.")]
    n_params: Annotated[int, Field(description="Weights.")]
    n_ctx_train: Annotated[int, Field(description="Tokens of the longest conversation; 0: the file does not say.")]


class ModelDetails(ModelEntry):
    files: Annotated[vec[str], Field(description="Its files, in order.")]
    sha256: Annotated[str | None, Field(description="Of the file; null for a model in parts, or if it is not known.")]
    n_layers: int
    width: Annotated[int, Field(description="Length of an embedding.")]
    n_heads: int
    n_kv_heads: int
    n_vocab: int
    kv_bytes_per_token: Annotated[int, Field(description="Of a conversation, with the KV type f16.")]
    chat_template: Annotated[str, Field(description="Jinja; empty for none.")]


class FitInput(Document):
    """Of a model that need not be loaded. args: flags as load_model takes them, without --model."""

    args: Annotated[vec[str], Field(max_length=MAX_PARTS)] = []
    prompt_tokens: Annotated[int, Field(strict=True, ge=1, lt=2**31, description="How long the prompt is.")] = 100
    answer_tokens: Annotated[int, Field(strict=True, ge=0, lt=2**31)] = 100


class FitHeaderInput(FitInput):
    """Of a file that is not here yet."""

    header: Annotated[
        blob,
        Field(
            description="Beginning of the GGUF file, in base64. Long arrays, such as the vocabulary, may be left out."
        ),
    ]
    file_bytes: Annotated[int, Field(strict=True, ge=1, lt=2**63, description="Size of the whole file.")]


class ModelFit(Document):
    """Will it load on the Internet Computer, with how large a context, and what does an answer cost?"""

    n_ctx: Annotated[int, Field(description="Tokens of the context in question.")]
    fits: bool
    reasons: Annotated[vec[str], Field(description="Why it does not fit.")]
    loads: Annotated[
        Literal["yes", "maybe", "no"],
        Field(description="maybe: between sizes that are known to load and not to."),
    ]
    heap_bytes: Annotated[int, Field(description="What the model needs of the canister's heap.")]
    heap_limit_bytes: Annotated[int, Field(description="How large that heap can be.")]
    kv_bytes: Annotated[int, Field(description="Of the whole context.")]
    largest_n_ctx: Annotated[int, Field(description="The largest context that fits; 0: none.")]
    tokens_per_call: Annotated[int, Field(description="Of the answer, right behind the prompt.")]
    calls: Annotated[int, Field(description="Of prompt and answer together; 0: they cannot be made.")]
    total_instructions: int
    total_cycles: int
    usd: Annotated[float, Field(description="Of prompt and answer together.")]
    seconds: Annotated[float, Field(description="On the main network.")]
    upload_cycles: Annotated[int, Field(description="Of the whole file, in messages of 2 MB.")]
    load_instructions: Annotated[int, Field(description="Of load_model.")]
    load_cycles: Annotated[int, Field(description="Of load_model.")]
    load_seconds: Annotated[float, Field(description="On the main network.")]
    estimated: Annotated[vec[str], Field(description="What is a guess in it.")]


class ModelList(Document):
    models: vec[ModelEntry]
    next: Annotated[
        str | None, Field(description="With `limit`: `after` of the page that follows; null: this is the last one.")
    ] = None


class Unloaded(Document):
    """path: the model that was loaded."""

    path: str


class FolderEntry(Document):
    """A file or folder. sha256: hex, where it is known from an upload."""

    name: str
    path: Annotated[str, Field(description="From the root of stable memory.")]
    type: Literal["file", "directory"]
    bytes: Annotated[int, Field(description="0 for a folder.")]
    modified_ns: Annotated[int, Field(description="Since 1970.")]
    sha256: str | None


class Folder(Document):
    path: Annotated[str, Field(description="Empty for the root.")]
    entries: Annotated[vec[FolderEntry], Field(description="In the order in which they were made.")]
    next: Annotated[
        str | None, Field(description="With `limit`: `after` of the page that follows; null: this is the last one.")
    ] = None
