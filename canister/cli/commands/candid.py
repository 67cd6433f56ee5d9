"""`canister candid`: the interface, for programs that generate their clients from it."""

from __future__ import annotations


def candid() -> None:
    """Print the interface as a Candid file (.did)."""
    from canister.api import codec
    from canister.api.methods import METHODS
    from canister.ic.did import render

    print(render(METHODS, codec.MARKS), end="")
