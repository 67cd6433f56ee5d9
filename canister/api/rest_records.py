"""Arguments and answers of what only REST offers: conversations, models and folders, beside the canister's interface.

They are JSON alone, in the forms that clients of chat models know, and no part of `canister.did`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StrictBool

from canister.api.records import vec

MAX_MESSAGES = 10_000
MAX_PARTS = 1_000  # of a message
MAX_TOOLS = 1_000


class Document(BaseModel):
    """A JSON object; fields beyond the known ones are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ContentPart(Document):
    """Part of what is said in a message. Models here read text alone."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """What somebody said. Further fields, such as tool_calls, are handed on to the template."""

    model_config = ConfigDict(frozen=True, extra="allow")

    role: Annotated[str, Field(min_length=1, max_length=64, description="system, user, assistant, tool …")]
    content: str | Annotated[vec[ContentPart], Field(max_length=MAX_PARTS)] | None = None

    __pydantic_extra__: dict[str, JsonValue]


Messages = Annotated[vec[Message], Field(max_length=MAX_MESSAGES)]


class ApplyTemplateInput(Document):
    messages: Annotated[Messages, Field(min_length=1)]
    add_generation_prompt: Annotated[StrictBool, Field(description="End where the model is to go on.")] = True
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


class GenerationDefaults(Document):
    n_ctx: Annotated[int, Field(description="Tokens that a conversation may have.")]


TemplateKind = Literal["model", "chatml", "none"]


class Props(Document):
    """What who may chat may know of the loaded model; the first fields are as llama.cpp's server has them."""

    default_generation_settings: GenerationDefaults
    total_slots: int
    model_path: str
    chat_template: Annotated[str, Field(description="Empty for none.")]
    bos_token: str
    eos_token: str
    description: str
    chat_template_source: Annotated[
        TemplateKind,
        Field(description="chatml: the model has none, but the tokens of ChatML."),
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


class ModelList(Document):
    models: vec[ModelEntry]


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
