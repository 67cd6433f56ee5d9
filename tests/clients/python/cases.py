"""What the scripts here share: where the server is, and the cases of a run (`python with_langchain.py CASE …`).

They run in environments of their own, which have the client and its dependencies, and nothing of this project.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

BASE = os.environ["CANISTER_BASE"]
KEY = os.environ["CANISTER_KEY"]


class Weather(BaseModel):
    """Tells the weather of a city."""

    model_config = ConfigDict(extra="forbid")

    city: Literal["Bern", "Paris"]
    days: int = Field(ge=1, le=9)


E = TypeVar("E", bound=Exception)


def error_of(call: Callable[[], object], kind: type[E]) -> E:
    """What a call raises that must not succeed."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"it was answered, without {kind.__name__}")


def main(*cases: Callable[[], None]) -> None:
    """Run those that are named, also after one that fails; each tells how it went."""
    by_name = {case.__name__: case for case in cases}
    for name in sys.argv[1:]:
        try:
            by_name[name]()
        except Exception:
            traceback.print_exc()
            print(f"{name}: failed", flush=True)
        else:
            print(f"{name}: ok", flush=True)
