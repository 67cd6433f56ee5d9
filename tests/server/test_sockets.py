"""The socket on which a server listens."""

from __future__ import annotations

import socket

import pytest

from canister.errors import BadRequest, Conflict
from canister.server.sockets import bind, url_of


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
