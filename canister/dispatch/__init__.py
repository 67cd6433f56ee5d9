"""One message, from the door to the commit. Every transport ends here.

    place → access → argument → handler → instruction limit → commit everything, or nothing → reply | reject

`dispatcher.py` tells what a door may ask for. `turns.py` decides whose turn it is, `execute.py` runs and commits.
"""

from canister.dispatch.answer_caches import cache_of_key
from canister.dispatch.answer_making import PASSING
from canister.dispatch.answer_records import Answered, Ingested, Scored, Wanted
from canister.dispatch.answer_text import Piece
from canister.dispatch.behind_host import CanisterOfHost, HostDispatcher
from canister.dispatch.dispatcher import Answers, Dispatcher, OpenFile, Target, Worker
from canister.dispatch.durable_answers import Question, failure_of
from canister.dispatch.embeddings import Embedded, TextRefused, TextTooLong
from canister.dispatch.execute import Reply
from canister.dispatch.inspection import ModelView
from canister.dispatch.kept_answers import Part
from canister.dispatch.local import of_host
from canister.dispatch.requests import execute, find_method
from canister.dispatch.streams import store_stream
from canister.runtime.call import OnText
from canister.state.answers import KeptAnswer

__all__ = [
    "PASSING",
    "Answered",
    "Answers",
    "CanisterOfHost",
    "Dispatcher",
    "Embedded",
    "HostDispatcher",
    "Ingested",
    "KeptAnswer",
    "ModelView",
    "OnText",
    "OpenFile",
    "Part",
    "Piece",
    "Question",
    "Reply",
    "Scored",
    "Target",
    "TextRefused",
    "TextTooLong",
    "Wanted",
    "Worker",
    "cache_of_key",
    "execute",
    "failure_of",
    "find_method",
    "of_host",
    "store_stream",
]
