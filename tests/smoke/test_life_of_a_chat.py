"""The life of a chat, call by call, against any server and any model; see conftest.py for how to aim it."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.smoke.conftest import Json, Wire

GREEDY = ("--samplers", "temperature", "--temp", "0.0")
PROMPT = "Joe loves writing stories"
TOKENS_PER_CALL = 5
CACHE = ("--prompt-cache", "smoke-test.cache", "--prompt-cache-all")
COPY = ("--prompt-cache", "smoke-test-copy.cache", "--prompt-cache-all")
SMALL_FILE = "smoke-test/notes.txt"


@pytest.fixture
def chat(loaded: Wire) -> Iterator[Wire]:
    """A canister at few tokens per call, without prompt caches of ours before and after."""
    limits = {"max_tokens_update": TOKENS_PER_CALL, "max_tokens_query": TOKENS_PER_CALL}
    loaded.ok("set_max_tokens", limits)
    for cache in (CACHE, COPY):
        loaded.ok("remove_prompt_cache", {"args": cache})
    yield loaded
    for cache in (CACHE, COPY):
        loaded.ok("remove_prompt_cache", {"args": cache})


def step(chat: Wire, prompt: str, cache: tuple[str, ...] = CACHE) -> Json:
    """One run_update; whatever it did, its numbers add up."""
    record = chat.run(*cache, *GREEDY, "-n", "3", "-p", prompt)
    n_fed = record["n_prompt_tokens_cached"] + record["n_prompt_tokens_decoded"]
    assert n_fed + record["n_prompt_tokens_remaining"] == record["n_prompt_tokens"]
    assert record["n_prompt_tokens_decoded"] + record["n_tokens_generated"] <= TOKENS_PER_CALL
    if record["n_prompt_tokens_remaining"]:
        assert record["n_tokens_generated"] == 0
        assert record["prompt_remaining"]
    assert (record["status_code"], record["error"]) == (200, "")
    return record


def ingest(chat: Wire, prompt: str = PROMPT) -> list[Json]:
    """Calls with the whole prompt, until nothing of it remains."""
    records = [step(chat, prompt)]
    while records[-1]["prompt_remaining"]:
        records.append(step(chat, prompt))
        assert records[-1]["n_prompt_tokens_remaining"] < records[-2]["n_prompt_tokens_remaining"]
    return records


def test_health(canister: Wire, anonymous: Wire) -> None:
    assert canister.ok("health") == {"status_code": 200}
    assert anonymous.ok("health") == {"status_code": 200}


def test_callers(canister: Wire, anonymous: Wire) -> None:
    assert anonymous.call("whoami").document == "2vxsx-fae"
    assert canister.call("whoami").document != "2vxsx-fae"
    assert canister.ok("check_access") == {"status_code": 200}


def test_unknown_key_is_refused_and_never_anonymous(target: tuple[str, str, str | None]) -> None:
    stranger = Wire(target[0], target[1], "lc_00000000_" + "A" * 43)
    with stranger.http:
        assert stranger.call("health").status == 401


@pytest.mark.parametrize("method", ["load_model", "new_chat", "run_update", "run_query", "remove_prompt_cache"])
def test_anonymous_may_not_use_the_model(method: str, anonymous: Wire) -> None:
    answer = anonymous.call(method, {"args": ["--model", "models/model.gguf"]})
    assert answer.status == 401
    record = answer.document["Err"]
    assert (record["status_code"], record["error"], record["output"]) == (401, "Access Denied", "")


@pytest.mark.parametrize(
    ("method", "arg"),
    [
        ("check_access", None),
        ("get_memory_status", None),
        ("set_max_tokens", {"max_tokens_update": 0, "max_tokens_query": 0}),
        ("file_upload_chunk", {"filename": "f", "chunk": "", "chunksize": 0, "offset": 0}),
        ("file_download_chunk", {"filename": "f", "chunksize": 1, "offset": 0}),
        ("copy_prompt_cache", {"from": "a", "to": "b"}),
        ("filesystem_remove", {"filename": "f"}),
        ("set_access", {"level": 1}),
        ("getAdminRoles", None),
    ],
)
def test_anonymous_may_not_touch_the_rest(method: str, arg: Json, anonymous: Wire) -> None:
    answer = anonymous.call(method, arg)
    assert (answer.status, answer.document) == (401, {"Err": {"Other": "Access Denied"}})


def test_upload_keeps_size_and_hash(canister: Wire, uploaded: str, model: Path) -> None:
    content = model.read_bytes()
    assert canister.ok("uploaded_file_details", {"filename": uploaded}) == {
        "filename": uploaded,
        "filesize": len(content),
        "filesha256": hashlib.sha256(content).hexdigest(),
    }
    size = canister.ok("filesystem_file_size", {"filename": uploaded})
    assert (size["exists"], size["filesize"]) == (True, len(content))


def test_download_gives_the_same_bytes(canister: Wire, uploaded: str, model: Path) -> None:
    assert canister.download(uploaded) == model.read_bytes()


def test_model_is_ready(loaded: Wire) -> None:
    assert loaded.ok("ready") == {"status_code": 200}
    memory = loaded.ok("get_memory_status")
    assert memory["wasm_heap_bytes"] % 65536 == memory["stable_bytes"] % 65536 == 0
    assert memory["stable_bytes"] > 0


def test_load_model_tells_what_is_missing(loaded: Wire) -> None:
    record = loaded.call("load_model", {"args": []}).document["Err"]
    assert record["error"] == "--model not provided in args. Do not know what model to load."
    missing = loaded.call("load_model", {"args": ["--model", "models/none.gguf"]})
    assert missing.status == 404
    assert "models/none.gguf" in missing.document["Err"]["error"]
    assert loaded.ok("ready") == {"status_code": 200}  # the model from before is still there


def test_max_tokens_are_kept(canister: Wire) -> None:
    for limits in ({"max_tokens_update": 7, "max_tokens_query": 3}, {"max_tokens_update": 0, "max_tokens_query": 0}):
        assert canister.ok("set_max_tokens", limits) == {"status_code": 200}
        assert canister.call("get_max_tokens").document == limits


def test_new_chat(chat: Wire) -> None:
    caller = chat.call("whoami").document
    path = f".canister_cache/{caller}/sessions/smoke-test.cache"
    assert chat.ok("new_chat", {"args": CACHE})["output"] == f"Ready to start a new chat for cache file {path}"
    answer = chat.call("new_chat", {"args": []})
    assert answer.document["Err"]["error"] == "ERROR: path_session is empty "
    assert answer.document["Err"]["status_code"] == 500


def test_prompt_goes_in_over_several_calls_and_a_further_one_goes_on(chat: Wire) -> None:
    chat.ok("new_chat", {"args": CACHE})
    records = ingest(chat)
    n_prompt = records[0]["n_prompt_tokens"]
    assert len(records) == math.ceil(n_prompt / TOKENS_PER_CALL)
    assert [record["n_prompt_tokens"] for record in records] == [n_prompt] * len(records)
    assert [record["n_prompt_tokens_cached"] for record in records] == list(range(0, n_prompt, TOKENS_PER_CALL))
    n_generated = records[-1]["n_tokens_generated"]
    further = step(chat, "")
    assert further["n_prompt_tokens"] == further["n_prompt_tokens_cached"] == n_prompt + n_generated
    assert further["n_prompt_tokens_decoded"] == 0
    assert further["output"] or further["generated_eog"]


def test_cut_into_calls_or_not_the_text_is_the_same(chat: Wire) -> None:
    # With -n 1 the call that takes the last of the prompt keeps no token of the answer: the next one gives it again.
    while chat.run(*CACHE, *GREEDY, "-n", "1", "-p", PROMPT)["prompt_remaining"]:
        pass
    text = ""
    for _ in range(4):
        record = chat.run(*CACHE, *GREEDY, "-p", "")
        text += record["output"]
        if record["generated_eog"]:
            break
    chat.ok("set_max_tokens", {"max_tokens_update": 0, "max_tokens_query": 0})
    chat.ok("remove_prompt_cache", {"args": CACHE})
    whole = chat.run(*CACHE, *GREEDY, "-n", "64", "-p", PROMPT)["output"]
    assert text.strip()
    assert whole.startswith(text)


def test_copy_of_a_prompt_cache_goes_on_as_the_original_does(chat: Wire) -> None:
    ingest(chat)
    names = {"from": "smoke-test.cache", "to": "smoke-test-copy.cache"}
    assert chat.ok("copy_prompt_cache", names) == {"status_code": 200}
    assert step(chat, "") == step(chat, "", COPY)
    # and back: the first one stands again where the copy was made
    chat.ok("remove_prompt_cache", {"args": COPY})
    missing = chat.call("copy_prompt_cache", {"from": "smoke-test-copy.cache", "to": "smoke-test.cache"})
    assert missing.status == 404
    assert missing.document["Err"]["Other"].endswith("does not exist.")


def test_restored_prompt_cache_forgets_what_came_later(chat: Wire) -> None:
    ingest(chat)
    chat.ok("copy_prompt_cache", {"from": "smoke-test.cache", "to": "smoke-test-copy.cache"})
    first = step(chat, "")
    chat.ok("copy_prompt_cache", {"from": "smoke-test-copy.cache", "to": "smoke-test.cache"})
    assert step(chat, "") == first


def test_query_leaves_no_trace(chat: Wire) -> None:
    ingest(chat)
    args = [*CACHE, *GREEDY, "-n", "3", "-p", ""]
    first = chat.ok("run_query", {"args": args})
    assert chat.ok("run_query", {"args": args}) == first
    assert step(chat, "") == first


def test_removed_prompt_cache_starts_cold(chat: Wire) -> None:
    step(chat, PROMPT)
    assert chat.ok("remove_prompt_cache", {"args": CACHE})["output"].endswith("deleted successfully")
    assert chat.ok("remove_prompt_cache", {"args": CACHE})["output"].endswith("not found. Nothing to delete.")
    assert step(chat, PROMPT)["n_prompt_tokens_cached"] == 0


def test_bad_flag_is_told(chat: Wire) -> None:
    answer = chat.call("run_update", {"args": [*CACHE, "--tempp", "0"]})
    record = answer.document["Err"]
    assert (answer.status, record["status_code"]) == (400, 500)
    assert record["error"].startswith("Cannot parse args.")
    assert "--temp" in record["error"]


def test_life_of_a_file(canister: Wire) -> None:
    content = b"first line\nsecond line\n"
    canister.upload(SMALL_FILE, content, chunk_bytes=11)
    last = base64.b64encode(content[22:]).decode()
    retry = {"filename": SMALL_FILE, "chunk": last, "chunksize": 11, "offset": 22}
    assert canister.ok("file_upload_chunk", retry)["filesize"] == len(content)
    assert canister.download(SMALL_FILE, chunk_bytes=10) == content
    size = canister.ok("filesystem_file_size", {"filename": SMALL_FILE})
    assert size["msg"] == f"File exists: {SMALL_FILE}\nFile size: {len(content)} bytes\n"
    created = canister.ok("get_creation_timestamp_ns", {"filename": SMALL_FILE})
    assert created["timestamp_ns"] > 0
    for method in ("recursive_dir_content_query", "recursive_dir_content_update"):
        entries = canister.ok(method, {"dir": "smoke-test", "max_entries": 0})
        assert {"filename": SMALL_FILE, "filetype": "file"} in entries
    full = canister.call("filesystem_remove", {"filename": "smoke-test"}).document["Err"]["Other"]
    assert full.startswith("filesystem_remove_: Failed to remove: smoke-test: ")
    removed = canister.ok("filesystem_remove", {"filename": SMALL_FILE})
    assert (removed["removed"], removed["msg"]) == (True, f"Path removed successfully: {SMALL_FILE}")
    again = canister.ok("filesystem_remove", {"filename": SMALL_FILE})
    assert (again["exists"], again["removed"]) == (False, False)
    missing = canister.call("filesystem_file_size", {"filename": SMALL_FILE})
    assert missing.document["Err"]["Other"] == f"File does not exist: {SMALL_FILE}"
    canister.ok("filesystem_remove", {"filename": "smoke-test"})


def test_nothing_leaves_stable_memory(canister: Wire) -> None:
    for name in ("../controller.key", "/etc/passwd", "a/../../b"):
        assert canister.call("filesystem_file_size", {"filename": name}).status == 400
