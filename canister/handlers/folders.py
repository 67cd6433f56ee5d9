"""Folders of stable memory as REST shows them, and removal of files over REST.

The interface's own methods are `recursive_dir_content_query` and `filesystem_remove`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from canister.api.records import FilesystemRemoveInputRecord, FilesystemRemoveRecord
from canister.api.rest_records import Folder, FolderEntry
from canister.errors import NotFound
from canister.handlers import files, pages

if TYPE_CHECKING:
    from canister.runtime.call import Call
    from canister.store.stable import FileInfo


async def list_folder(call: Call, *, path: str = "", limit: str | None = None, after: str | None = None) -> Folder:
    stable = call.canister.stable
    folder = call.canister.clean_folder(path)
    known = stable.stat(folder) if folder else None
    if folder and (known is None or known.kind != "directory"):
        raise NotFound(f"there is no folder {path!r}")
    asked = pages.Asked.of(limit, after, 1)
    last = 0 if asked.after is None else asked.after[0]
    found, following = asked.told(await asyncio.to_thread(stable.inside, folder, last, asked.n_needed), _place)
    entries = []
    for info in found:
        upload = stable.upload(info.path)
        is_known = upload is not None and upload.size == info.size
        entries.append(
            FolderEntry(
                name=info.path.rpartition("/")[2],
                path=info.path,
                type=info.kind,
                bytes=info.size,
                modified_ns=info.modified_ns,
                sha256=upload.sha256 if upload is not None and is_known else None,
            )
        )
    return Folder(path=folder, entries=entries, **following)


def _place(info: FileInfo) -> pages.Place:
    return (info.id,)


async def remove_file(call: Call, *, path: str) -> FilesystemRemoveRecord:
    done = await files.filesystem_remove(call, FilesystemRemoveInputRecord(filename=path))
    if not done.exists:
        raise NotFound(f"there is no file {path!r}")
    return done
