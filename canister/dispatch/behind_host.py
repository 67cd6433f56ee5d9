"""What all dispatchers in front of a host have in common, whatever runs its canisters' calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from canister.dispatch import inspection, requests

if TYPE_CHECKING:
    from canister.api.methods import Method, Mode
    from canister.config import ServerSettings
    from canister.dispatch.dispatcher import Target
    from canister.ic.certificate import RootKey
    from canister.ic.identity import Identity
    from canister.runtime.canister import Canister
    from canister.runtime.host import Host


class CanisterOfHost:
    """What a `Target` says of the canister that it stands for."""

    def __init__(self, canister: Canister) -> None:
        self._canister = canister

    @property
    def id(self) -> str:
        return self._canister.id

    @property
    def name(self) -> str:
        return self._canister.name

    @property
    def controllers(self) -> Collection[str]:
        return self._canister.controllers

    def find_method(self, name: str, mode: Mode = "update") -> Method:
        return requests.find_method(self._canister, name, mode)

    async def wait_for_call(self, n: int, seconds: float) -> int:
        return await self._canister.logged.wait(n, seconds)


class HostDispatcher(ABC):
    """A `Dispatcher` whose canisters are those of a host between its start and its stop."""

    def __init__(self, host: Host) -> None:
        self._host = host

    @abstractmethod
    def _target(self, canister: Canister) -> Target:
        """What stands for a canister before doors."""

    @property
    def settings(self) -> ServerSettings:
        return self._host.settings

    @property
    def is_draining(self) -> bool:
        return self._host.is_draining

    @property
    def node(self) -> Identity:
        return self._host.node

    @property
    def root_key(self) -> RootKey:
        return self._host.root_key

    @property
    def targets(self) -> Sequence[Target]:
        return [self._target(canister) for canister in self._host.canisters]

    @property
    def default(self) -> Target:
        return self._target(self._host.default)

    def find(self, name_or_id: str) -> Target:
        return self._target(self._host.find(name_or_id))

    def with_id(self, canister_id: bytes) -> Target:
        return self._target(self._host.with_id(canister_id))

    def principal_of(self, key: str) -> str | None:
        return self._host.principal_of(key)

    def not_ready(self) -> Mapping[str, str]:
        return self._host.not_ready()

    def observe(self) -> dict[str, dict[str, float]]:
        return inspection.observe(self._host)
