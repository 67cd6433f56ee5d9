"""A place for objects by its name: a folder, or `s3://BUCKET/PREFIX?endpoint=URL&region=NAME`."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from canister.errors import BadRequest
from canister.herd.objects.folder import FolderObjects
from canister.herd.objects.objects import Objects

_SCHEME = "s3://"
_OPTIONS = ("endpoint", "region")


async def open_objects(place: str, environment: dict[str, str] | None = None) -> Objects:
    """Open a folder, made if need be, or a bucket. Keys of a bucket stand in the environment, as for Amazon's tools.

    BadRequest when the name makes no sense, or obstore is not installed; ObjectsUnavailable for a folder that cannot be
    made. A bucket is not asked yet.
    """
    if "://" not in place:
        return await FolderObjects.open(await asyncio.to_thread(lambda: Path(place).expanduser().absolute()))
    given = os.environ if environment is None else environment
    if not place.startswith(_SCHEME):
        raise BadRequest(f"objects lie in a folder or in s3://BUCKET, not in {place!r}")
    try:
        from canister.herd.objects.s3 import Bucket, S3Objects
    except ImportError as error:
        raise BadRequest(f"objects in S3 need obstore ({error}): pip install 'llama-canister[herd]'") from error
    parts = urlsplit(place)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(set(options) - set(_OPTIONS))
    if not parts.hostname or unknown or parts.username or parts.fragment:
        what = f"unknown: {', '.join(unknown)}" if unknown else "the bucket's name is missing, or more than it is there"
        raise BadRequest(
            f"{place!r} is not s3://BUCKET/PREFIX?endpoint=URL&region=NAME ({what}); keys stand in AWS_ACCESS_KEY_ID "
            "and AWS_SECRET_ACCESS_KEY"
        )
    endpoint = options.get("endpoint") or given.get("AWS_ENDPOINT_URL_S3") or given.get("AWS_ENDPOINT_URL") or ""
    if endpoint and not endpoint.startswith(("http://", "https://")):
        raise BadRequest(f"the endpoint {endpoint!r} is no http:// or https:// URL")
    region = options.get("region") or given.get("AWS_REGION") or given.get("AWS_DEFAULT_REGION") or "us-east-1"
    return S3Objects(
        Bucket(
            parts.netloc,
            unquote(parts.path).strip("/"),
            endpoint.rstrip("/"),
            region,
            given.get("AWS_ACCESS_KEY_ID", ""),
            given.get("AWS_SECRET_ACCESS_KEY", ""),
            given.get("AWS_SESSION_TOKEN", ""),
        )
    )
