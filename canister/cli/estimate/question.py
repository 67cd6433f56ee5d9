"""The question of an estimate, about one call or a whole conversation, and its answer for one model and context.

An EstimateResult has the estimate, or the reason why there is none. The view does not care how its numbers were found.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from canister.metering.cost_model import CostContext, CostModel
    from canister.metering.estimate import CallEstimate, ConversationEstimate


@dataclass(frozen=True, slots=True)
class CallTerms:
    """limit: instructions of a call; None: not limited. penalized: with a repeat penalty."""

    limit: int | None
    nodes: int
    request_bytes: int
    penalized: bool


@dataclass(frozen=True, slots=True)
class OneCall:
    """Counts are tokens. saves None: as many as such a call makes."""

    prompt_tokens: int
    cached_tokens: int
    generate: int
    saves: int | None

    def ask(self, model: CostModel, terms: CallTerms) -> CallEstimate:
        from canister.metering.estimate import estimate_call

        return estimate_call(model, **asdict(self), **asdict(terms))


@dataclass(frozen=True, slots=True)
class WholeConversation:
    """Counts are tokens. max_tokens: decoded in each call; 0: as many as fit."""

    prompt_tokens: int
    answer_tokens: int
    max_tokens: int

    def ask(self, model: CostModel, terms: CallTerms) -> ConversationEstimate:
        from canister.metering.estimate import estimate_conversation

        return estimate_conversation(model, **asdict(self), **asdict(terms))


Question: TypeAlias = OneCall | WholeConversation


@dataclass(frozen=True, slots=True)
class EstimateResult:
    """The answer for one model and context. problem: why there is no estimate. guesses: what it rests on."""

    model: str
    context: CostContext
    estimate: CallEstimate | ConversationEstimate | None
    guesses: tuple[str, ...] = ()
    problem: str = ""
