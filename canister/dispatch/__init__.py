"""One message, from the door to the commit. Every transport ends here.

    place → access → argument → handler → instruction limit → commit everything, or nothing → reply | reject

`turns.py` says whose turn it is, `execute.py` runs a handler and commits. Doors ask for more: a method that is run once
(`requests.py`), a message that may come twice (`messages.py`), a file (`streams.py`), a look (`inspection.py`).
"""

from canister.dispatch.answer_caches import cache_of_key
from canister.dispatch.answer_text import AnswerText, Piece
from canister.dispatch.answers import Answered, Ingested, Wanted, answer
from canister.dispatch.dispatcher import Dispatcher, OpenFile, Target
from canister.dispatch.execute import Recorder, Reply
from canister.dispatch.inspection import (
    ModelView,
    inspect_calls,
    inspect_engine,
    inspect_model,
    model_names,
    observe,
    tokenize,
)
from canister.dispatch.local import of_host
from canister.dispatch.messages import find_message, submit
from canister.dispatch.requests import argument_bytes, execute, find_method
from canister.dispatch.streams import read_stream, store_stream
from canister.runtime.call import OnText

__all__ = [
    "AnswerText",
    "Answered",
    "Dispatcher",
    "Ingested",
    "ModelView",
    "OnText",
    "OpenFile",
    "Piece",
    "Recorder",
    "Reply",
    "Target",
    "Wanted",
    "answer",
    "argument_bytes",
    "cache_of_key",
    "execute",
    "find_message",
    "find_method",
    "inspect_calls",
    "inspect_engine",
    "inspect_model",
    "model_names",
    "observe",
    "of_host",
    "read_stream",
    "store_stream",
    "submit",
    "tokenize",
]
