"""What was generated beyond the end of a call, for the next call of the same answer."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from canister.engine.request import Ahead, Tokens

Logits = NDArray[np.float32]


@dataclass(slots=True, eq=False)
class Lookahead:
    """Tokens whose rows lie in a slot's stream behind the conversation that the slot notes, and the logits behind each.

    Nobody was told of them. The next call draws for itself, and takes over the rows as far as it draws the same tokens.
    calls: those that may want them. logits: behind the conversation. seconds: that the decode of one took.
    """

    calls: Ahead
    logits: Logits | None = None
    seconds: float = 0.0
    _found: deque[tuple[int, Logits]] = field(default_factory=deque)

    def __len__(self) -> int:
        return len(self._found)

    def put(self, tokens: Tokens, logits: Logits) -> None:
        """All tokens so far, and the logits behind the last of them, which are copied."""
        if len(tokens):
            self._found.append((int(tokens[-1]), logits.copy()))
        else:
            self.logits = logits.copy()

    def take(self, token: int) -> Logits | None:
        """The logits behind this token, if it is the next one."""
        if not self._found or self._found[0][0] != token:
            return None
        return self._found.popleft()[1]
