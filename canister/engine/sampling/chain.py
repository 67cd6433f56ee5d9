"""The sampler chain of one call: llama.cpp's samplers, in the order of llama-completion.

The k-th draw of an answer is the k-th of llama.cpp's `dist(seed)`, however the answer is cut into calls. A token that
the grammar refuses is drawn again, so there are more draws than tokens, and the request has their number. XTC draws by
seed and position instead. Mirostat and adaptive-p follow llama.cpp in an answer's first call, and begin anew in later
ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from canister.engine.llama import Model
from canister.engine.request import Tokens
from canister.engine.sampling.binding import Binding
from canister.engine.sampling.logprobs import TokenLogprobs, logprobs
from canister.engine.sampling.samplers import Candidates, Sampler
from canister.errors import BadRequest
from canister.flags.params import SamplingParams

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_XTC = 0x787463  # separates its draws from those of the token itself
_RANDOM_SEED = 0xFFFFFFFF  # what llama.cpp takes for "draw one yourself"


def mix(seed: int, number: int) -> int:
    """A sampler seed for token `number` of a chat: splitmix64 of (splitmix64(seed) xor number), its upper 32 bits."""
    return usable_seed(_splitmix(_splitmix(seed & _MASK) ^ number) >> 32)


def usable_seed(seed: int) -> int:
    """A seed that llama.cpp takes as it is."""
    seed &= _RANDOM_SEED
    return seed if seed != _RANDOM_SEED else 0


def _splitmix(x: int) -> int:
    x = (x + _GOLDEN) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


_KEEP_THE_LIKELIEST = frozenset({"top_k", "top_p", "min_p", "top_n_sigma"})

# A stage is a sampler that lasts for the call, or makes one for the token with this number.
Stage = Sampler | Callable[[int], Sampler]
_Made = tuple[str, *tuple[float, ...]] | None  # the name of llama.cpp's constructor, and its arguments


class ChainSampler:
    """Samples for one call, as `sequence.TokenSampler` demands. Its owner closes it.

    binding: of the answer, at its beginning. The sampler owns it.
    """

    def __init__(
        self,
        model: Model,
        candidates: Candidates,
        params: SamplingParams,
        seed: int,
        n_draws: int,
        n_ctx: int,
        binding: Binding | None = None,
    ) -> None:
        self._model, self._candidates, self._params = model, candidates, params
        self._seed, self._n_ctx = seed, n_ctx
        self._dist: Sampler | None = None
        self.n_draws = n_draws
        self._binding = binding
        self._members: list[Sampler] = []
        self._stages: list[Stage] = []
        # With temperature 0 the likeliest token wins at the place of the temperature, whatever follows.
        self._is_greedy = (
            not params.mirostat
            and "temperature" in params.samplers
            and params.temperature <= 0.0
            and params.dynatemp_range <= 0.0
        )
        self._biases: list[tuple[int, float]] = []
        self._takes_likeliest = False  # whatever came before, beside the biases
        self._base: tuple[int, Sampler] | None = None  # a draw's number, and what it is drawn with
        self._selects = False  # the last stage selects the token itself
        self._n_window = 0  # tokens before the call that the stages must have seen
        self._sees_tokens = False

    def close(self) -> None:
        for stage in (*self._stages, self._dist):
            if isinstance(stage, Sampler):
                stage.close()
        if self._binding is not None:
            self._binding.close()
        if self._base is not None:
            self._base[1].close()
        self._stages, self._dist, self._binding, self._base = [], None, None, None

    # -- building

    def _build(self, first: int) -> None:
        """Make the stages of a call whose first token is number `first` of the chat."""
        p, model = self._params, self._model
        seed = usable_seed(self._seed)
        own_seed = mix(self._seed, first) if self.n_draws else seed
        biases = [*p.logit_bias, *((token, -math.inf) for token in model.suppressed_tokens)]
        if p.ignore_eos:
            biases += [(token, -math.inf) for token in model.eog_tokens]
        biases = [(token, bias) for token, bias in biases if 0 <= token < model.n_vocab]
        if biases:
            self._add(Sampler.logit_bias(model, biases))
        self._biases = biases
        if p.mirostat:
            self._add(Sampler.make("temp", p.temperature))
            if p.mirostat == 1:
                self._add(Sampler.make("mirostat", model.n_vocab, own_seed, p.mirostat_tau, p.mirostat_eta, 100))
            else:
                self._add(Sampler.make("mirostat_v2", own_seed, p.mirostat_tau, p.mirostat_eta))
            self._selects = True
        else:
            names = p.samplers
            if self._is_greedy:
                names = tuple(n for n in names[: names.index("temperature")] if n not in _KEEP_THE_LIKELIEST)
            for name in names:
                self._add_by_name(name)
        if "adaptive_p" in p.samplers and not (p.mirostat or self._is_greedy):
            self._add(Sampler.make("adaptive_p", p.adaptive_target, p.adaptive_decay, own_seed))
            self._selects = self._sees_tokens = True
        self._takes_likeliest = self._is_greedy and not self._stages and len(self._members) == bool(biases)
        self._flush()
        if not (self._selects or self._is_greedy):
            self._dist = Sampler.dist(seed, self.n_draws)

    def _add_by_name(self, name: str) -> None:
        """Add the sampler of a name in --samplers, if its settings have an effect."""
        if name in _PLAIN:
            made = _PLAIN[name](self._params, max(self._params.min_keep, 0))
            if made is not None:
                self._add(Sampler.make(*made))
        elif name in _OWN_WAY:
            _OWN_WAY[name](self)

    def _add_penalties(self) -> None:
        p = self._params
        n = self._n_ctx if p.repeat_last_n < 0 else p.repeat_last_n
        neutral = p.repeat_penalty == 1.0 and p.frequency_penalty == 0.0 and p.presence_penalty == 0.0
        if n and not neutral:
            weights = (p.repeat_penalty, p.frequency_penalty, p.presence_penalty)
            self._add(Sampler.make("penalties", self._model.n_vocab, n, *weights))
            self._n_window, self._sees_tokens = max(self._n_window, n), True

    def _add_dry(self) -> None:
        p = self._params
        n = self._n_ctx if p.dry_penalty_last_n < 0 else p.dry_penalty_last_n
        if n and p.dry_multiplier != 0.0 and p.dry_base >= 1.0:
            strength = (p.dry_multiplier, p.dry_base, p.dry_allowed_length)
            self._add(Sampler.dry(self._model, *strength, n, p.dry_sequence_breakers))
            self._n_window, self._sees_tokens = max(self._n_window, n), True

    def _add_xtc(self) -> None:
        """A stage of its own, made anew for each draw, since its seed depends on the draw's number."""
        p = self._params
        if p.xtc_probability > 0.0 and p.xtc_threshold <= 0.5:
            self._flush()
            weights = (p.xtc_probability, p.xtc_threshold, max(p.min_keep, 0))
            self._stages.append(lambda number: Sampler.make("xtc", *weights, mix(self._seed ^ _XTC, number)))

    def _add_infill(self) -> None:
        self._add(Sampler.infill(self._model))

    def _add(self, sampler: Sampler) -> None:
        self._members.append(sampler)

    def _flush(self) -> None:
        """Make one stage of the samplers added since the last."""
        if self._members:
            self._stages.append(Sampler.chain(self._members))
            self._members = []

    # -- sampling

    def begin(self, history: Tokens, n_continued: int) -> None:
        self._build(len(history))
        if self._sees_tokens:
            for token in map(int, history[len(history) - min(self._n_window, len(history)) :]):
                self._accept_stages(token)
        if self._binding is not None and n_continued:
            self._binding.replay(history[-n_continued:].tolist())

    def sample(self, logits: NDArray[np.float32], index: int) -> int:
        likeliest = int(logits.argmax())  # the first that is no number, if there is one
        if not math.isfinite(logits[likeliest]):
            raise BadRequest("The model's output is not a number: the model or the prompt cache is damaged")
        if self._is_greedy and not self._stages and self._binding is None:
            self.n_draws += 1
            return likeliest
        self.n_draws += 1
        token, logit = self._choose(logits, index)
        # As in llama.cpp, ask the grammar about the chosen token first, and about all tokens only if it refuses.
        if self._binding is not None and not self._binding.fits(token):
            token, logit = self._choose_again(logits, index, self._binding, token)
        if logit == -math.inf:
            raise BadRequest("No token may follow: grammar and logit biases leave none")
        return token

    def sample_all(self, logits: NDArray[np.float32]) -> NDArray[np.intp] | None:
        """The tokens of successive places at once, from a row of logits for each; as many calls of `sample` draw the
        same. None where a draw depends on the tokens before it, or on a random number, or there is no token to draw.
        """
        if not self._takes_likeliest or self._binding is not None:
            return None
        if self._biases:
            logits = logits.copy()
            for token, bias in self._biases:
                logits[:, token] += np.float32(bias)
        tokens: NDArray[np.intp] = logits.argmax(axis=1)
        if not np.isfinite(logits[np.arange(len(tokens)), tokens]).all():
            return None
        self.n_draws += len(tokens)
        return tokens

    def logprobs(self, token: int, n_top: int) -> tuple[float, TokenLogprobs]:
        """Of the token that was just sampled, and of the n_top likeliest, by what the samplers have left."""
        if self._is_greedy:  # at temperature 0 they leave the one
            return 0.0, ((token, 0.0),)[:n_top]
        tokens, logits = self._candidates.left()
        (at,) = np.flatnonzero(tokens == token)
        own, top = logprobs(logits, int(at), n_top)
        return own, tuple((int(tokens[each]), logprob) for each, logprob in top)

    @property
    def rewinds(self) -> bool:
        """Can a token be drawn again? Not where a sampler keeps a state of its own over the tokens that it selects."""
        return not self._selects

    def rewind(self, n_draws: int) -> None:
        """Draw next with the random number behind so many of the answer, though it was taken already."""
        if self._dist is not None and n_draws != self.n_draws:
            if self._base is None or self._base[0] != n_draws:  # the same draw is mostly looked at several times
                if self._base is not None:
                    self._base[1].close()
                self._base = n_draws, Sampler.dist(usable_seed(self._seed), n_draws)
            self._dist.close()
            self._dist = self._base[1].clone()
        self.n_draws = n_draws

    def accept(self, token: int) -> None:
        if self._sees_tokens:
            self._accept_stages(token)
        if self._binding is not None:
            self._binding.accept(token)

    def _choose_again(
        self, logits: NDArray[np.float32], number: int, binding: Binding, token: int
    ) -> tuple[int, float]:
        """The second draw of a token whose first draw does not fit.

        Where the fitting tokens are found one by one, the draw stays the same until a token fits.
        """
        refused = {token}
        while True:
            token, logit = self._choose(logits, number, lambda: binding.restrict(self._candidates, refused))
            if logit == -math.inf or binding.fits(token):
                self.n_draws += 1
                return token, logit
            refused.add(token)
            if self._dist is not None:
                self._dist.close()
                self._dist = Sampler.dist(usable_seed(self._seed), self.n_draws)

    def _choose(
        self, logits: NDArray[np.float32], number: int, restrict: Callable[[], None] | None = None
    ) -> tuple[int, float]:
        candidates = self._candidates
        candidates.fill(logits)
        if restrict is not None:
            restrict()
        for stage in self._stages:
            if isinstance(stage, Sampler):
                stage.apply(candidates)
            else:
                _apply_once(stage(number), candidates)
        if self._is_greedy:
            return candidates.best()
        if self._dist is not None:
            self._dist.apply(candidates)
        return candidates.selected()

    def _accept_stages(self, token: int) -> None:
        for stage in self._stages:
            if isinstance(stage, Sampler):
                stage.accept(token)


