"""`python -m canister`: the command, where its script is not on the path."""

from __future__ import annotations

from canister.cli import main

main()
