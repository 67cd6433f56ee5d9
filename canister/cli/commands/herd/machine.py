"""`canister herd machine`: make this machine one of a herd's, on which workers are started."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from canister.errors import BadRequest


def machine(
    folder: Annotated[Path, typer.Option(metavar="DIR", help="Folder for this machine's workers.", show_default=False)],
    head: Annotated[bool, typer.Option("--head", help="This is the cluster's head; there is one.")] = False,
    address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Address of the head.", show_default=False)
    ] = None,
    own_address: Annotated[
        str | None,
        typer.Option(metavar="IP", help="Address by which the other machines reach this one.", show_default=False),
    ] = None,
    cpus: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Cores for workers. [default: all]", show_default=False)
    ] = None,
    gpus: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="GPUs for workers. [default: all]", show_default=False)
    ] = None,
    has: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=N", help="What workers can ask for by name; repeatable.", show_default=False),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The cluster's token. [default: ~/.ray/auth_token]", show_default=False),
    ] = None,
) -> None:
    """Run Ray on this machine for a herd, until SIGTERM or Ctrl-C.

    All machines need the same token: whoever has it, and reaches Ray's ports, runs programs on all of them. So keep the
    machines in a private network. docs/herd-machines.md goes through it.
    """
    from canister.herd.launch import ray_machine

    if head == (address is not None):
        raise BadRequest("a machine is the head (--head), or has one (--address HOST:PORT): give one of the two")
    if importlib.util.find_spec("ray") is None:
        raise BadRequest("a herd on many machines needs ray, which is not here: pip install 'llama-canister[herd]'")
    known = (token_file or Path("~/.ray/auth_token")).expanduser().absolute()
    is_set = os.environ.keys() & {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}
    if (token_file is not None or not is_set) and not known.is_file():
        raise BadRequest(f"no token in {known}: make one at the head by `ray get-auth-token --generate`, and copy it")
    folder = folder.expanduser().absolute()
    for needed in (folder, folder / "head") if head else (folder,):
        needed.mkdir(mode=0o700, parents=True, exist_ok=True)
    this = ray_machine.Machine(folder, address, own_address, cpus, gpus, ray_machine.resources(has or ()))
    environment = os.environ | ray_machine.environment(this, None if is_set and token_file is None else known)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    command = [sys.executable, "-m", "ray.scripts.scripts", *ray_machine.arguments(this)]
    os.execve(sys.executable, command, environment)
