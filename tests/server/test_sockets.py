"""The socket on which a server listens."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from canister.errors import BadRequest, Conflict
from canister.server.sockets import bind, bind_file, listening, url_of


def test_a_free_port_is_picked() -> None:
    with bind("127.0.0.1", 0) as listener:
        assert url_of(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_taken_port() -> None:
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(Conflict, match=f"port {port} of 127.0.0.1 is in use.*--port"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize("host", ["host.invalid", "192.0.2.1", "::g"])
def test_addresses_that_cannot_be_had(host: str) -> None:
    with pytest.raises(BadRequest, match="--host"):
        bind(host, 0)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_ipv6_stands_in_brackets() -> None:
    try:
        listener = bind("::1", 0)
    except BadRequest:
        pytest.skip("no IPv6 loopback here")
    with listener:
        assert url_of(listener) == f"http://[::1]:{listener.getsockname()[1]}"


def test_all_addresses_are_called_at_the_loopback() -> None:
    with bind("0.0.0.0", 0) as listener:
        port = listener.getsockname()[1]
        assert url_of(listener) == f"http://0.0.0.0:{port}"
        assert url_of(listener, for_clients=True) == f"http://127.0.0.1:{port}"


# -- socket files


def test_a_socket_file_is_for_its_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with listening(f"unix:{path}", "127.0.0.1", 0) as listener:
        assert url_of(listener) == url_of(listener, for_clients=True) == f"unix:{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with pytest.raises(Conflict, match=r"s\.sock is in use.*--listen"):
            bind_file(str(path))
    assert not path.exists()


def test_what_a_dead_server_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    bind_file(str(path)).close()
    assert path.exists()
    with bind_file(str(path)), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_the_socket_of_another_server_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with listening(f"unix:{path}", "", 0) as listener:
        listener.close()
        other = bind_file(str(path))
    with other:
        assert path.exists()


@pytest.mark.parametrize(
    ("name", "told"), [("file", "is no socket"), ("no/folder", "No such file"), ("x" * 120, "too long")]
)
def test_paths_that_cannot_be_had(name: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a socket")
    with pytest.raises((BadRequest, Conflict), match=f"{told}.*--listen"):
        bind_file(str(tmp_path / name))
    assert (tmp_path / "file").read_text() == "not a socket"


def test_the_mask_of_the_process_stays(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        bind_file(str(tmp_path / "s.sock")).close()
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
