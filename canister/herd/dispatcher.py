"""The `Dispatcher` of a herd, for the doors in front of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from canister.dispatch import HostDispatcher
from canister.herd.target import HerdTarget

if TYPE_CHECKING:
    from canister.dispatch import Dispatcher, Target
    from canister.herd.herd import Herd
    from canister.runtime.canister import Canister


class HerdDispatcher(HostDispatcher):
    """Of a running herd. behind: the mirror's own."""

    def __init__(self, herd: Herd, behind: Dispatcher) -> None:
        super().__init__(herd.host)
        self._herd = herd
        self._behind = behind

    def _target(self, canister: Canister) -> Target:
        return HerdTarget(self._herd, self._behind.find(canister.id), canister)

    def not_ready(self) -> Mapping[str, str]:
        return {**super().not_ready(), **self._herd.not_ready()}

    def observe(self) -> dict[str, dict[str, float]]:
        observed = super().observe()
        return {name: {**values, **self._herd.observed(name)} for name, values in observed.items()}
