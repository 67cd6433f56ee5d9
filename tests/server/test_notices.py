"""What `canister serve` tells a person."""

from __future__ import annotations

import pytest

from canister.runtime.host import Host
from canister.server.notices import greeting
from canister.server.sockets import bind

pytestmark = pytest.mark.anyio


async def test_the_greeting(host: Host) -> None:
    with bind("127.0.0.1", 0) as listener:
        lines = greeting(listener, host).splitlines()
    assert lines[0].startswith("listening on http://127.0.0.1:")
    text = "\n".join(lines)
    where = str(host.data_dir), str(host.key_path)
    for part in (*where, host.default.id, host.identity.principal, "canister call", "/v1 as their base URL"):
        assert part in text
    assert host.key_path.read_text().strip() not in text


# -- clients that go away
