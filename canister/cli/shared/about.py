"""`canister version`, `canister key`: what is installed, and the key of the server's own identity."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from canister.cli.shared.options import DataDir
from canister.defaults import INTERFACE_VERSION


def version(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Print versions: package, interface, llama.cpp."""
    from canister.engine.llama_build import VERSION, build
    from canister.system import distribution

    ggml = build()
    if as_json:
        document = {
            "package": distribution.version(),
            "interface": INTERFACE_VERSION,
            "llama_cpp_python": VERSION,
            "ggml": ggml.version,
            "commit": ggml.commit,
        }
        print(json.dumps(document, indent=2))
        return
    print(f"{distribution.NAME} {distribution.version()}")
    print(f"interface {INTERFACE_VERSION}, of llama_cpp_canister")
    print(f"llama.cpp of llama-cpp-python {VERSION}: ggml {ggml.version}, commit {ggml.commit}")


def version_option(is_asked: bool) -> None:
    """`canister --version`."""
    if is_asked:
        version()
        raise typer.Exit


def key(data_dir: DataDir = None) -> None:
    """Print the API key of a server's controller.

    Whoever has it controls the canisters of that server.
    """
    from canister.cli.shared.settings import data_folder
    from canister.errors import NotFound
    from canister.system.data_dir import CONTROLLER_KEY

    path = data_folder(data_dir) / CONTROLLER_KEY
    if not path.is_file():
        raise NotFound(f"{path} does not exist: the first start of `canister serve` makes it; see --data-dir")
    print(path.read_text(encoding="ascii").strip())
