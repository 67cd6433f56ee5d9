"""Records as JSON: what is taken, what is given, and what is refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from canister.api.examples import EXAMPLES
from canister.api.methods import METHODS
from canister.api.record_types import Record
from canister.api.records import (
    AccessInputRecord,
    AdminRole,
    ApiError,
    AssignAdminRoleInputRecord,
    CacheCleanupConfigInput,
    CopyPromptCacheInputRecord,
    FileUploadInputRecord,
    InputRecord,
    MaxTokensRecord,
    RunOutputRecord,
)


def from_json(record: Any, **fields: object) -> Any:
    return TypeAdapter(record).validate_json(json.dumps(fields))


def upload(chunk: object = "", chunksize: object = 0, offset: object = 0) -> FileUploadInputRecord:
    made = from_json(FileUploadInputRecord, filename="f", chunk=chunk, chunksize=chunksize, offset=offset)
    assert isinstance(made, FileUploadInputRecord)
    return made


@given(st.integers(0, 2**64 - 1))
def test_natural_numbers_may_be_strings(number: int) -> None:
    assert upload(offset=number).offset == number
    assert upload(offset=str(number)).offset == number


@pytest.mark.parametrize("number", [-1, "-1", 2**64, str(2**64), 1.0, 1.5, True, None, "", "x", "0x10", "1e3", [], {}])
def test_what_is_no_natural_number(number: object) -> None:
    with pytest.raises(ValidationError):
        upload(offset=number)


def test_nat16() -> None:
    assert from_json(AccessInputRecord, level=65_535).level == 65_535
    with pytest.raises(ValidationError):
        from_json(AccessInputRecord, level=65_536)


@given(st.binary(max_size=200))
def test_blobs_are_base64(data: bytes) -> None:
    record = upload(chunk=base64.b64encode(data).decode())
    assert record.chunk == data
    assert json.loads(record.model_dump_json())["chunk"] == base64.b64encode(data).decode()


@pytest.mark.parametrize("chunk", ["R0dVRg=", "R0dVRg", "R0 dVRg==", "R0dV-_==", "é", 7, None, ["R0dVRg=="]])
def test_what_is_no_base64(chunk: object) -> None:
    with pytest.raises(ValidationError):
        upload(chunk=chunk)


def test_a_variant_without_payload_is_its_tag() -> None:
    for role in ("AdminQuery", {"AdminQuery": None}):
        record = from_json(AssignAdminRoleInputRecord, principal="p", role=role, note="")
        assert record.role is AdminRole.AdminQuery
        assert json.loads(record.model_dump_json())["role"] == "AdminQuery"


@pytest.mark.parametrize(
    "role",
    ["adminquery", "", None, {}, {"AdminQuery": 1}, {"AdminQuery": None, "AdminUpdate": None}, {"Other": None}, [], 0],
)
def test_what_is_no_tag(role: object) -> None:
    with pytest.raises(ValidationError):
        from_json(AssignAdminRoleInputRecord, principal="p", role=role, note="")


def test_a_variant_has_one_tag() -> None:
    assert ApiError(Other="x").model_dump_json(exclude_none=True) == '{"Other":"x"}'
    with pytest.raises(ValidationError, match="exactly one of Other, StatusCode"):
        ApiError()
    with pytest.raises(ValidationError, match="exactly one of Other, StatusCode"):
        ApiError(Other="x", StatusCode=1)


def test_absent_options_are_null() -> None:
    assert from_json(CacheCleanupConfigInput) == from_json(CacheCleanupConfigInput, ttl_seconds=None)
    record = json.loads(RunOutputRecord(status_code=200).model_dump_json())
    assert record["n_prompt_tokens"] is None
    assert len(record) == 11


def test_fields_that_are_not_known_are_ignored() -> None:
    record = from_json(MaxTokensRecord, max_tokens_update=1, max_tokens_query="2", more="x")
    assert record == MaxTokensRecord(max_tokens_update=1, max_tokens_query=2)


def test_a_field_that_python_cannot_name() -> None:
    record = from_json(CopyPromptCacheInputRecord, **{"from": "a", "to": "b"})
    assert record.from_ == "a"
    assert json.loads(record.model_dump_json(by_alias=True)) == {"from": "a", "to": "b"}


@pytest.mark.parametrize("args", ["-p", [1], [None], None, {}, [["-p"]]])
def test_args_are_a_list_of_texts(args: object) -> None:
    with pytest.raises(ValidationError):
        from_json(InputRecord, args=args)


def test_records_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        InputRecord(args=[]).args = ["x"]  # type: ignore[misc]


@pytest.mark.parametrize("method", [method for method in METHODS if method.arg is not None], ids=lambda m: m.name)
def test_every_argument_has_an_example_that_decodes(method: Any) -> None:
    value = TypeAdapter(method.arg).validate_json(json.dumps(EXAMPLES[method.name]))
    assert isinstance(value, Record | str)


def test_no_example_is_left_over() -> None:
    assert set(EXAMPLES) == {method.name for method in METHODS if method.arg is not None}
