"""Which name a mistyped one may have been meant as."""

from __future__ import annotations

import pytest

from canister.api.methods import BY_NAME
from canister.errors.nearest import nearest


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("run_updat", "run_update"),
        ("newchat", "new_chat"),
        ("getAdminRole", "getAdminRoles"),
        ("get_max_token", "get_max_tokens"),
        ("get_llm_canisters", None),
        ("nonsense", None),
        ("", None),
        ("x" * 100_000, None),
    ],
)
def test_only_what_resembles_a_name_is_named(typed: str, meant: str | None) -> None:
    assert nearest(typed, BY_NAME) == meant
