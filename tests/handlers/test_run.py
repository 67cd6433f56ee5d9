"""run_update, run_query and new_chat, as spec/canister.md §4 has them, on the story model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.engine.gguf_writer import Plain
from tests.engine.tiny_models import llama_model
from tests.harness import CONTROLLER, GREEDY, STORY_MODEL, Harness, canister_in, needs_story_model, someone

pytestmark = [pytest.mark.anyio, needs_story_model]

JOE = "Joe loves writing stories"


@pytest.fixture
async def story(tmp_path: Path) -> AsyncIterator[Harness]:
    async with canister_in(tmp_path) as harness:
        await harness.load(STORY_MODEL, path="models/tiny.gguf")
        yield harness


async def test_four_calls_ingest_and_begin_the_story_and_a_fifth_goes_on(story: Harness) -> None:
    await story.limit(5)
    flags = (*GREEDY, "-n", "3")
    calls = [await story.run(JOE, *flags) for _ in range(4)]
    assert [call.prompt_remaining for call in calls] == [" loves writing stories", "iting stories", "es", ""]
    assert [call.conversation for call in calls][:3] == [" Joe", " Joe loves wr", " Joe loves writing stori"]
    assert [call.n_prompt_tokens_cached for call in calls] == [0, 5, 10, 15]
    assert [call.n_prompt_tokens_decoded for call in calls] == [5, 5, 5, 1]
    assert [call.n_tokens_generated for call in calls] == [0, 0, 0, 2]
    # The last prompt token came alone, but in the batches of the whole prompt it is one of sixteen: it is not echoed.
    assert [call.output for call in calls] == ["", "", "", ". He li"]
    assert calls[3].conversation == " Joe loves writing stories. He"
    fifth = await story.run("", *flags)
    assert fifth.output == " liked to"
    assert fifth.conversation == " Joe loves writing stories. He liked"
    assert fifth.n_prompt_tokens == fifth.n_prompt_tokens_cached == 18
    assert fifth.n_tokens_generated == 2


SMOKE_OUTPUTS = {  # by max_tokens: one output after the other, until the answer has begun twice with an empty prompt
    1: [*[""] * 16, ".", " He"],
    2: [*[""] * 8, ". He", " liked"],
    3: [*[""] * 5, ". He", " liked to", " to play with"],
    5: ["", "", "", ". He li", " liked to", " to play with"],
    16: ["", ". He li", " liked to"],
}


@pytest.mark.parametrize("max_tokens", SMOKE_OUTPUTS)
async def test_the_smoke_sequence_of_the_original_gives_its_outputs(story: Harness, max_tokens: int) -> None:
    await story.limit(max_tokens)
    flags = (*GREEDY, "-n", "3")
    await story.call("remove_prompt_cache", {"args": ["--prompt-cache", "prompt.cache"]})
    await story.call("new_chat", {"args": ["--prompt-cache", "prompt.cache"]})
    outputs, remaining = [], JOE
    while remaining:
        record = await story.run(JOE, *flags)
        outputs.append(record.output)
        remaining = record.prompt_remaining
    for _ in range(2):
        outputs.append((await story.run("", *flags)).output)
    assert outputs == SMOKE_OUTPUTS[max_tokens]
    assert (await story.run("", *GREEDY, "-n", "1")).conversation.startswith(" Joe loves writing stories. He")


@pytest.mark.parametrize(
    ("n_batch", "max_tokens", "echoed"),
    [
        (2048, 0, [""]),
        (5, 0, ["es"]),  # batches of 5, 5, 5 and 1
        (5, 5, ["", "", "", "es"]),
        (5, 6, [" lo", "", "es"]),  # this far, the second batch has one token: then the third has two
        (15, 5, ["", "", "", "es"]),
        (4, 5, ["e", "", "", ""]),
        (1, 8, ["<s> Joe loves", "<s> Joe loves writing stories"]),  # cached ones too
        (2048, 1, ["<s>", *[""] * 15]),
    ],
)
async def test_prompt_tokens_are_echoed_whose_batch_of_the_whole_prompt_has_one_token(
    n_batch: int, max_tokens: int, echoed: list[str], tmp_path: Path
) -> None:
    async with canister_in(tmp_path) as harness:
        await harness.load(STORY_MODEL, "--batch-size", str(n_batch))
        await harness.limit(max_tokens)
        outputs, remaining = [], JOE
        while remaining:
            record = await harness.run(JOE, *GREEDY, "-n", "0", "-sp")
            outputs.append(record.output)
            remaining = record.prompt_remaining
        assert outputs == echoed
        again = await harness.run(JOE, *GREEDY, "-n", "0", "-sp")  # of a cached prompt the batches are the same
        assert again.output == (echoed[-1] if max_tokens != 1 else "")


async def test_the_text_is_that_of_one_uninterrupted_call(story: Harness) -> None:
    whole = await story.run(JOE, *GREEDY, "-n", "40", cache=None)
    await story.limit(7)
    record = await story.run(JOE, *GREEDY)
    for _ in range(20):
        if len(record.conversation) >= len(whole.conversation):
            break
        record = await story.run("" if not record.prompt_remaining else JOE, *GREEDY)
    assert record.conversation.startswith(whole.conversation)


async def test_at_the_token_limit_the_call_ends_with_nothing_lost(story: Harness) -> None:
    await story.limit(6)
    await story.run(JOE, *GREEDY)
    await story.run(JOE, *GREEDY)
    third = await story.run(JOE, *GREEDY)
    assert (third.n_prompt_tokens_decoded, third.n_tokens_generated) == (4, 2)
    fourth = await story.run("", *GREEDY)
    assert fourth.n_tokens_generated == 6
    assert fourth.conversation == third.conversation + fourth.output


async def test_a_prompt_of_other_words_reuses_the_common_prefix_only(story: Harness) -> None:
    first = await story.run(JOE, *GREEDY, "-n", "0")
    other = await story.run("Joe loves eating", *GREEDY, "-n", "0")
    assert other.n_prompt_tokens_cached is not None
    assert 0 < other.n_prompt_tokens_cached < (first.n_prompt_tokens or 0)
    assert other.conversation == " Joe loves eating"
    back = await story.run(JOE, *GREEDY, "-n", "5")
    assert back.n_prompt_tokens_cached == other.n_prompt_tokens_cached
    alone = await story.run(JOE, *GREEDY, "-n", "5", cache=None)
    assert back.output == alone.output


async def test_a_full_prompt_sent_again_is_served_from_the_cache(story: Harness) -> None:
    await story.run(JOE, *GREEDY, "-n", "0")
    again = await story.run(JOE, *GREEDY, "-n", "4")
    assert again.n_prompt_tokens_cached == again.n_prompt_tokens
    assert again.n_prompt_tokens_decoded == 0
    assert again.output == ". He li" or again.output.startswith(". He li")


async def test_without_cache_nothing_is_kept(story: Harness) -> None:
    await story.run(JOE, *GREEDY, "-n", "2", cache=None)
    assert await story.fails("recursive_dir_content_query", {"dir": ".canister_cache", "max_entries": 0}) == (
        "recursive_dir_content_: Directory does not exist: .canister_cache\n"
    )


async def test_a_query_changes_nothing(story: Harness) -> None:
    await story.run(JOE, *GREEDY, "-n", "3")
    before = await _stable_files(story)
    first = await story.run("", *GREEDY, "-n", "4", query=True)
    second = await story.run("", *GREEDY, "-n", "4", query=True)
    assert first == second
    assert await _stable_files(story) == before
    kept = await story.run("", *GREEDY, "-n", "4")
    assert kept.output == first.output


async def test_a_read_only_cache_is_used_and_not_written(story: Harness) -> None:
    await story.run(JOE, *GREEDY, "-n", "3")
    before = await _stable_files(story)
    ro = await story.run("", *GREEDY, "-n", "4", "--prompt-cache-ro")
    assert ro.n_tokens_generated == 3
    assert await _stable_files(story) == before


async def test_a_vocabulary_that_asks_for_eos_or_a_separator_changes_no_prompt(tmp_path: Path) -> None:
    asked: list[dict[str, Plain]] = [{}, {"add_eos_token": True}, {"add_sep_token": True, "seperator_token_id": 2}]
    records = []
    for n, flags in enumerate(asked):
        changes: dict[str, Plain] = {f"tokenizer.ggml.{name}": value for name, value in flags.items()}
        file = llama_model(tmp_path / f"{n}.gguf", changes=changes)
        async with canister_in(tmp_path / str(n)) as harness:
            await harness.load(file)
            await harness.limit(4)
            records.append([await harness.run("w1 w2 w3", *GREEDY, "-n", "4", "-sp") for _ in range(4)])
    assert records[0] == records[1] == records[2]
    assert records[0][-1].conversation.startswith("<s> w1 w2 w3")


async def test_errors_of_a_run(story: Harness) -> None:
    long = "word " * 600
    reply = await story.reply("run_update", {"args": ["-p", long]})
    assert reply.error is not None
    assert "prompt is too long (" in str(reply.error)
    assert "max 124)" in str(reply.error)
    record = reply.value.model_dump()  # type: ignore[attr-defined]
    assert record["status_code"] == 500
    assert record["n_prompt_tokens"] is None
    assert (await story.fails("run_update", {"args": ["--temp"]})).startswith("Cannot parse args.")
    assert (await story.fails("run_update", {"args": ["--tempp", "1"]})).startswith("Cannot parse args.")
    assert await story.fails("new_chat", {"args": []}) == "ERROR: path_session is empty "
    assert await story.fails("new_chat", {"args": ["--prompt-cache", "///"]}) == "ERROR: path_session is empty "
    assert "'..'" in await story.fails("run_update", {"args": ["--prompt-cache", "../other/sessions/x", "-p", "a"]})


async def test_an_empty_prompt_without_cache_starts_from_bos(story: Harness) -> None:
    record = await story.run("", *GREEDY, "-n", "3", cache=None)
    assert record.n_prompt_tokens == 1
    assert record.n_tokens_generated == 2


async def test_a_full_context_ends_the_call_and_a_further_one_is_ok_and_empty(tmp_path: Path) -> None:
    async with canister_in(tmp_path) as harness:
        await harness.load(STORY_MODEL, "--ctx-size", "32")
        record = await harness.run(JOE, *GREEDY, "-n", "-2")
        assert (record.n_prompt_tokens or 0) + (record.n_tokens_generated or 0) == 32
        full = await harness.run("", *GREEDY)
        assert full.output == ""
        assert full.n_tokens_generated == 0
        assert full.conversation == record.conversation


async def test_a_context_shift_goes_on_and_leaves_the_prompt_in_the_cache(tmp_path: Path) -> None:
    async with canister_in(tmp_path) as harness:
        await harness.load(STORY_MODEL, "--ctx-size", "32")
        record = await harness.run(JOE, *GREEDY, "-n", "60", "--context-shift")
        assert record.n_tokens_generated == 59
        after = await harness.run("", *GREEDY, "-n", "1")
        assert after.n_prompt_tokens == record.n_prompt_tokens


async def test_special_tokens_show_with_sp_only(story: Harness) -> None:
    plain = await story.run(JOE, *GREEDY, "-n", "0", cache=None)
    special = await story.run(JOE, *GREEDY, "-n", "0", "-sp", cache=None)
    assert plain.conversation == " Joe loves writing stories"
    assert special.conversation == "<s> Joe loves writing stories"


async def test_a_reverse_prompt_ends_the_call(story: Harness) -> None:
    record = await story.run(JOE, *GREEDY, "-n", "50", "-r", "liked")
    assert record.output.endswith("liked")
    assert record.n_tokens_generated is not None
    assert record.n_tokens_generated < 10


async def test_saved_chats(story: Harness) -> None:
    assert await story.fails("get_chats") == "get_chats: DB_CHATS_ACTIVE is false"
    await story.call("chats_resume")
    assert (await story.call("get_chats")).chats == []
    texts = []
    for n in range(5):
        record = await story.call("new_chat", {"args": ["--prompt-cache", f"{n}.cache"]})
        assert record.output == (
            f"Ready to start a new chat for cache file .canister_cache/{CONTROLLER}/sessions/{n}.cache"
        )
        texts.append((await story.run(JOE, *GREEDY, "-n", str(n + 1), cache=f"{n}.cache")).conversation)
    chats = (await story.call("get_chats")).chats
    assert [chat.chat for chat in chats] == texts[:1:-1]
    await story.call("set_access", {"level": 1})
    assert (await story.call("get_chats", caller=someone(7))).chats == []
    await story.call("chats_pause")
    assert await story.fails("get_chats") == "get_chats: DB_CHATS_ACTIVE is false"


async def test_a_log_file_tells_of_each_run_and_never_spoils_another_file(story: Harness) -> None:
    for _ in range(2):
        await story.run(JOE, *GREEDY, "-n", "2", "--log-file", "logs/main.log")
    chunk = await story.call("file_download_chunk", {"filename": "logs/main.log", "chunksize": 2_000_000, "offset": 0})
    log = chunk.chunk.decode()
    assert log.count("number of tokens in prompt = 16") == 2
    assert "temperature = 0.0" in log
    assert "models/tiny.gguf" in await story.fails(
        "run_update", {"args": ["-p", JOE, "-n", "1", "--log-file", "models/tiny.gguf"]}
    )
    removed = await story.call("remove_log_file", {"args": ["--log-file", "logs/main.log"]})
    assert removed.output == "Successfully removed log file: logs/main.log"
    again = await story.call("remove_log_file", {"args": ["--log-file", "logs/main.log"]})
    assert again.output == removed.output


async def test_the_output_of_a_prompt_in_many_bytes_is_whole_characters(story: Harness) -> None:
    hindi = "धैर्य पर एक सूक्ति लिखिए"
    await story.limit(1)
    for _ in range(100):
        record = await story.run(hindi, *GREEDY)
        if not record.n_prompt_tokens_remaining:
            break
    assert record.conversation == " " + hindi
    assert not record.prompt_remaining
    await story.limit(0)
    text = (await story.run("", "--seed", "3", "--temp", "2", "-n", "200")).output
    await story.run(hindi, "-n", "0", cache="b")
    await story.limit(1)
    pieces = [(await story.run("", "--seed", "3", "--temp", "2", cache="b")).output for _ in range(40)]
    assert text.startswith("".join(pieces))
    assert len("".join(pieces)) > 10


async def _stable_files(harness: Harness) -> dict[str, bytes]:
    stable = harness.canister.stable
    return {
        entry.path: stable.read(entry.path, 0, entry.size) for entry in stable.walk("", 0) or [] if entry.kind == "file"
    }
