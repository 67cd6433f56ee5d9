"""What Lighthouse says of the console, signed in, on a desktop and a slow telephone; docs/console.md has the figures.

npm fetches Lighthouse into a folder of its own, or LIGHTHOUSE names one that has it: it is heavy, and no part of the
package.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from canister.client.local_server import LocalServer
from scripts import build_console
from tests.console.conftest import CHROMIUM, link_for

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]

VERSION = "lighthouse@^12.2"
LEAST = {"performance": 0.95, "accessibility": 1, "best-practices": 1}
SECONDS = 300


@pytest.fixture(scope="module")
def lighthouse(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Its command."""
    place = Path(os.environ.get("LIGHTHOUSE") or tmp_path_factory.mktemp("lighthouse"))
    npm, node = build_console.tools()
    program = place / "node_modules" / "lighthouse" / "cli" / "index.js"
    if not program.is_file():
        path = {**os.environ, "PATH": f"{Path(node).parent}{os.pathsep}{os.environ['PATH']}"}
        install = [*npm, "install", "--ignore-scripts", "--silent", "--prefix", str(place), VERSION]
        done = subprocess.run(install, env=path, capture_output=True, text=True, timeout=SECONDS, check=False)
        if done.returncode:
            pytest.skip(f"npm cannot be reached: {done.stderr[-300:]}")
    return [node, str(program)]


@pytest.mark.parametrize("form", ["desktop", "mobile"])
def test_the_console_is_quick_and_open_to_all(
    lighthouse: list[str], server: LocalServer, form: str, tmp_path: Path
) -> None:
    out = tmp_path / "report.json"
    flags = "--headless=new --no-sandbox --disable-dev-shm-usage --disable-gpu"
    options = ["--quiet", "--output=json", f"--output-path={out}", f"--only-categories={','.join(LEAST)}"]
    preset = ["--preset=desktop"] if form == "desktop" else []
    done = subprocess.run(
        [*lighthouse, link_for(server), *options, *preset, f"--chrome-flags={flags}"],
        env={**os.environ, "CHROME_PATH": str(CHROMIUM)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    scores = {name: report["categories"][name]["score"] for name in LEAST}
    audits = report["audits"]
    shown = ("first-contentful-paint", "largest-contentful-paint", "total-blocking-time", "total-byte-weight")
    print(form, scores, {name: audits[name]["displayValue"] for name in shown})
    short = [name for name, audit in audits.items() if audit["score"] not in (1, None)]
    assert all(scores[name] >= least for name, least in LEAST.items()), (scores, short)