def _apply_once(sampler: Sampler, candidates: Candidates) -> None:
    try:
        sampler.apply(candidates)
    finally:
        sampler.close()


def _temperature(p: SamplingParams, _keep: int) -> _Made:
    if p.dynatemp_range > 0.0:
        return "temp_ext", p.temperature, p.dynatemp_range, p.dynatemp_exponent
    return None if p.temperature == 1.0 else ("temp", p.temperature)


# Samplers of --samplers by name: what makes one from the settings and --min-keep; None where it would change nothing.
_PLAIN: dict[str, Callable[[SamplingParams, int], _Made]] = {
    "top_n_sigma": lambda p, keep: ("top_n_sigma", p.top_n_sigma) if p.top_n_sigma > 0 else None,
    "top_k": lambda p, keep: ("top_k", p.top_k) if p.top_k > 0 else None,
    "typ_p": lambda p, keep: ("typical", p.typical_p, keep) if p.typical_p < 1.0 else None,
    "top_p": lambda p, keep: ("top_p", p.top_p, keep) if p.top_p < 1.0 else None,
    "min_p": lambda p, keep: ("min_p", p.min_p, keep) if p.min_p > 0.0 else None,
    "temperature": _temperature,
}
# Those that look at tokens, or need more than settings.
_OWN_WAY: dict[str, Callable[[ChainSampler], None]] = {
    "penalties": ChainSampler._add_penalties,
    "dry": ChainSampler._add_dry,
    "xtc": ChainSampler._add_xtc,
    "infill": ChainSampler._add_infill,
}
