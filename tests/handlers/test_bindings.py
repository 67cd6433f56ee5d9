"""Each row has one handler, whose signature is what the row says."""

from __future__ import annotations

import inspect
import typing

import pytest

from canister.api import management, methods, rest_only
from canister.api.methods import Method
from canister.engine.request import Ahead
from canister.handlers.bindings import HANDLERS
from canister.handlers.embed import EMBED
from canister.handlers.generate import GENERATE, OnBegun, OnTokens
from canister.runtime.call import Call
from canister.runtime.host import Host

ROWS = (*methods.METHODS, *rest_only.ROWS, *management.METHODS, GENERATE, EMBED)
PAGE = {"limit": str | None, "after": str | None}
IN_PATH = {  # what a door hands to a handler beside the argument
    **{key: {"name": str} for key in ("get_chat", "put_chat", "remove_chat")},
    **{key: {"path": str} for key in ("remove_file", "show_model", "fit_model")},
    "list_folder": {"path": str, **PAGE},
    **dict.fromkeys(("list_chats", "list_caches", "list_models"), PAGE),
    "generate": {"on_begun": OnBegun | None, "on_tokens": OnTokens | None, "ahead": Ahead | None},
}
OF_SERVER = {
    **{row.name: {"host": Host} for row in (*methods.METHODS, *management.METHODS) if row.knows_server},
    **{row.name: {"host": Host, "request_id": bytes} for row in management.METHODS if row.is_of_server},
}


def test_each_row_has_one_handler_and_each_handler_a_row() -> None:
    names = [row.name for row in ROWS]
    assert len(names) == len(set(names))
    assert set(names) == set(HANDLERS)


def test_all_rows_that_only_rest_offers_are_in_the_list() -> None:
    assert set(rest_only.ROWS) == {row for row in vars(rest_only).values() if isinstance(row, Method)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_handler_takes_and_gives_what_its_row_says(row: Method) -> None:
    handler = HANDLERS[row.name]
    assert inspect.iscoroutinefunction(handler)
    hints = typing.get_type_hints(handler, include_extras=True, localns={"Call": Call, "Host": Host})
    named = {**IN_PATH, **OF_SERVER}.get(row.name, {})
    wanted = {"call": Call, **({} if row.arg is None else {"arg": row.arg}), **named, "return": row.ok}
    assert hints == wanted
    kinds = {name: parameter.kind for name, parameter in inspect.signature(handler).parameters.items()}
    assert {name for name, kind in kinds.items() if kind is inspect.Parameter.KEYWORD_ONLY} == set(named)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_text_of_a_method_stands_in_its_row(row: Method) -> None:
    assert HANDLERS[row.name].__doc__ is None
    first, _, more = row.doc.partition("\n\n")
    assert first.endswith(".")
    assert "\n" not in first
    assert more == more.strip()
