"""No caller learns another's prompts, caches, file names or costs: through no method, error, view or counter.

The methods are those of the interface table and their arguments its examples, so that a new method is tried as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest

from canister.api.examples import EXAMPLES
from canister.api.methods import METHODS
from tests.isolation.conftest import CACHE, FILE, LOG, MODEL, PROMPT, World

pytestmark = pytest.mark.anyio

CANARY = re.compile("canary[a-z]*")
OTHERS = ["bob", "anonymous"]
FLAGS = ["--prompt-cache", "--log-file"]
VIEWS = ["/", "/canisters", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json", "/api/v2/status"]
# Whoever could be admitted to these could read all files: their guards are tested with every caller in test_access.
RUNS = ("run_update", "run_query", "estimate_run", "new_chat", "remove_prompt_cache", "remove_log_file")


def names_of_others(world: World) -> Iterator[tuple[str, str]]:
    """Each with a name of the same shape that only what Bob has tried himself can have."""
    alice = world.principals["alice"]
    for name in (CACHE, f"{CACHE}2", LOG, FILE, MODEL, f"{LOG}/of-controller"):
        for prefix in (
            "",
            "../",
            f"../{alice}/sessions/",
            f".canister_cache/{alice}/sessions/",
            f"../../{alice}/logs/",
        ):
            yield prefix + name, same_names(world, prefix + name)


def arguments(method: str, name: str) -> Iterator[object]:
    """Arguments of a method that name something."""
    example = EXAMPLES.get(method)
    if isinstance(example, dict) and "args" in example:
        for flag in FLAGS:
            yield {**example, "args": [flag, name]}
            yield {**example, "args": [flag, name, "-p", "x", "-n", "1"]}
            yield {**example, "args": ["--prompt-cache", "mine", flag, name, "-p", "x", "-n", "0"]}
    elif isinstance(example, dict):
        texts = [field for field, value in example.items() if isinstance(value, str)]
        for field in texts:
            yield {**example, field: name}
    elif isinstance(example, str):
        yield name
    else:
        yield None


def same_names(world: World, text: str) -> str:
    """A text that differs only in the names that Bob has given reads the same."""
    return text.replace("canary", "absent").replace(world.principals["alice"], world.principals["carol"])


def everything_of(response: httpx.Response) -> str:
    return f"{response.status_code} {sorted(response.headers.items())} {response.text}"


@pytest.mark.parametrize("who", OTHERS)
@pytest.mark.parametrize("method", [method.name for method in METHODS])
async def test_no_method_tells_what_is_of_others(world: World, method: str, who: str) -> None:
    """With its example, without argument, and with what is no argument."""
    for argument in (EXAMPLES.get(method), None, {}, {"args": ["--no-such-flag"]}, ["x"], 7):
        seen = everything_of(await world.post(who, method, argument))
        assert not CANARY.search(seen)
        assert world.principals["alice"] not in seen


@pytest.mark.parametrize("who", OTHERS)
@pytest.mark.parametrize("method", sorted(EXAMPLES))
async def test_what_others_have_answers_as_what_nobody_has(world: World, method: str, who: str) -> None:
    """An error that differed would tell a guesser that the guess was right."""
    for name, absent in names_of_others(world):
        for there, not_there in zip(arguments(method, name), arguments(method, absent), strict=True):
            responses = [await world.post(who, method, argument) for argument in (there, not_there)]
            seen, expected = ((response.status_code, same_names(world, response.text)) for response in responses)
            if method in RUNS:  # random seeds
                seen, expected = ((status, without_answers(text)) for status, text in (seen, expected))
            assert seen == expected, (there, not_there)
            assert not re.search("canaryprompt|canarycontent", responses[0].text + responses[1].text)


def without_answers(text: str) -> str:
    """A run's record without what is drawn at random, and without what its own earlier calls have left in its cache."""
    text = re.sub(r'"(output|conversation|prompt_remaining)":"(?:[^"\\]|\\.)*"', "", text)
    return re.sub(r'"[a-z_]+":(?:\d+|true|false|null)', "", text)


