"""What is asked of a load, and what it gives: parameters, the engine's description, model and context."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from canister.engine.batch_invariance import ExactMode, Policy, RowClasses
from canister.engine.drafting.cost import MOST_ROWS
from canister.engine.drafting.drafter import SpecType
from canister.engine.drafting.model import DraftModel
from canister.engine.kv.logits_file import Origin
from canister.engine.llama import Context, Model
from canister.engine.llama_types import UNQUANTIZED, FillIn, Placed
from canister.engine.load.library import library_id
from canister.engine.load.memory_trial import MemoryTraits
from canister.engine.load.ways import Attention, Restrictions
from canister.engine.traits import Traits
from canister.flags.parse import RopeParams
from canister.model_file.kind import Pooling
from canister.system.machine import cpu_name


@dataclass(frozen=True, slots=True)
class LoadParams:
    """How a model is loaded; 0 means that the server chooses.

    more_paths: the other parts of a split model, in order. name: what messages call the file. model_id: SHA-256 of the
    file, or the digest of all parts. n_ctx: tokens of a conversation, 0 the model's own. n_slots: conversations in the
    KV memory, 0 by memory. n_threads: 0 by measurement.
    calibration_file: a JSON file that keeps what was measured, for models with an id; None: nothing is kept.
    kv_bytes: of the KV rows of a full conversation, by the header; 0: not known.
    logits_file: a file in which an engine leaves logits for the next one; None: it leaves none.
    ram_bytes: memory for the states of conversations that lost their slot.
    max_pause_ms: between two tokens of a call while the prompts of others are decoded.
    spec_type: how answers are drafted. spec_draft_n_max: tokens of a draft.
    draft: the small model that guesses them; None: there is none. spec_draft_n_min, spec_draft_p_min: tokens of a
    guess at least, and the least probability of each.
    restrictions: what llama.cpp must not do on this processor, or with this file.
    memory: what a trial has found out about the model's memory.
    placed: where it is computed.
    reads_in_place: KV rows are read where they lie, if they lie in the host's memory; else out of sequence states.
    pooling: of a model that is loaded for embeddings; "" for one that continues texts. reads_whole: all tokens of a
    text must be in one decode.
    """

    path: Path
    more_paths: tuple[Path, ...] = ()
    name: str = ""
    model_id: bytes = b""
    n_ctx: int = 0
    n_batch: int = 2048
    n_ubatch: int = 512
    type_k: str = "f16"
    type_v: str = "f16"
    flash_attn: str = "auto"  # on, off, auto: as exact mode wants it
    rope: RopeParams = field(default_factory=RopeParams)
    n_slots: int = 0
    n_threads: int = 0
    ram_bytes: int = 0
    max_pause_ms: int = 200
    spec_type: SpecType = "none"
    spec_draft_n_max: int = MOST_ROWS - 1
    spec_draft_n_min: int = 0
    spec_draft_p_min: float = 0.0
    draft: LoadParams | None = None
    exact: ExactMode | Literal["portable"] = "auto"
    kv_bytes: int = 0
    calibration_file: Path | None = None
    logits_file: Path | None = None
    restrictions: Restrictions = field(default_factory=Restrictions)
    memory: MemoryTraits = field(default_factory=MemoryTraits)
    placed: Placed = field(default_factory=Placed)
    reads_in_place: bool = True
    pooling: Pooling | Literal[""] = ""
    reads_whole: bool = False

    @property
    def allowed_flash_attn(self) -> str:
        """on, off or auto: the request, within the restrictions."""
        return self.restrictions.flash_attn(self.flash_attn)

    @property
    def n_verified(self) -> int:
        """Rows that a draft and the token before it may take; 0 where there are no drafts."""
        is_off = self.spec_type == "none" or self.memory.all_outputs or self.placed.is_offloaded
        n = 0 if is_off else 1 + self.spec_draft_n_max
        n = min(n, MOST_ROWS, self.restrictions.max_rows or n)
        return n if n > 1 else 0

    @property
    def allowed_slots(self) -> int:
        """The requested number, 0 for the server's choice; 1 where the model's memory takes no more."""
        return 1 if self.memory.one_stream else self.n_slots

    @property
    def exact_mode(self) -> ExactMode:
        """A portable build is exact like any other, once it is found to be one."""
        return "on" if self.exact == "portable" else self.exact

    def ways_of_attention(self) -> tuple[Attention, ...]:
        """The uses of flash attention that these parameters allow, the preferred one first."""
        asked = self.allowed_flash_attn
        if asked == "on" or self.type_v not in UNQUANTIZED:
            return ("on",)
        if asked == "off" or self.exact_mode == "on":
            return ("off",)
        return ("off", "on") if self.exact == "auto" else ("on", "off")

    def n_file_bytes(self) -> int:
        """Bytes of all parts. Raises OSError."""
        return sum(path.stat().st_size for path in (self.path, *self.more_paths))


@dataclass(frozen=True, slots=True)
class Threads:
    """n: threads that decode. why: the reason, in one line. speeds: tokens per second of single rows by number, if
    measured.
    """

    n: int
    why: str
    speeds: dict[int, float]


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """A loaded model and its context.

    bos_token, eos_token: their texts; "" for none. n_ctx: as requested; a conversation with so many tokens is full.
    kv_layout: stored KV rows fit if theirs is the same; b"" when this model's rows cannot be stored. kv_kind describes
    it.
    row_classes, attention_classes: numbers of rows that give the same bits; empty when nobody needed to know.
    n_verified: tokens of a chat that may be decoded at once as if one by one: those of a draft, and the one before it.
    draft_model: the name of the small model that guesses them; "": none. draft_note: why it does not, if it should.
    n_embd: of a vector that comes out. pooling, reads_whole: as in LoadParams.
    """

    name: str
    model_id: bytes
    model_bytes: int
    description: str
    file_type: str
    chat_template: str | None
    bos_token: str
    eos_token: str
    fill_in: FillIn
    n_params: int
    n_vocab: int
    vocab_type: int  # llama.cpp's number
    n_embd: int
    weight_bytes: int
    n_ctx_train: int
    add_bos: bool
    n_ctx: int
    n_batch: int
    n_ubatch: int
    n_slots: int
    n_threads: int
    type_k: str
    type_v: str
    flash_attn: bool
    can_shift: bool
    kv_bytes_per_token: int
    kv_layout: bytes
    kv_kind: str
    policy: Policy
    row_classes: RowClasses
    attention_classes: RowClasses
    threads: Threads
    restrictions: Restrictions
    memory: MemoryTraits
    pooling: Pooling | Literal[""] = ""
    reads_whole: bool = False
    spec_type: SpecType = "none"
    n_verified: int = 0
    draft_model: str = ""
    draft_note: str = ""
    rope: RopeParams = field(default_factory=RopeParams)
    placed: Placed = field(default_factory=Placed)

    @property
    def origin(self) -> Origin:
        """What logits depend on beside tokens."""
        build = library_id(), self.restrictions.key, *self.placed.key
        return Origin.of(self.n_vocab, self.model_id, self.kv_layout, build, cpu_name())


@dataclass(slots=True)
class Loaded:
    """A model and a context of it, for the engine's thread; and a small one that guesses for it."""

    model: Model
    context: Context
    traits: Traits
    info: EngineInfo
    draft_model: DraftModel | None = None


@dataclass(slots=True)
class LoadedEmbedder:
    """A model and a context for embeddings of it. seconds: that a row of a small decode took."""

    model: Model
    context: Context
    info: EngineInfo
    seconds: float
