"""Arguments and replies of the methods, as Candid and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from pydantic import TypeAdapter

from canister.api import codec, management
from canister.api.examples import EXAMPLES
from canister.api.methods import BY_NAME, METHODS, Method
from canister.api.records import (
    MAX_FLAGS,
    AccessInputRecord,
    AdminRole,
    AdminRoleAssignment,
    ApiError,
    CacheCleanupConfigInput,
    CopyPromptCacheInputRecord,
    FileDownloadRecord,
    InputRecord,
    RunOutputRecord,
    StatusCodeRecord,
)
from canister.api.rest_only import ROWS
from canister.errors import BadArgument
from canister.ic.annotations import result_type
from canister.ic.candid import pretty
from canister.ic.candid.encode import encode
from canister.ic.candid.parse import parse_args
from canister.ic.candid.types import CandidError

RUN = BY_NAME["run_update"]
HEALTH = BY_NAME["health"]
ROLES = BY_NAME["getAdminRoles"]
ASSIGNMENT = AdminRoleAssignment(
    principal="p", role=AdminRole.AdminUpdate, note="", assignedBy="2vxsx-fae", assignedAt=2**63
)
OUTPUT = RunOutputRecord(status_code=200, output="it's ü", n_prompt_tokens=3)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_argument_goes_over_the_wire_and_through_text(method: Method) -> None:
    value = None if method.arg is None else TypeAdapter(method.arg).validate_python(EXAMPLES[method.name])
    assert codec.decode_args(method, codec.encode_args(method, value)) == value
    assert codec.args_from_text(method, codec.args_to_text(method, value)) == value


@pytest.mark.parametrize(
    ("method", "value", "is_err"),
    [
        (RUN, OUTPUT, False),
        (RUN, RunOutputRecord(status_code=401, error="Access Denied"), True),
        (HEALTH, StatusCodeRecord(), False),
        (HEALTH, ApiError(Other=""), True),
        (HEALTH, ApiError(StatusCode=500), True),
        (ROLES, [ASSIGNMENT, ASSIGNMENT], False),
        (ROLES, [], False),
        (BY_NAME["whoami"], "2vxsx-fae", False),
        (
            BY_NAME["file_download_chunk"],
            FileDownloadRecord(chunk=b"GG\0", chunksize=3, filesize=3, offset=0, done=True),
            False,
        ),
    ],
)
def test_replies(method: Method, value: object, is_err: bool) -> None:
    answer = codec.Answer(value, is_err)
    assert codec.decode_reply(method, codec.encode_reply(method, value, is_err)) == answer
    types = (result_type(method.ok, method.err, codec.MARKS),)
    for width in (pretty.WIDTH, None):
        text = codec.reply_to_text(method, value, is_err, width=width)
        assert encode(types, parse_args(text, types)) == codec.encode_reply(method, value, is_err)


def test_bytes_on_the_wire() -> None:
    assert codec.encode_args(RUN, InputRecord(args=["-p"])).hex() == "4449444c026c01dd9ad28304016d71010001022d70"
    assert codec.encode_args(HEALTH).hex() == "4449444c0000"


def test_fields_with_other_names_in_python_and_absent_options() -> None:
    copy = BY_NAME["copy_prompt_cache"]
    assert codec.args_from_text(copy, '(record { from = "a"; to = "b" })') == CopyPromptCacheInputRecord(
        **{"from": "a"}, to="b"
    )
    config = BY_NAME["set_cache_cleanup_config"]
    assert codec.decode_args(config, codec.encode_args(config, CacheCleanupConfigInput())) == CacheCleanupConfigInput()
    assert codec.args_from_text(config, "(record { ttl_seconds = opt 0 })") == CacheCleanupConfigInput(ttl_seconds=0)


def test_a_value_alone_is_taken_as_dfx_takes_it() -> None:
    assert codec.args_from_text(RUN, 'record { args = vec { "x" } }') == InputRecord(args=["x"])
    for text in ("2vxsx-fae", '"2vxsx-fae"', '("2vxsx-fae")'):
        assert codec.args_from_text(BY_NAME["revokeAdminRole"], text) == "2vxsx-fae"


def test_surplus_arguments_are_ignored() -> None:
    assert codec.decode_args(HEALTH, codec.encode_args(RUN, InputRecord(args=[]))) is None
    assert codec.args_from_text(HEALTH, '(record { args = vec { "x" } })') is None


def test_replies_as_icp_and_dfx_print_them() -> None:
    assert codec.reply_to_text(HEALTH, StatusCodeRecord()) == "(variant { Ok = record { status_code = 200 : nat16 } })"
    one_line = codec.reply_to_text(HEALTH, StatusCodeRecord(), width=None)
    assert one_line == "(variant { Ok = record { status_code = 200 : nat16;} })"
    denied = codec.reply_to_text(HEALTH, ApiError(Other="Access Denied"), True)
    assert denied == '(variant { Err = variant { Other = "Access Denied" } })'
    lines = codec.reply_to_text(RUN, OUTPUT).splitlines()
    assert lines[3] == "      n_prompt_tokens = opt (3 : nat64);"
    assert lines[4] == '      output = "it\\\'s ü";'
    assert lines[5] == "      n_tokens_generated = null;"


def test_replies_as_dfx_shows_them_in_json() -> None:
    assert codec.reply_to_json(ROLES, [ASSIGNMENT]) == {
        "Ok": [
            {
                "principal": "p",
                "assignedAt": str(2**63),
                "assignedBy": "2vxsx-fae",
                "note": "",
                "role": {"AdminUpdate": None},
            }
        ]
    }
    record = codec.reply_to_json(RUN, OUTPUT)["Ok"]
    assert record["n_prompt_tokens"] == ["3"]
    assert record["n_tokens_generated"] == []


def test_wrong_arguments_are_told() -> None:
    takes = "; run_update takes (record { args : vec text })"
    for data, problem in (
        (b"", "the message ends 4 bytes too early"),
        (codec.encode_args(HEALTH), "argument 0: record { args : vec text } is wanted, and there are only 0 arguments"),
        (
            codec.encode_args(BY_NAME["set_access"], AccessInputRecord(level=1)),
            "argument 0: field args is missing: vec text",
        ),
    ):
        with pytest.raises(BadArgument) as caught:
            codec.decode_args(RUN, data)
        assert str(caught.value) == f"failed to decode call arguments: {problem}{takes}"
    with pytest.raises(BadArgument, match=r"call arguments: line 1, column 23: text expected, not 1; run_update takes"):
        codec.args_from_text(RUN, "(record { args = vec {1} })")


def test_wrong_replies_are_told() -> None:
    with pytest.raises(CandidError):
        codec.decode_reply(HEALTH, b"DIDL\0\0")


def lists_of(schema: Any) -> Iterator[dict[str, Any]]:
    """The list schemas within a core schema of pydantic, but those of any JSON at all, in which nothing is wrong."""
    if isinstance(schema, Mapping):
        if schema.get("type") == "tagged-union" and "list" in schema.get("choices", {}):
            return
        if schema.get("type") == "list":
            yield schema
        schema = list(schema.values())
    if isinstance(schema, list | tuple):
        for inner in schema:
            yield from lists_of(inner)


TAKING = [row for row in (*METHODS, *ROWS, *management.METHODS) if row.arg is not None]


def test_lists_from_strangers_are_bounded_and_end_at_their_first_mistake() -> None:
    found = {row.name: list(lists_of(TypeAdapter(row.arg).core_schema)) for row in TAKING}
    for name, lists in found.items():
        for one in lists:
            assert one.get("fail_fast") is True, name
            assert one.get("max_length") is not None, name
    some = {"run_update", "load_model", "estimate_run", "apply_template", "put_chat", "update_settings"}
    assert some <= {name for name, lists in found.items() if lists}


def test_a_list_that_is_too_long_is_told_with_its_bound_through_both_doors() -> None:
    args = InputRecord.model_construct(args=["x"] * (MAX_FLAGS + 1))
    for decode in (
        lambda: codec.decode_args(RUN, codec.encode_args(RUN, args)),
        lambda: codec.args_from_json(RUN, {"args": args.args}),
    ):
        with pytest.raises(BadArgument, match=r"field args: List should have at most 10000 items.*, not 10001"):
            decode()
    assert len(codec.args_from_json(RUN, {"args": args.args[1:]}).args) == MAX_FLAGS


def test_one_mistake_of_a_list_is_told() -> None:
    with pytest.raises(BadArgument) as caught:
        codec.args_from_json(RUN, {"args": [1] * 9000})
    assert str(caught.value) == (
        "The argument of run_update does not decode: field args.0: Input should be a valid string (given: 1)."
    )


def test_candid_text_is_read_no_further_than_its_bound() -> None:
    text = "(record { args = vec {" + '"a";' * codec.MAX_TOKENS + "} })"
    with pytest.raises(BadArgument, match="more than 200000 words, numbers, texts and marks"):
        codec.args_from_text(RUN, text)