@pytest.mark.parametrize("who", OTHERS)
@pytest.mark.parametrize("path", VIEWS)
async def test_no_view_tells(world: World, path: str, who: str) -> None:
    seen = everything_of(await world.callers[who].get(path))
    assert not CANARY.search(seen)
    assert world.principals["alice"] not in seen


@pytest.mark.parametrize("who", OTHERS)
async def test_files_answer_alike(world: World, who: str) -> None:
    client = world.callers[who]
    for name, absent in names_of_others(world):
        if ".." in name:
            continue  # the client would resolve it
        for verb in ("GET", "HEAD", "PUT"):
            answers = [
                await client.request(verb, f"/canisters/llama_cpp/files/{path}", content=b"x" * (verb == "PUT"))
                for path in (name, absent)
            ]
            texts = [same_names(world, response.text) for response in answers]
            assert answers[0].status_code == answers[1].status_code
            assert texts[0] == texts[1]


async def test_the_same_prompt_costs_a_stranger_what_it_cost_the_first(world: World) -> None:
    """Prefixes are shared within a principal only: neither counters nor costs tell that somebody asked this before."""

    async def ask(who: str, cache: str) -> dict[str, object]:
        args = ["--prompt-cache", cache, "--prompt-cache-all", "-p", PROMPT, "-n", "1", "--seed", "7"]
        answer = (await world.post(who, "run_update", {"args": args})).json()["Ok"]
        log = (await world.post(who, "get_call_log", {"max_entries": 1})).json()["Ok"][0]
        return {name: answer[name] for name in answer if name.startswith("n_")} | {"cost": log["instructions"]}

    first = await ask("alice", "fresh")
    assert first == await ask("bob", "fresh")
    assert first == await ask("carol", CACHE)
    assert first["n_prompt_tokens_cached"] == 0
    again = await ask("alice", "fresh")
    assert again["n_prompt_tokens_cached"] != 0
    estimates = [
        (await world.post(who, "estimate_run", {"args": ["--prompt-cache", CACHE, "-p", PROMPT]})).json()["Ok"]
        for who in ("alice", "bob")
    ]
    assert [estimate["n_prompt_tokens_cached"] for estimate in estimates] != [0, 0]
    assert estimates[1]["n_prompt_tokens_cached"] == 0


async def test_everybody_sees_the_own_calls_and_chats(world: World) -> None:
    """The tests above would pass if nothing were told to anybody."""
    assert CANARY.search((await world.post("alice", "get_chats")).text)
    for who in ("alice", "bob"):
        await world.post(who, "new_chat", {"args": ["--prompt-cache", "own"]})
        entries = (await world.post(who, "get_call_log", {"max_entries": None, "before_id": None})).json()["Ok"]
        assert {entry["caller"] for entry in entries} == {world.principals[who]}
    tree = (await world.post("controller", "recursive_dir_content_query", {"dir": ".", "max_entries": 0})).text
    assert {"canarycache", "canarylog", "canaryname", "canarymodel"} <= set(CANARY.findall(tree))


async def test_a_log_of_one_caller_meets_no_other(world: World) -> None:
    """The log file's name is free to everybody, also one that a file of others has."""
    for name in (FILE, LOG, MODEL):
        response = await world.post("bob", "run_update", {"args": ["-p", "x", "-n", "1", "--log-file", name]})
        assert response.status_code == 200, response.text
    data = await world.callers["controller"].get(f"/canisters/llama_cpp/files/{FILE}")
    assert data.text == "canarycontent"
    own = f".canister_cache/{world.principals['bob']}/logs/{FILE}"
    assert (await world.callers["controller"].get(f"/canisters/llama_cpp/files/{own}")).status_code == 200
