"""How paths are spelled, and which are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canister.errors import BadRequest
from canister.store.paths import ancestors_of, clean_file_path, clean_folder, clean_path, name_of, parent_of


@pytest.mark.parametrize(
    ("path", "clean"),
    [
        ("a", "a"),
        ("./a", "a"),
        ("a//b", "a/b"),
        ("a/./b/", "a/b"),
        (".canister_cache/x/sessions/c", ".canister_cache/x/sessions/c"),
        ("...", "..."),
        ("a..b/..c", "a..b/..c"),
        ("größe/模型.gguf", "größe/模型.gguf"),
        ("a b", "a b"),
        ("x" * 255, "x" * 255),
        ("/".join(["x" * 127] * 8), "/".join(["x" * 127] * 8)),
    ],
)
def test_one_spelling(path: str, clean: str) -> None:
    assert clean_path(path) == clean


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "names no file"),
        (".", "names no file"),
        ("./", "names no file"),
        ("/", "absolute"),
        ("/etc/passwd", "absolute"),
        ("..", r"contains '\.\.'"),
        ("a/../b", r"contains '\.\.'"),
        ("a\\b", "backslash"),
        ("a\0b", "control character"),
        ("a\nb", "control character"),
        ("a\x7fb", "control character"),
        ("a\x85b", "control character"),
        ("a\ud800b", "surrogate"),
        ("x" * 256, "more than 255 bytes"),
        ("ü" * 128, "more than 255 bytes"),
    ],
)
def test_refused(path: str, reason: str) -> None:
    with pytest.raises(BadRequest, match=reason) as caught:
        clean_path(path)
    assert repr(path) in str(caught.value)
    str(caught.value).encode()


@pytest.mark.parametrize("path", ["/".join(["x" * 128] * 8), "/".join(["ü" * 70] * 8), "./" * 1_000_000 + "a"])
def test_too_long(path: str) -> None:
    with pytest.raises(BadRequest, match="more than 1024 bytes; shorten it") as caught:
        clean_path(path)
    assert len(str(caught.value)) < 200


def test_a_file_is_not_named_as_a_folder() -> None:
    assert clean_file_path("a/./b") == "a/b"
    for path in ("a/", "a/."):
        with pytest.raises(BadRequest, match=r"names a folder.*use 'a'"):
            clean_file_path(path)


def test_the_root_may_be_named_as_a_folder() -> None:
    assert [clean_folder(path) for path in ("", ".", "./", "a/", "...")] == ["", "", "", "a", "..."]
    for path in ("/", "..", "./.."):
        with pytest.raises(BadRequest):
            clean_folder(path)


def test_parts() -> None:
    assert (parent_of("a/b/c"), name_of("a/b/c"), ancestors_of("a/b/c")) == ("a/b", "c", ["a", "a/b"])
    assert (parent_of("a"), name_of("a"), ancestors_of("a")) == ("", "a", [])


@given(st.text(alphabet=st.sampled_from("ab./\\\0\n\ud800ü"), max_size=12))
def test_what_is_clean_stays_inside(path: str) -> None:
    try:
        clean = clean_path(path)
    except BadRequest:
        return
    assert clean_path(clean) == clean
    assert not set(clean.split("/")) & {"", ".", ".."}
