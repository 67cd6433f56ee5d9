"""What dfx and icp ask for around a canister: deploy, create, info, metadata, start, stop, …, as far as it makes sense.

All canisters of a server run the same program and are named when it starts, so there is nothing to build or install. No
help lists these commands; they are for lines written for the other tools.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from canister.cli.shared import status_view
from canister.cli.shared.complete import canister_names
from canister.cli.shared.connection import LOCAL, agent_for, connection, url_of
from canister.cli.shared.managing import manage, public_controllers, report_of, run, text_of
from canister.cli.shared.options import DataDir, Environment, IdentityName, Network, RootKey

CANDID_SERVICE = "candid:service"
SAME_PROGRAM = "every canister of a server runs the same program"

Name = Annotated[
    str, typer.Argument(metavar="CANISTER", help="Name or id of the canister.", autocompletion=canister_names)
]
Names = Annotated[list[str] | None, typer.Argument(metavar="CANISTER", show_default=False)]
All = Annotated[bool, typer.Option("--all", help="All canisters of the server.")]
OfNoUse = Annotated[str | None, typer.Option(hidden=True)]
NoFlag = Annotated[bool, typer.Option("--yes", "-y", "--force", "--no-wallet", hidden=True)]
# Of deploy and install: what would be installed, and how.
Mode = Annotated[str | None, typer.Option("--mode", "-m", hidden=True)]
Wasm = Annotated[str | None, typer.Option("--wasm", "--argument", "--argument-file", "--args", hidden=True)]


def deploy(
    names: Names = None,
    network: Network = LOCAL,
    environment: Environment = None,
    identity: IdentityName = None,
    mode: Mode = None,
    wasm: Wasm = None,
    project_root_override: OfNoUse = None,
    no_flag: NoFlag = False,
) -> None:
    """Show the existing canisters; there is nothing to deploy."""
    _show(_known(network, names or []))
    print(f"nothing to deploy: {SAME_PROGRAM}", file=sys.stderr)


def install(
    names: Names = None,
    all_of_them: All = False,
    network: Network = LOCAL,
    environment: Environment = None,
    identity: IdentityName = None,
    mode: Mode = None,
    wasm: Wasm = None,
    project_root_override: OfNoUse = None,
    no_flag: NoFlag = False,
) -> None:
    """Nothing is installed."""
    _known(network, names or [])
    print(f"nothing to install: {SAME_PROGRAM}, which cannot be replaced", file=sys.stderr)


def build(
    names: Names = None,
    network: Network = LOCAL,
    environment: Environment = None,
    identity: IdentityName = None,
    project_root_override: OfNoUse = None,
) -> None:
    """Nothing is built."""
    print(f"nothing to build: {SAME_PROGRAM}", file=sys.stderr)


def create(
    names: Names = None,
    all_of_them: All = False,
    network: Network = LOCAL,
    environment: Environment = None,
    identity: IdentityName = None,
    project_root_override: OfNoUse = None,
    with_cycles: Annotated[str | None, typer.Option("--with-cycles", "--cycles", hidden=True)] = None,
    no_flag: NoFlag = False,
) -> None:
    """Show the existing canisters; they are named when a server starts."""
    _show(_known(network, names or []))
    print("nothing to create: these canisters are there", file=sys.stderr)


def list_canisters(
    network: Network = LOCAL,
    environment: Environment = None,
    identity: IdentityName = None,
    project_root_override: OfNoUse = None,
) -> None:
    """List the canisters of a server with their ids."""
    _show(_known(network, []))


def info(
    canister: Name,
    network: Network = LOCAL,
    environment: Environment = None,
    identity: IdentityName = None,
    root_key: RootKey = None,
    data_dir: DataDir = None,
    project_root_override: OfNoUse = None,
) -> None:
    """Show what anybody may know of a canister: controllers and module hash."""
    from canister.client.agent import Agent
    from canister.ic import hash_tree

    async def ask(agent: Agent) -> tuple[list[str], bytes | None]:
        id = await agent.id_of(canister)
        path = (b"canister", id, b"module_hash")
        return await public_controllers(agent, id), hash_tree.leaf(await agent.read_state(id, [path]), *path)

    controllers, module_hash = run(agent_for(network, identity, data_dir, root_key), ask)
    print(f"Controllers: {' '.join(controllers)}")
    print(f"Module hash: {'None' if module_hash is None else '0x' + module_hash.hex()}")


def metadata(
    canister: Name,
    section: Annotated[str, typer.Argument(metavar="SECTION", help="candid:service")],
    network: Network = LOCAL,
    environment: Environment = None,
    identity: IdentityName = None,
    root_key: RootKey = None,
    data_dir: DataDir = None,
    project_root_override: OfNoUse = None,
) -> None:
    """Print a section of a canister's metadata: candid:service is its interface."""
    from canister.client.agent import Agent
    from canister.ic import hash_tree

    async def ask(agent: Agent) -> bytes | None:
        id = await agent.id_of(canister)
        path = (b"canister", id, b"metadata", section.encode())
        return hash_tree.leaf(await agent.read_state(id, [path]), *path)

    text = run(agent_for(network, identity, data_dir, root_key), ask)
    if text is None:
        raise typer.BadParameter(f"{canister} has no metadata {section!r}; it has {CANDID_SERVICE}")
    print(text.decode(), end="")


