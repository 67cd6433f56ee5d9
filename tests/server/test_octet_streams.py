"""Files as octet streams: offsets, ranges, conditions, and the same rules as for chunks."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator

import httpx
import pytest

from canister.errors import BadArgument
from canister.server.doors import content_digest
from canister.server.doors.files import byte_range, upload_position

pytestmark = pytest.mark.anyio

URL = "/canisters/llama_cpp/files/"
DATA = bytes(range(256)) * 100


@pytest.fixture
async def stored(controller: httpx.AsyncClient) -> httpx.AsyncClient:
    response = await controller.put(URL + "models/a.bin", content=DATA)
    assert response.status_code == 200
    return controller


async def details(client: httpx.AsyncClient, name: str) -> dict[str, object]:
    content: dict[str, dict[str, object]] = (
        await client.post("/uploaded_file_details", json={"filename": name})
    ).json()
    return content["Ok"]


@pytest.mark.parametrize("verb", ["PUT", "GET"])
async def test_a_name_with_a_line_break_is_refused_by_name(controller: httpx.AsyncClient, verb: str) -> None:
    response = await controller.request(verb, URL + "a%0Ab/c", content=DATA)
    assert response.status_code == 400
    assert "'a\\nb/c' contains a control character" in response.json()["Err"]["Other"]


# -- upload


async def test_an_upload_answers_as_a_chunk_does(controller: httpx.AsyncClient) -> None:
    response = await controller.put(URL + "models/a.bin", content=DATA)
    expected = {"filename": "models/a.bin", "filesize": len(DATA), "filesha256": hashlib.sha256(DATA).hexdigest()}
    assert response.json() == {"Ok": expected}
    assert await details(controller, "models/a.bin") == expected


async def test_an_upload_in_parts(controller: httpx.AsyncClient) -> None:
    total = len(DATA)
    first = await controller.put(URL + "f", content=DATA[:100], headers={"Content-Range": f"bytes 0-99/{total}"})
    assert first.json()["Ok"]["filesize"] == 100
    second = await controller.put(URL + "f", params={"offset": 100}, content=DATA[100:200])
    assert second.json()["Ok"]["filesize"] == 200
    again = await controller.put(URL + "f", params={"offset": 100}, content=DATA[100:200])
    assert again.json() == second.json()
    third = await controller.put(URL + "f", content=DATA[200:], headers={"Content-Range": f"bytes 200-{total - 1}/*"})
    assert third.json()["Ok"]["filesha256"] == hashlib.sha256(DATA).hexdigest()
    anew = await controller.put(URL + "f", content=b"x")
    assert anew.json()["Ok"]["filesize"] == 1


async def test_a_hole_is_refused(stored: httpx.AsyncClient) -> None:
    response = await stored.put(URL + "models/a.bin", params={"offset": len(DATA) + 1}, content=b"x")
    assert response.status_code == 400
    assert f"go on at offset {len(DATA)}" in response.json()["Err"]["Other"]


async def test_an_empty_file(controller: httpx.AsyncClient) -> None:
    assert (await controller.put(URL + "empty")).json()["Ok"]["filesize"] == 0
    response = await controller.get(URL + "empty")
    assert (response.status_code, response.content, response.headers["content-length"]) == (200, b"", "0")


async def test_bytes_that_contradict_content_range(controller: httpx.AsyncClient) -> None:
    url = URL + "contradiction"

    async def blocks(*sizes: int) -> AsyncIterator[bytes]:
        for size in sizes:
            yield bytes(size)

    for content, words in (
        (bytes(9), "the body has 9"),
        (blocks(5, 6), "the body has more"),
        (blocks(5, 4), "the body has 9"),
    ):
        headers = {"Content-Range": "bytes 0-9/10"}
        response = await controller.put(url, content=content, headers=headers)
        assert response.status_code == 400
        assert words in response.json()["reject_message"]
    assert (await controller.get(url)).status_code == 404


def digest(data: bytes, algorithm: str = "sha-256") -> str:
    hashed = hashlib.new(algorithm.replace("-", ""), data).digest()
    return f"{algorithm}=:{base64.b64encode(hashed).decode()}:"


async def test_a_slice_that_came_in_other_bytes_is_refused_and_sent_again(controller: httpx.AsyncClient) -> None:
    url, total = URL + "digested", len(DATA)
    slices = [(0, DATA[:100]), (100, DATA[100:])]
    for first, data in slices:
        placed = {"Content-Range": f"bytes {first}-{first + len(data) - 1}/{total}"}
        flipped = bytes([data[0] ^ 1]) + data[1:]
        refused = await controller.put(url, content=flipped, headers={**placed, "Content-Digest": digest(data)})
        assert refused.status_code == 400
        told = refused.json()["reject_message"]
        assert digest(data).partition("=")[2] in told
        assert digest(flipped).partition("=")[2] in told
        assert "send it again" in told
        size = (await controller.head(url)).headers.get("content-length")
        assert size == (str(first) if first else size)  # nothing of it was stored
        both = f"md5=:{base64.b64encode(b'x').decode()}:, {digest(data, 'sha-512')};a=1,{digest(data)}"
        taken = await controller.put(url, content=data, headers={**placed, "Content-Digest": both})
        assert taken.status_code == 200, taken.text
    assert (await controller.get(url)).content == DATA


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("sha-256", "is not understood"),
        ("sha-256=abc", "is not understood"),
        ("sha-256=:a:", "is not understood"),
        ("sha-256=:YWJj:", "has 32 bytes, and these are 3"),
        ("md5=:YWJj:", "sha-256 and sha-512"),
        ("", "is not understood"),
    ],
)
async def test_a_digest_that_cannot_be_checked_is_told(controller: httpx.AsyncClient, header: str, told: str) -> None:
    response = await controller.put(URL + "undigested", content=b"x", headers={"Content-Digest": header})
    assert response.status_code == 400
    assert told in response.json()["reject_message"]
    assert (await controller.get(URL + "undigested")).status_code == 404


async def test_a_digest_of_much_is_one_of_slices(
    controller: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content_digest, "MAX_BYTES", 99)
    response = await controller.put(URL + "much", content=DATA[:100], headers={"Content-Digest": digest(DATA[:100])})
    assert (response.status_code, "Content-Range" in response.text) == (413, True)
    assert (await controller.get(URL + "much")).status_code == 404


async def test_who_may(anonymous: httpx.AsyncClient, stored: httpx.AsyncClient) -> None:
    for response in (
        await anonymous.put(URL + "denied", content=DATA),
        await anonymous.get(URL + "models/a.bin"),
        await anonymous.get(URL + "missing"),
    ):
        assert response.status_code == 401
        assert response.json() == {"Err": {"Other": "Access Denied"}}
    assert (await stored.get(URL + "denied")).status_code == 404


async def test_verbs(controller: httpx.AsyncClient) -> None:
    for verb in ("POST", "PATCH"):
        response = await controller.request(verb, URL + "f")
        assert response.status_code == 405
        assert response.headers["allow"] == "GET, HEAD, PUT, DELETE"
        assert "reject_message" in response.json()


@pytest.mark.parametrize(
    ("content_range", "offset", "length", "expected"),
    [
        (None, None, None, (0, None)),
        (None, "5", "7", (5, None)),
        ("bytes 0-9/10", None, "10", (0, 10)),
        ("bytes 5-9/*", "5", None, (5, 5)),
        (" bytes 5-9/10 ", None, None, (5, 5)),
    ],
)
def test_positions(content_range: str | None, offset: str | None, length: str | None, expected: object) -> None:
    assert upload_position(content_range, offset, length) == expected


@pytest.mark.parametrize(
    ("content_range", "offset", "length"),
    [
        (None, "-1", None),
        (None, "", None),
        (None, "1e3", None),
        (None, "9" * 30, None),
        ("bytes 5-4/10", None, None),
        ("bytes 0-10/10", None, None),
        ("bytes */10", None, None),
        ("0-9/10", None, None),
        ("bytes 5-9/10", "6", None),
        ("bytes 5-9/10", None, "6"),
    ],
)
def test_positions_that_make_no_sense(content_range: str | None, offset: str | None, length: str | None) -> None:
    with pytest.raises(BadArgument):
        upload_position(content_range, offset, length)


# -- download


async def test_a_whole_file(stored: httpx.AsyncClient) -> None:
    response = await stored.get(URL + "models/a.bin")
    assert response.status_code == 200
    assert response.content == DATA
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["content-length"] == str(len(DATA))
    assert response.headers["accept-ranges"] == "bytes"
    assert response.headers["etag"] == f'"{hashlib.sha256(DATA).hexdigest()}"'
    assert response.headers["x-content-type-options"] == "nosniff"
    head = await stored.head(URL + "models/a.bin")
    assert head.status_code == 200
    assert head.content == b""
    names = ("content-length", "etag", "last-modified", "accept-ranges", "content-type")
    assert [head.headers[name] for name in names] == [response.headers[name] for name in names]


async def test_a_range(stored: httpx.AsyncClient) -> None:
    response = await stored.get(URL + "models/a.bin", headers={"Range": "bytes=10-19"})
    assert response.status_code == 206
    assert response.content == DATA[10:20]
    assert response.headers["content-range"] == f"bytes 10-19/{len(DATA)}"
    assert response.headers["content-length"] == "10"


async def test_a_range_outside(stored: httpx.AsyncClient) -> None:
    response = await stored.get(URL + "models/a.bin", headers={"Range": f"bytes={len(DATA)}-"})
    assert response.status_code == 416
    assert response.headers["content-range"] == f"bytes */{len(DATA)}"
    assert str(len(DATA)) in response.json()["Err"]["Other"]


async def test_conditions(stored: httpx.AsyncClient) -> None:
    whole = await stored.head(URL + "models/a.bin")
    etag, changed = whole.headers["etag"], whole.headers["last-modified"]

    async def status(**headers: str) -> int:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return (await stored.get(URL + "models/a.bin", headers=named)).status_code

    assert await status(If_None_Match=etag) == 304
    assert await status(If_None_Match=f'"x", W/{etag}') == 304
    assert await status(If_None_Match='"x"') == 200
    assert await status(Range="bytes=0-1", If_Range=etag) == 206
    assert await status(Range="bytes=0-1", If_Range=changed) == 206
    assert await status(Range="bytes=0-1", If_Range='"x"') == 200


async def test_a_missing_file(stored: httpx.AsyncClient) -> None:
    missing = await stored.get(URL + "models/missing.bin")
    assert missing.status_code == 404
    assert "failed to open ifstream for file models/missing.bin" in missing.json()["Err"]["Other"]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("bytes=0-", (0, 100)),
        ("bytes=0-0", (0, 1)),
        ("bytes=10-19", (10, 20)),
        ("bytes=90-1000", (90, 100)),
        ("bytes=-10", (90, 100)),
        ("bytes=-1000", (0, 100)),
        ("bytes=0-1,5-6", None),
        ("bytes=5-4", None),
        ("bytes=-", None),
        ("bytes=a-b", None),
        ("lines=0-1", None),
        ("bytes=" + "9" * 30 + "-", None),
    ],
)
def test_ranges(header: str | None, expected: tuple[int, int] | None) -> None:
    assert byte_range(header, 100) == expected


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=1000-2000", "bytes=-0"])
def test_ranges_outside(header: str) -> None:
    with pytest.raises(ValueError, match="100 bytes"):
        byte_range(header, 100)


# -- paths


async def test_paths_are_decoded_once(controller: httpx.AsyncClient) -> None:
    for encoded, name in (("a%20b", "a b"), ("%C3%A9", "é"), ("50%2525", "50%25"), ("d%2Ff", "d/f"), ("x+y", "x+y")):
        response = await controller.put(URL + encoded, content=b"1")
        assert response.status_code == 200, response.text
        assert await details(controller, name)


async def test_a_path_that_is_not_utf_8(controller: httpx.AsyncClient) -> None:
    response = await controller.put(URL + "%ff", content=b"1")
    assert response.status_code == 400
    assert "not UTF-8" in response.json()["reject_message"]


@pytest.mark.parametrize("path", ["%2e%2e/x", "a/%2e%2e/%2e%2e/x", "%2Fetc/passwd", "a%00b", "x" * 300, "a%5Cb%0a"])
async def test_paths_that_lead_outside(controller: httpx.AsyncClient, path: str) -> None:
    for response in (await controller.put(URL + path, content=b"1"), await controller.get(URL + path)):
        assert response.status_code in (400, 404), response.text
        assert response.json()["Err"]["Other"]


async def test_a_folder_is_listed(controller: httpx.AsyncClient, anonymous: httpx.AsyncClient) -> None:
    for path in ("list/a.bin", "list/sub/b.bin"):
        assert (await controller.put(URL + path, content=DATA)).status_code == 200
    listed = (await controller.get(URL + "list/")).json()
    assert listed["path"] == "list"
    file, folder = listed["entries"]
    assert (file["name"], file["path"], file["type"], file["bytes"]) == ("a.bin", "list/a.bin", "file", len(DATA))
    assert file["sha256"] == hashlib.sha256(DATA).hexdigest()
    assert file["modified_ns"] > 1_700_000_000_000_000_000
    assert (folder["name"], folder["type"], folder["bytes"], folder["sha256"]) == ("sub", "directory", 0, None)
    for root in (URL, URL.rstrip("/")):
        assert "list" in [entry["name"] for entry in (await controller.get(root)).json()["entries"]]
    assert (await controller.head(URL + "list/")).status_code == 200
    missing = await controller.get(URL + "nowhere/")
    assert (missing.status_code, missing.json()) == (404, {"Err": {"Other": "there is no folder 'nowhere/'"}})
    assert (await controller.get(URL + "list/a.bin/")).status_code == 404
    assert (await anonymous.get(URL + "list/")).json() == {"Err": {"Other": "Access Denied"}}
    assert (await controller.put(URL + "list/", content=DATA)).status_code == 409


async def test_a_file_is_removed(controller: httpx.AsyncClient, anonymous: httpx.AsyncClient) -> None:
    assert (await controller.put(URL + "gone/a.bin", content=DATA)).status_code == 200
    assert (await anonymous.delete(URL + "gone/a.bin")).status_code == 401
    full = await controller.delete(URL + "gone/")
    assert (full.status_code, "gone" in full.json()["Err"]["Other"]) == (409, True)
    removed = await controller.delete(URL + "gone/a.bin")
    assert (removed.status_code, removed.json()["removed"], removed.json()["filename"]) == (200, True, "gone/a.bin")
    assert (await controller.get(URL + "gone/a.bin")).status_code == 404
    assert (await controller.delete(URL + "gone/a.bin")).json() == {"Err": {"Other": "there is no file 'gone/a.bin'"}}
    assert (await controller.delete(URL + "gone")).status_code == 200
    assert (await controller.delete(URL + "%2e%2e/x")).status_code == 400
