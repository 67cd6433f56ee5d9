"""What REST offers beside the interface, for clients that hold conversations, as rows like the interface table's.

They are run, admitted, metered and committed like its methods, but no IC client knows them.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from canister import access as guards
from canister.interface import Method, query, update
from canister.methods import chat_template, named_chats

PROPS = query(chat_template.props, guards.inference_query)
APPLY_TEMPLATE = query(chat_template.apply_template, guards.inference_query)
LIST_CHATS = query(named_chats.list_chats, guards.inference_query)
GET_CHAT = query(named_chats.get_chat, guards.inference_query)
PUT_CHAT = update(named_chats.put_chat, guards.inference_update)
REMOVE_CHAT = update(named_chats.remove_chat, guards.inference_update)


def for_chat(row: Method, name: str) -> Method:
    """GET_CHAT, PUT_CHAT or REMOVE_CHAT, for the chat of this name."""
    return replace(row, handler=partial(row.handler, name=name))
