"""`Llama` of one process: the host's side. What was read and said is a small record, which is kept with each message.

Nothing is computed before something is to be said; so a prompt that no answer follows costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from canister.ao.lua import values
from canister.ao.lua.sandbox import HostError
from canister.ao.lua.values import BadValue, Value
from canister.ao.processes.models import Context, Drawing, Model, Models
from canister.errors import (
    Busy,
    CallerBusy,
    CallTimeout,
    Cancelled,
    CanisterBusy,
    CanisterError,
    CanisterStopping,
    CanisterUnavailable,
    NotFound,
    Trap,
)

PASSING = (Busy, CallerBusy, CanisterBusy, CanisterStopping, CanisterUnavailable, Cancelled, CallTimeout)
"""Not the program's fault, and not to be told to it: its message is run again."""
MOST_CONTEXT = 2048
MOST_TOKENS = 4096  # of a message: read and said


@dataclass(frozen=True, slots=True)
class Kept:
    """What stays between messages. model: its id; nothing: none is loaded. saved: the checkpoint."""

    model: str = ""
    context: Context | None = None
    saved: Context | None = None
    drawing: Drawing = field(default_factory=Drawing)

    def pack(self) -> bytes:
        return values.encode(
            self.model.encode(),
            _packed(self.context),
            _packed(self.saved),
            self.drawing.temperature,
            self.drawing.seed,
        )

    @classmethod
    def unpack(cls, data: bytes) -> Kept:
        """Raises BadValue for other bytes than `pack` makes."""
        match values.decode(data):
            case [bytes(model), context, saved, int() | float() as temperature, int(seed)]:
                return cls(model.decode(), _unpacked(context), _unpacked(saved), Drawing(float(temperature), seed))
        raise BadValue("what a process kept of its model is damaged")


class Talk:
    """A process and its model. owner: whose prompt caches are used. Every call of `ask` is a program's.

    What is PASSING goes through, and ends the message without a result.
    """

    def __init__(self, owner: str, models: Models | None, kept: Kept) -> None:
        self._owner, self._models = owner, models
        self.kept = kept
        self._model: Model | None = None
        self._n_left = 0
        self.instructions = self.cycles = 0
        self.receipts: list[str] = []
        self.is_dry = False

    def begin(self, *, is_dry: bool, n_tokens: int = MOST_TOKENS) -> None:
        """A message: what it may use, and nothing used yet."""
        self._n_left, self.is_dry = n_tokens, is_dry
        self.instructions = self.cycles = 0
        self.receipts = []

    def ask(self, *given: Value) -> Value:
        """Raises HostError."""
        if self.is_dry:
            raise HostError("Llama answers no dry run, which pays for nothing")
        try:
            match given:
                case [b"info"]:
                    return self._info().encode()
                case [b"load", bytes(id)]:
                    return self._load(id.decode(errors="replace")).encode()
                case [b"prompt", bytes(text)]:
                    return self._read((), text, is_first=True)
                case [b"add", bytes(text)]:
                    return self._read(self._context().tokens, text, is_first=False)
                case [b"say", int(n)]:
                    return self.say(n)
                case [b"save"]:
                    self.kept = replace(self.kept, saved=self._context())
                    return True
                case [b"restore"]:
                    if self.kept.saved is None:
                        return False
                    self.kept = replace(self.kept, context=self.kept.saved)
                    return True
                case [b"clear"]:
                    had, self.kept = self.kept.saved is not None, replace(self.kept, saved=None)
                    return had
                case [b"temperature", int() | float() as temperature] if 0 <= temperature <= 100:
                    self.kept = replace(self.kept, drawing=replace(self.kept.drawing, temperature=float(temperature)))
                    return True
                case [b"seed", int(seed)]:
                    self.kept = replace(self.kept, drawing=replace(self.kept.drawing, seed=seed % 2**32))
                    return True
                case [b"stop"]:
                    self.kept, self._model = Kept(drawing=self.kept.drawing), None
                    return True
        except PASSING:
            raise
        except (CanisterError, Trap) as error:
            raise HostError(f"Llama: {error}"[:500]) from None
        raise HostError("Llama cannot do that: see its calls and what they take")

    def say(self, n: int) -> bytes | None:
        """Up to n pieces; None when the end of the text had been reached before. Raises what a model raises."""
        context, model = self._context(), self._loaded()
        if n < 0:
            raise HostError("a number of tokens is not negative")
        if context.is_over:
            return None
        room = self._room(model) - len(context.tokens)
        if n and room <= 0:
            raise HostError(f"the context of {self._room(model)} tokens is full: set a new prompt")
        n = min(n, room)
        if not n:
            return b""
        self._use(n)
        said = model.say(self._owner, context, n, self.kept.drawing)
        self._n_left += n - len(said.pieces)
        self.kept = replace(self.kept, context=said.context)
        self.instructions += said.instructions
        self.cycles += said.cycles
        self.receipts += said.receipts
        return b"".join(said.pieces) if said.pieces else None

    def _read(self, before: tuple[int, ...], text: bytes, *, is_first: bool) -> Value:
        model = self._loaded()
        tokens = model.tokens(text, is_first=is_first)
        if len(before) + len(tokens) > self._room(model):
            raise HostError(
                f"{len(before) + len(tokens)} tokens do not fit the context of {self._room(model)}: take a shorter text"
            )
        self._use(len(tokens))
        self.kept = replace(self.kept, context=Context(before + tokens))
        return True

    def _use(self, n: int) -> None:
        if n > self._n_left:
            raise HostError(f"a message may read and say {MOST_TOKENS} tokens at most: go on with the next message")
        self._n_left -= n

    def _load(self, id: str) -> str:
        if self._models is None:
            raise HostError("no models are served here")
        try:
            self._model = self._models.open(id)
        except NotFound as error:
            raise HostError(str(error)) from None
        self.kept = Kept(id, drawing=self.kept.drawing)
        return f"loaded {self._info()}"

    def _loaded(self) -> Model:
        if not self.kept.model:
            raise HostError("no model is loaded: call Llama.load with the id of one")
        if self._model is None:
            if self._models is None:
                raise HostError("no models are served here")
            self._model = self._models.open(self.kept.model)
        return self._model

    def _context(self) -> Context:
        self._loaded()
        if self.kept.context is None:
            raise HostError("there is no prompt yet: call Llama.setPrompt")
        return self.kept.context

    def _info(self) -> str:
        if not self.kept.model:
            return "llama.cpp, no model loaded"
        model = self._loaded()
        return f"llama.cpp, {model.name}, context of {self._room(model)} tokens"

    @staticmethod
    def _room(model: Model) -> int:
        return min(MOST_CONTEXT, model.n_context)


def _packed(context: Context | None) -> Value:
    if context is None:
        return None
    return [_numbers(context.prompt), _numbers(context.said), context.n_decoded, context.n_draws, context.is_over]


def _unpacked(value: Value) -> Context | None:
    match value:
        case None:
            return None
        case [bytes(prompt), bytes(said), int(n_decoded), int(n_draws), bool(is_over)]:
            return Context(_tokens(prompt), _tokens(said), n_decoded, n_draws, is_over)
    raise BadValue("what a process kept of its model is damaged")


def _numbers(tokens: tuple[int, ...]) -> bytes:
    return b"".join(token.to_bytes(4, "little") for token in tokens)


def _tokens(data: bytes) -> tuple[int, ...]:
    return tuple(int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4))
