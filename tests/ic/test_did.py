"""From Python annotations to the text of a `.did` file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import Field

from canister.api.methods import METHODS
from canister.api.record_types import Candid, Record, Tag, Variant, blob, nat64, text
from canister.api.records import ApiError, FileEntry, RunOutputRecord, StatusCodeRecord
from canister.ic.annotations import Marks, result_name
from canister.ic.candid.types import label_text
from canister.ic.did import render

MARKS = Marks(type_marker=Candid, variant=Variant)


@dataclass
class Row:
    name: str = "method"
    mode: str = "update"
    arg: Any = None
    ok: Any = text
    err: Any = None
    doc: str = ""


class Colour(Tag):
    Red = "Red"
    opt = "opt"


class Inner(Record):
    data: blob


class Outer(Record):
    from_: text = Field(alias="from")
    principal: text
    colour: Colour
    many: list[nat64]
    maybe: nat64 | None = None
    inner: list[Inner] | None = None


class Choice(Variant):
    A: nat64 | None = None
    B: Inner | None = None


def test_a_record_with_everything() -> None:
    assert render([Row(arg=Outer)], MARKS) == (
        'type Colour = variant {\n  Red;\n  "opt";\n};\n\n'
        "type Inner = record {\n  data : blob;\n};\n\n"
        "type Outer = record {\n"
        "  from : text;\n"
        '  "principal" : text;\n'
        "  colour : Colour;\n"
        "  many : vec nat64;\n"
        "  maybe : opt nat64;\n"
        "  inner : opt vec Inner;\n"
        "};\n\n"
        "service : {\n  method : (Outer) -> (text);\n}\n"
    )


def test_a_variant_has_tags_not_options() -> None:
    assert "type Choice = variant {\n  A : nat64;\n  B : Inner;\n};" in render([Row(ok=Choice)], MARKS)


def test_results_are_named() -> None:
    lines = render([Row(mode="query", doc="What it does.\n\nAnd more.", ok=StatusCodeRecord, err=ApiError)], MARKS)
    assert "type StatusCodeRecordResult = variant {\n  Ok : StatusCodeRecord;\n  Err : ApiError;\n};" in lines
    assert "  // What it does.\n  //\n  // And more.\n  method : () -> (StatusCodeRecordResult) query;\n" in lines
    assert result_name(RunOutputRecord) == "OutputRecordResult"
    assert result_name(list[FileEntry]) == "DirContentRecordResult"
    assert result_name(list[Inner]) is None
    assert "(variant { Ok : text; Err : ApiError })" in render([Row(err=ApiError)], MARKS)


def test_a_type_is_defined_once() -> None:
    assert render([Row(arg=Inner), Row(name="other", arg=Inner)], MARKS).count("type Inner") == 1


def test_two_types_of_one_name_are_refused() -> None:
    with pytest.raises(TypeError, match="two different Candid types are named StatusCodeRecordResult"):
        render([Row(ok=StatusCodeRecord, err=ApiError), Row(ok=StatusCodeRecord, err=Inner)], MARKS)


def test_types_without_candid_counterpart_are_refused() -> None:
    with pytest.raises(TypeError, match="int"):
        render([Row(ok=int)], MARKS)  # how large may it be?
    assert "() -> (float64)" in render([Row(ok=float)], MARKS)


@pytest.mark.parametrize(
    ("name", "written"), [("a_b1", "a_b1"), ("query", '"query"'), ("1a", '"1a"'), ("with space", '"with space"')]
)
def test_labels(name: str, written: str) -> None:
    assert label_text(name) == written


def test_the_interface_names_the_results_of_the_specification() -> None:
    did = render(METHODS, MARKS)
    names = (
        "OutputRecordResult StatusCodeRecordResult FileDownloadRecordResult FileUploadRecordResult "
        "FileDetailsRecordResult GetChatsRecordResult AccessRecordResult FilesystemFileSizeRecordResult "
        "FilesystemTimestampRecordResult FilesystemRemoveRecordResult DirContentRecordResult CacheCleanupResult "
        "CacheCleanupStatsResult CacheCleanupConfigResult CycleBalanceRecordResult MemoryStatusRecordResult"
    )
    for name in names.split():
        assert f"type {name} = variant {{\n" in did, name
    assert "  get_max_tokens : () -> (MaxTokensRecord) query;" in did
    assert "  revokeAdminRole : (text) -> (variant { Ok : text; Err : ApiError });" in did
