"""The units of AO in one: messages come, are run in order and once, and their results are read. Doors use `Units`."""

from canister.ao.units.herd import HERDER, TOKEN
from canister.ao.units.settings import Items, Settings
from canister.ao.units.units import Units

__all__ = ["HERDER", "TOKEN", "Items", "Settings", "Units"]
