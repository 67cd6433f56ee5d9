"""What REST offers beside the interface, for clients that hold conversations and for who tends a canister's models and
files, as rows like the interface table's.

They are run, admitted, metered and committed like its methods, but no IC client knows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from canister.api.methods import Method, query, update
from canister.handlers import chat_template, folders, models, named_chats
from canister.runtime import access as guards

PROPS = query(chat_template.props, guards.inference_query)
APPLY_TEMPLATE = query(chat_template.apply_template, guards.inference_query)
LIST_CHATS = query(named_chats.list_chats, guards.inference_query)
GET_CHAT = query(named_chats.get_chat, guards.inference_query)
PUT_CHAT = update(named_chats.put_chat, guards.inference_update)
REMOVE_CHAT = update(named_chats.remove_chat, guards.inference_update)
LIST_FOLDER = query(folders.list_folder, guards.admin_query)
REMOVE_FILE = update(folders.remove_file, guards.admin_update)
LIST_MODELS = query(models.list_models, guards.admin_query)
SHOW_MODEL = query(models.show_model, guards.admin_query)
UNLOAD_MODEL = update(models.unload_model, guards.admin_update)


def bound(row: Method, names: Mapping[str, str]) -> Method:
    """The row for what is named in a path, such as a chat; its handler is given the names."""
    return replace(row, handler=partial(row.handler, **names)) if names else row
