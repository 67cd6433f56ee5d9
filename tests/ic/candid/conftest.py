"""Hypothesis here looks for wrong answers, not for slow machines; tests/bench/candid.py tells the times."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("candid", deadline=None)
settings.load_profile("candid")
