"""The way into the door: all of its routes are behind it, and nothing else; its code is loaded by the first request."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.routing import Route

from canister.api.methods import METHODS
from canister.server.doors.openai.entrance import is_of_door
from canister.server.doors.openai.routes import FORMS, routes

WITHIN = {"{canister}": "llama_cpp", "{path:any}": "a/b", "{model:any}": "a/b", "{id}": "resp_1"}


def path_of(route: Route) -> str:
    path = route.path
    for parameter, value in WITHIN.items():
        path = path.replace(parameter, value)
    return path


@pytest.mark.parametrize("route", routes(), ids=lambda route: route.path)
def test_each_route_is_behind_it(route: Route) -> None:
    assert is_of_door(path_of(route))


@pytest.mark.parametrize(
    "path", ["/", "/healthz", "/metrics", "/canisters", "/api/v2/status", "/canisters/v1", "/docs"]
)
def test_other_paths_are_not(path: str) -> None:
    assert not is_of_door(path)


@given(st.sampled_from(FORMS).flatmap(lambda form: st.from_regex(form[0], fullmatch=True)))
def test_what_is_refused_in_a_form_of_the_door_is_behind_it(path: str) -> None:
    assert is_of_door(path)


def test_methods_are_not() -> None:
    names = [method.name for method in METHODS if is_of_door(f"/{method.name}")]
    assert names == ["health"]  # at the root, where llama.cpp's clients ask for it


def test_a_server_starts_without_its_code() -> None:
    code = "import sys, canister.server.app; print('canister.server.doors.openai.chat' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
