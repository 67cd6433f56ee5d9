"""Models from elsewhere, fetched into a folder: from a web address, or from a repository of Hugging Face.

An interrupted download continues where it stopped, and the result is compared with the SHA-256 that its source tells.
The hub is HF_ENDPOINT, else huggingface.co. A private repository needs HF_TOKEN.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from canister.client.http_library import httpx, is_loopback
from canister.client.transfer import TransferError
from canister.model_file.parts import PartName
from canister.system.hashing import sha256_of_file

Progress = Callable[[int, int], None]  # bytes done, bytes in all

HUB = "hf:"
SUFFIX = ".gguf"
FAVOURITES = ("Q4_K_M", "Q8_0")  # for a source without a quantization, as llama.cpp chooses
PAUSES_SECONDS = (1.0, 2.0, 4.0, 8.0)  # between attempts that got nothing
TIMEOUT = httpx.Timeout(60.0, connect=10.0)
MAX_NAME_BYTES = 240  # file systems take 255, of which endings such as .part.etag need some
MAGIC = b"GGUF"
SPARE_BYTES = 100_000_000  # that a download leaves to others
LOOK_BYTES = 16_000_000  # between looks at what is left
_REPOSITORY = re.compile(r"([\w.-]+/[\w.-]+)(?::([\w.-]+))?")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """name: without folders. place: a URL, or the path inside a repository. sha256: hex; None: unknown."""

    name: str
    place: str
    n_bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Remote:
    """A model elsewhere, all of its parts. repository, revision: of the hub; empty for a web address."""

    files: tuple[RemoteFile, ...]
    repository: str = ""
    revision: str = ""


def find(source: str, sha256: str | None = None) -> Remote:
    """The model that `https://…` or `hf:user/repo[:quantization]` means. sha256: to compare a file with. Raises
    TransferError.
    """
    if source.startswith(HUB):
        return _find_in_hub(source.removeprefix(HUB), sha256)
    try:
        parts = urlsplit(source)
    except ValueError as error:  # half an IPv6 address
        raise TransferError(f"{source!r} is no address: {error}") from error
    name = PurePosixPath(unquote(parts.path)).name
    if not (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(source))) or not parts.hostname:
        raise TransferError(f"{source!r} is no place of models: give https://… or {HUB}user/repo[:quantization]")
    if not name.lower().endswith(SUFFIX):
        raise TransferError(f"{source!r} does not end in a file name such as model{SUFFIX}")
    _check_name(name)
    return Remote((RemoteFile(name, source, sha256=sha256),))


def _check_name(name: str) -> None:
    """Raise TransferError for a name that no file can have here or in a canister, or that would play with a
    terminal.
    """
    if not name.isprintable():
        raise TransferError(f"{name!r} has characters that a file name must not have")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise TransferError(f"the file name {name[:40]}… has {len(name.encode())} bytes, at most {MAX_NAME_BYTES} go")


def fetch(remote: Remote, folder: Path, progress: Progress) -> list[Path]:
    """The files, in their order, in this folder, which is made if missing. Raises TransferError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _check_room(sum(file.n_bytes or 0 for file in remote.files), folder)
        return [_fetch(remote, file, folder, progress) for file in remote.files]
    except OSError as error:
        raise TransferError(f"{folder} does not take the model: {_reason(error)}; --folder names another") from error


