"""Hatch runs this when the package is built: what is built gets the console's bundle, which no repository holds.

An editable installation gets it into `console/dist`, and so does a source distribution, so that who installs that needs
no npm. A build without npm goes on without the console, and says so.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts import build_console  # hatch loads this file alone

IN_WHEEL = "canister/shipped/console"


class ConsoleHook(BuildHookInterface[Any]):
    PLUGIN_NAME = "custom"
    _folder: Path | None = None

    def dependencies(self) -> list[str]:
        """What the build needs besides: node and npm, where the machine has none."""
        if _is_unpacked(build_console.SOURCES / "dist"):
            return []
        try:
            build_console.tools()
        except build_console.NoConsole:
            return [build_console.NEEDS] if build_console.is_wanted() and _has_node_wheel() else []
        return []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        bundle = build_console.SOURCES / "dist"
        if self.target_name == "wheel" and _is_unpacked(bundle):
            build_data["force_include"][str(bundle)] = IN_WHEEL
            return
        is_editable = version == "editable"  # the server finds the bundle of a checkout where it is
        if not build_console.is_wanted() or (is_editable and bundle.exists()):
            return
        if not is_editable:
            self._folder = Path(tempfile.mkdtemp())
        fresh = bundle if self._folder is None else self._folder / "console"
        try:
            build_console.build(fresh)
        except build_console.NoConsole as error:
            if not (bundle / "index.html").is_file():
                self.app.display_warning(f"the package is built without the web console: {error}")
                return
            fresh = bundle
        if not is_editable:
            build_data["force_include"][str(fresh)] = IN_WHEEL if self.target_name == "wheel" else "console/dist"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _is_unpacked(bundle: Path) -> bool:
    """Is this a source distribution that came with the bundle?"""
    return (build_console.ROOT / "PKG-INFO").is_file() and (bundle / "index.html").is_file()


def _has_node_wheel() -> bool:
    """Is there a binary for this platform? Its source would be compiled for an hour."""
    import platform

    return sys.platform in ("linux", "darwin", "win32") and platform.machine().lower() in (
        "x86_64",
        "amd64",
        "aarch64",
        "arm64",
    )
