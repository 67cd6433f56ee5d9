"""One message, from the door to the commit. Every transport ends here.

    place → access → argument → handler → instruction limit → commit everything, or nothing → reply | reject

`turns.py` decides whose turn it is, `execute.py` runs a handler and commits. Doors ask for a method that runs once
(`requests.py`), a message that may come twice (`messages.py`), a file (`streams.py`), or a look (`inspection.py`).
"""

from canister.dispatch.answer_caches import cache_of_key
from canister.dispatch.answer_chain import Answered, Ingested, Wanted
from canister.dispatch.answer_making import PASSING
from canister.dispatch.answer_text import AnswerText, Piece
from canister.dispatch.answers import answer, answer_choices, prompt_tokens_of
from canister.dispatch.dispatcher import Answers, Dispatcher, OpenFile, Target
from canister.dispatch.durable_answers import (
    Question,
    answer_parts,
    answer_so_far,
    begin_answer,
    cancel_answer,
    failure_of,
    find_answer,
    is_running,
    join_answer,
    look_again,
    remove_answer,
    retry_answer,
)
from canister.dispatch.execute import Recorder, Reply
from canister.dispatch.inspection import (
    ModelView,
    inspect_engine,
)
from canister.dispatch.kept_answers import Part
from canister.dispatch.local import of_host
from canister.dispatch.messages import find_message
from canister.dispatch.requests import execute, find_method
from canister.dispatch.streams import store_stream
from canister.runtime.call import OnText
from canister.state.answers import KeptAnswer

__all__ = [
    "PASSING",
    "AnswerText",
    "Answered",
    "Answers",
    "Dispatcher",
    "Ingested",
    "KeptAnswer",
    "ModelView",
    "OnText",
    "OpenFile",
    "Part",
    "Piece",
    "Question",
    "Recorder",
    "Reply",
    "Target",
    "Wanted",
    "answer",
    "answer_choices",
    "answer_parts",
    "answer_so_far",
    "begin_answer",
    "cache_of_key",
    "cancel_answer",
    "execute",
    "failure_of",
    "find_answer",
    "find_message",
    "find_method",
    "inspect_engine",
    "is_running",
    "join_answer",
    "look_again",
    "of_host",
    "prompt_tokens_of",
    "remove_answer",
    "retry_answer",
    "store_stream",
]
