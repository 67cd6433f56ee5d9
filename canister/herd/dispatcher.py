"""The `Dispatcher` of a herd, for the doors in front of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from canister.herd.target import HerdTarget

if TYPE_CHECKING:
    from canister.config import ServerSettings
    from canister.dispatch import Dispatcher, Target
    from canister.herd.herd import Herd
    from canister.ic.certificate import RootKey
    from canister.ic.identity import Identity


class HerdDispatcher:
    """Of a running herd. behind: the mirror's own."""

    def __init__(self, herd: Herd, behind: Dispatcher) -> None:
        self._herd = herd
        self._behind = behind

    @property
    def settings(self) -> ServerSettings:
        return self._behind.settings

    @property
    def is_draining(self) -> bool:
        return self._behind.is_draining

    @property
    def node(self) -> Identity:
        return self._behind.node

    @property
    def root_key(self) -> RootKey:
        return self._behind.root_key

    @property
    def targets(self) -> Sequence[Target]:
        return [self._target(target) for target in self._behind.targets]

    @property
    def default(self) -> Target:
        return self._target(self._behind.default)

    def find(self, name_or_id: str) -> Target:
        return self._target(self._behind.find(name_or_id))

    def with_id(self, canister_id: bytes) -> Target:
        return self._target(self._behind.with_id(canister_id))

    def principal_of(self, key: str) -> str | None:
        return self._behind.principal_of(key)

    def not_ready(self) -> Mapping[str, str]:
        return {**self._behind.not_ready(), **self._herd.not_ready()}

    def observe(self) -> dict[str, dict[str, float]]:
        observed = self._behind.observe()
        return {name: {**values, **self._herd.observed(name)} for name, values in observed.items()}

    def _target(self, mirrored: Target) -> HerdTarget:
        return HerdTarget(self._herd, mirrored, self._herd.mirror.canister(mirrored.id))
