"""`canister doctor`: what is wrong with a data folder, and what can be mended."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def doctor(
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", metavar="DIR", help="Data folder of the server.", show_default=False),
    ] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Mend everything that can be mended without loss.")] = False,
) -> None:
    """Check a data folder, also while its server runs.

    Databases, files, prompt caches, models, keys. Exit code 0: no problem is left. --repair moves what is in the way to
    quarantine/ and deletes nothing. For that the server must be stopped.
    """
    from canister.cli.shared.settings import data_folder
    from canister.engine.load import library
    from canister.ops.doctor import examine
    from canister.ops.repair import repair as mend
    from canister.system import sandbox
    from canister.system.data_dir import TRIED

    folder = data_folder(data_dir)
    if repair and folder.is_dir():
        done, found = mend(folder)
        for line in done:
            print(f"mended   {line}")
    else:
        found = examine(folder)
    for finding in found.findings:
        how = " [--repair mends it]" if finding.mend else ""
        place = "" if finding.place == "." else f"{finding.place}: "
        print(f"{finding.kind.ljust(7)}  {place}{finding.what}{how}")
    n_problems = len(found.problems)
    print(
        f"{folder}: {found.n_canisters} canisters, {found.n_files} files, of these {found.n_containers} prompt caches "
        f"and {found.n_models} models; {n_problems} problem{'' if n_problems == 1 else 's'}"
        + ("; a server is running" if found.is_running else ""),
        file=sys.stderr,
    )
    print(library.summary(folder / TRIED / library.NOTES), file=sys.stderr)
    version = sandbox.abi()
    words = f"can confine a server (Landlock {version})" if version >= sandbox.MIN_ABI else "cannot confine a server"
    print(f"this kernel {words}; whether one is, its log and the metric canister_confined tell", file=sys.stderr)
    if found.problems:
        raise typer.Exit(1)
