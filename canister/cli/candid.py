"""`canister candid`: the interface, for programs that make their clients from it."""

from __future__ import annotations


def candid() -> None:
    """Print the interface as a Candid file (.did)."""
    from canister import wire
    from canister.ic.did import render
    from canister.interface import METHODS

    print(render(METHODS, wire.MARKS), end="")