def _check_room(n_bytes: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise TransferError(f"the model has {n_bytes} bytes, and {folder} has room for {free}; free some, or --folder")


def _fetch(remote: Remote, file: RemoteFile, folder: Path, progress: Progress) -> Path:
    if remote.repository:
        path, sha256 = _fetch_from_hub(remote, file, folder), file.sha256
    else:
        path, told = _fetch_url(file, folder, progress)
        sha256 = file.sha256 or told
    if sha256 is not None and (found := sha256_of_file(path)) != sha256.lower():
        path.unlink()
        raise TransferError(f"{file.name} arrived with SHA-256 {found}, not {sha256}: thrown away; pull it again")
    return path


# -- Hugging Face


def _find_in_hub(text: str, sha256: str | None) -> Remote:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    match = _REPOSITORY.fullmatch(text)
    if match is None:
        raise TransferError(f"'{HUB}{text}' is no repository: it looks like {HUB}user/repo or {HUB}user/repo:Q4_K_M")
    repository, quantization = match[1], match[2]
    try:
        info = HfApi().model_info(repository, files_metadata=True)
    except (HfHubHTTPError, HFValidationError, httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        raise TransferError(f"{HUB}{repository}: {_reason(error)}") from error
    except (KeyError, TypeError, AttributeError) as error:  # the library trusts what it reads
        raise TransferError(f"{HUB}{repository}: what answers is no hub") from error
    found = [
        RemoteFile(
            PurePosixPath(sibling.rfilename).name,
            sibling.rfilename,
            sibling.size if isinstance(sibling.size, int) else None,
            sibling.lfs.sha256 if sibling.lfs is not None else None,
        )
        for sibling in info.siblings or []
        if sibling.rfilename.lower().endswith(SUFFIX)
    ]
    files = choose(found, quantization, f"{HUB}{repository}")
    for file in files:
        if any(step in ("", ".", "..") for step in file.place.split("/")) or "\\" in file.place:
            raise TransferError(f"{HUB}{repository} has {file.place!r}, which leads out of its folder")
        for step in file.place.split("/"):
            _check_name(step)
    if sha256 is not None and len(files) == 1:
        files = (RemoteFile(files[0].name, files[0].place, files[0].n_bytes, sha256),)
    return Remote(files, repository, info.sha or "main")


def choose(files: Sequence[RemoteFile], quantization: str | None, source: str) -> tuple[RemoteFile, ...]:
    """The file of a repository that is meant, or all parts of it. TransferError names the existing ones."""
    models: dict[str, list[RemoteFile]] = {}
    for file in sorted(files, key=lambda file: file.place):
        if "mmproj" not in file.name.lower() and "imatrix" not in file.name.lower():
            part = PartName.read(file.place)
            models.setdefault(file.place if part is None else part.siblings()[0], []).append(file)
    if not models:
        raise TransferError(f"{source} has no {SUFFIX} file")
    wanted = (quantization,) if quantization is not None else FAVOURITES
    for name in wanted:
        mark = re.compile(rf"(?<![a-z0-9]){re.escape(name.lower())}(?![a-z0-9_])")
        fitting = [parts for place, parts in models.items() if mark.search(PurePosixPath(place).stem.lower())]
        if len(fitting) == 1:
            return _whole(fitting[0], source)
    if quantization is None and len(models) == 1:
        return _whole(next(iter(models.values())), source)
    names = ", ".join(PurePosixPath(place).name for place in models)
    raise TransferError(f"{source}: which of {names}? Name the quantization: {source}:Q4_K_M")


def _whole(parts: list[RemoteFile], source: str) -> tuple[RemoteFile, ...]:
    name = PartName.read(parts[0].place)
    if name is not None and len(parts) != name.count:
        raise TransferError(f"{source} has {len(parts)} of the {name.count} parts of {parts[0].name}")
    return tuple(parts)


def _fetch_from_hub(remote: Remote, file: RemoteFile, folder: Path) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        found = hf_hub_download(remote.repository, file.place, revision=remote.revision, local_dir=folder)
    except (HfHubHTTPError, HFValidationError, httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        raise TransferError(f"{file.place} of {remote.repository}: {_reason(error)}; pull again to go on") from error
    return Path(found)


# -- web addresses


def _fetch_url(file: RemoteFile, folder: Path, progress: Progress) -> tuple[Path, str | None]:
    """The file, and the SHA-256 that its server tells."""
    path, part = folder / file.name, folder / f"{file.name}.part"
    mark = folder / f"{file.name}.part.etag"  # of what the part is the beginning
    pauses = list(PAUSES_SECONDS)
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            sha256 = _fetch_rest(file, part, mark, progress)
            break
        except (httpx.TooManyRedirects, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise TransferError(f"{file.place} leads nowhere: {_reason(error)}") from error
        except httpx.TransportError as error:
            if not _is_broken_off(error):
                raise TransferError(f"{file.place} answers what is no HTTP: {_reason(error)}") from error
            n_bytes = part.stat().st_size if part.exists() else 0
            if n_bytes > before:
                pauses = list(PAUSES_SECONDS)
            if not pauses:
                why = f"{file.place} broke off after {n_bytes} bytes: {_reason(error)}"
                raise TransferError(f"{why}; pull again to go on") from error
            time.sleep(pauses.pop(0))
    mark.unlink(missing_ok=True)
    os.replace(part, path)
    return path, sha256


def _fetch_rest(file: RemoteFile, part: Path, mark: Path, progress: Progress) -> str | None:
    first = part.stat().st_size if part.exists() and mark.exists() else 0
    headers = {"Accept-Encoding": "identity"}
    if first:
        headers |= {"Range": f"bytes={first}-", "If-Range": mark.read_text(encoding="utf-8")}
    request = httpx.stream("GET", file.place, headers=headers, timeout=TIMEOUT, follow_redirects=True)
    with request as response:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink()
            raise httpx.ReadError("what is here is longer than the file", request=response.request)
        if not response.is_success:
            raise TransferError(f"{file.place}: HTTP {response.status_code} {response.reason_phrase}".rstrip())
        if response.status_code != httpx.codes.PARTIAL_CONTENT:
            first = 0
        told = [*(past.headers for past in response.history), response.headers]
        etag = response.headers.get("etag", "")
        validator = etag if not etag.startswith("W/") else ""
        validator = validator or response.headers.get("last-modified", "")
        if validator and validator.isascii() and validator.isprintable():
            mark.write_text(validator, encoding="utf-8")
        else:
            mark.unlink(missing_ok=True)
        encoding = response.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise TransferError(f"{file.place} comes as {encoding[:40]!r}, though it was not asked for that")
        total = first + _length(file, response.headers.get("content-length", "0"))
        _check_room(total - first, part.parent)
        n_bytes = _write(file, part, first, total, response.iter_raw(), progress)
        if total > first and n_bytes != total:
            raise httpx.ReadError(f"{n_bytes} of {total} bytes came", request=response.request)
    hashes = (header.get(name, "").strip('"') for header in told for name in ("x-linked-etag", "etag"))
    return next((text for text in hashes if _SHA256.fullmatch(text)), None)


def _length(file: RemoteFile, told: str) -> int:
    """The length of a body; 0: unknown. Raises TransferError, since a server that sends nonsense will send it again."""
    if not (told.isascii() and told.isdigit() and len(told) <= 19):
        raise TransferError(f"{file.place} has a length of {told[:40]!r}, which is none")
    return int(told)


def _write(file: RemoteFile, part: Path, first: int, total: int, blocks: Iterator[bytes], progress: Progress) -> int:
    """Write the rest of a file behind its first bytes. Returns its size. Raises TransferError, and no part is left
    then.
    """
    n_bytes, looked_at, head = first, first, b""
    try:
        with part.open("r+b" if first else "w+b") as out:
            head = out.read(min(first, len(MAGIC)))
            out.seek(first)
            for block in blocks:
                head += block[: len(MAGIC) - len(head)]
                if not MAGIC.startswith(head):
                    raise TransferError(f"{file.name} is no model: Not a GGUF file, but one that begins with {head!r}")
                out.write(block)
                n_bytes += len(block)
                if not total and n_bytes - looked_at >= LOOK_BYTES:
                    looked_at = n_bytes
                    _check_spare(file, part.parent, n_bytes)
                progress(n_bytes, total or n_bytes)
    except TransferError:
        part.unlink(missing_ok=True)
        part.with_name(f"{part.name}.etag").unlink(missing_ok=True)
        raise
    return n_bytes


def _check_spare(file: RemoteFile, folder: Path, n_bytes: int) -> None:
    if shutil.disk_usage(folder).free < SPARE_BYTES:
        raise TransferError(
            f"{file.place} does not tell its length, and after {n_bytes} bytes {folder} is nearly full: thrown away; "
            "free some, or --folder"
        )


def _is_broken_off(error: httpx.TransportError) -> bool:
    """Was the connection lost? Otherwise the next answer will be no better, such as `Content-Length: -5`."""
    is_protocol = isinstance(error, httpx.RemoteProtocolError)
    return not is_protocol or str(error).startswith(("peer closed connection", "Server disconnected"))


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else "no answer"