def show_settings(
    canister: Name,
    network: Network = LOCAL,
    environment: Environment = None,
    identity: IdentityName = None,
    root_key: RootKey = None,
    data_dir: DataDir = None,
    project_root_override: OfNoUse = None,
) -> None:
    """Show the settings of a canister."""
    server = connection(network, None, True, data_dir)
    report = run(agent_for(network, identity, data_dir, root_key), lambda agent: report_of(agent, canister, server))
    print(status_view.settings_page(report))


def start_canister(
    names: Names = None,
    all_of_them: All = False,
    network: Network = LOCAL,
    environment: Environment = None,
    identity: IdentityName = None,
    root_key: RootKey = None,
    data_dir: DataDir = None,
    project_root_override: OfNoUse = None,
) -> None:
    """Let a canister accept calls again."""
    _each("start_canister", "started", names, all_of_them, network, identity, data_dir, root_key)


def stop_canister(
    names: Names = None,
    all_of_them: All = False,
    network: Network = LOCAL,
    environment: Environment = None,
    identity: IdentityName = None,
    root_key: RootKey = None,
    data_dir: DataDir = None,
    project_root_override: OfNoUse = None,
) -> None:
    """Stop a canister: it refuses calls, and the server goes on."""
    _each("stop_canister", "stopped", names, all_of_them, network, identity, data_dir, root_key)


def delete_canister(
    names: Names = None,
    network: Network = LOCAL,
    environment: Environment = None,
    identity: IdentityName = None,
    root_key: RootKey = None,
    data_dir: DataDir = None,
    project_root_override: OfNoUse = None,
    no_flag: NoFlag = False,
) -> None:
    """Delete a stopped canister that a message made."""
    _each("delete_canister", "deleted", names, False, network, identity, data_dir, root_key)


def balance(
    who: Annotated[str | None, typer.Argument(metavar="ACCOUNT", show_default=False)] = None,
    network: Network = LOCAL,
    environment: Environment = None,
    identity: IdentityName = None,
    precise: Annotated[bool, typer.Option("--precise", hidden=True)] = False,
    project_root_override: OfNoUse = None,
) -> None:
    """Callers hold nothing here; canisters do."""
    url_of(network)
    print("0 cycles" if precise else "0.000 TC (trillion cycles).")
    _tell_who_holds_cycles()


def icp_balance(
    account: Annotated[str | None, typer.Argument(metavar="ACCOUNT", show_default=False)] = None,
    network: Network = LOCAL,
    environment: Environment = None,
    identity: IdentityName = None,
    project_root_override: OfNoUse = None,
) -> None:
    """Callers hold nothing here; canisters do."""
    url_of(network)
    print("0.00000000 ICP")
    _tell_who_holds_cycles()


def _tell_who_holds_cycles() -> None:
    print(
        "callers hold no cycles here, canisters do: `canister status NAME` shows how many, `canister top-up NAME` "
        "gives some",
        file=sys.stderr,
    )


def _known(network: str, names: list[str]) -> dict[str, str]:
    """Name → id of the named canisters, or of all. A missing name is told with the way to make it."""
    from canister.client.agent import Agent
    from canister.errors import NotFound

    ids = {name: text_of(id) for name, id in run(Agent(url_of(network)), lambda agent: agent.canister_ids()).items()}
    for name in names:
        if name not in (*ids, *ids.values()):
            raise NotFound(
                f"this server has no canister {name!r}, but {', '.join(ids)}; a canister is named when its server "
                f"starts: canister serve {' '.join(f'--canister {one}' for one in (*ids, name))}"
            )
    return {name: id for name, id in ids.items() if not names or {name, id} & set(names)}


def _show(ids: dict[str, str]) -> None:
    for name, id in ids.items():
        print(f"{name} {id}")


def _each(
    method: str,
    done: str,
    names: list[str] | None,
    all_of_them: bool,
    network: str,
    identity: str | None,
    data_dir: Path | None,
    root_key: str | None,
) -> None:
    """Send a message of the management canister that is about a canister and says nothing else."""
    from canister.api.management import CanisterIdRecord
    from canister.client.agent import Agent
    from canister.ic import principal

    if bool(names) == all_of_them:
        raise typer.BadParameter("name a canister, or all of them with --all")
    known = _known(network, names or [])

    async def send(agent: Agent) -> None:
        for name, id in known.items():
            await manage(agent, principal.from_text(id), method, CanisterIdRecord(canister_id=id))
            print(f"{done} {name}", file=sys.stderr)

    run(agent_for(network, identity, data_dir, root_key), send)
