"""From a client's disconnect to its chat's free slot.

The next call on the same chat waits until the abandoned one is cancelled and rolled back. So what that next call takes
from the moment of the disconnect on, beyond what it takes otherwise, is the time of the cancel.
"""

from __future__ import annotations

import statistics
import threading
import time

from tests.bench.results import Row
from tests.bench.servers import EXACT, OurChat, Ours, known, words
from tests.bench.suite import Bench, Options, begin, main

PROMPT_TOKENS = 100
RUNNING_SECONDS = 0.3  # what the abandoned call has decoded by then is dropped
SLACK_MILLISECONDS = 50.0
STEP_TOKENS = 20


def measure(options: Options) -> list[Row]:
    exact = known("--exact", "auto")
    cancels: list[float] = []
    steps: list[float] = []
    with Ours(EXACT, options.model, n_ctx=1024, slots=1, threads=options.threads, flags=exact) as server:
        for number in range(options.rounds):
            chat = server.chat(f"cancel-{number}")
            begin(server, [chat], [words(options.scaled(PROMPT_TOKENS, 10), number)])
            chat.run("", "-n", "1")
            otherwise = statistics.median(_seconds_of_call(chat) for _ in range(5))
            steps.append(_seconds_of_step(chat))
            cancels.append(_seconds_to_free_slot(server, chat) - otherwise)
            chat.close()
    cancel, step = statistics.median(cancels) * 1000, statistics.median(steps) * 1000
    return [
        Row(
            "from the client's disconnect to the free slot; goal: one step and 50 ms",
            cancel,
            step,
            "ms",
            cancel,
            step + SLACK_MILLISECONDS,
            at_least=False,
            figure_unit="ms",
            peer_name="one decode step",
            samples={"ours": cancels, "peer": steps},
        )
    ]


def _seconds_of_call(chat: OurChat) -> float:
    """A call of one token that leaves the chat as it is."""
    begun = time.perf_counter()
    chat.run("", "-n", "1")
    return time.perf_counter() - begun


def _seconds_of_step(chat: OurChat) -> float:
    begun = time.perf_counter()
    chat.run("", "-n", str(STEP_TOKENS + 1))
    many = time.perf_counter() - begun
    return (many - _seconds_of_call(chat)) / STEP_TOKENS


def _seconds_to_free_slot(server: Ours, chat: OurChat) -> float:
    """Seconds from hanging up on an endless call to the answer of the next one, which was waiting."""
    leaver = server.http()
    left: list[float] = []

    def leave() -> None:
        argument = chat.argument("", "-n", "-1")
        left.append(leaver.post_and_leave("/canisters/llama_cpp/run_update", argument, RUNNING_SECONDS))

    leaving = threading.Thread(target=leave)
    leaving.start()
    time.sleep(RUNNING_SECONDS / 2)
    chat.run("", "-n", "1")
    answered = time.perf_counter()
    leaving.join()
    if answered < left[0]:
        raise RuntimeError("the endless call ended by itself; the model or its context is too small for this benchmark")
    return answered - left[0]


BENCH = Bench("cancel", "from a client's disconnect to the free slot", measure)

if __name__ == "__main__":
    main(BENCH)
