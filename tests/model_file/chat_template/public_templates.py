"""The chat templates that come with llama.cpp, from the sources of llama-cpp-python in the version of this project.

    python -m tests.model_file.chat_template.public_templates

fetches them with pip into a folder that Git ignores: they are other people's texts, and none is committed.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import tempfile
from importlib import metadata
from pathlib import Path, PurePosixPath

PACKAGE = "llama-cpp-python"
_PLACE = ("vendor", "llama.cpp", "models", "templates")  # in the sdist
MISSING = (
    "the templates of llama.cpp have not been fetched; `python -m tests.model_file.chat_template.public_templates` "
    "fetches them"
)


def folder() -> Path:
    return Path(__file__).with_name("public") / metadata.version(PACKAGE)


def templates() -> dict[str, str]:
    """The sources by name, such as Qwen-Qwen3-0.6B; empty where they have not been fetched."""
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder().glob("*.jinja"))}


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def fetch() -> None:
    version = metadata.version(PACKAGE)
    with tempfile.TemporaryDirectory(prefix="llama-templates-") as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--no-binary", PACKAGE, "--dest", scratch, f"{PACKAGE}=={version}"], check=True)
        (archive,) = Path(scratch).glob("*.tar.gz")
        keep(archive)


def keep(archive: Path) -> None:
    """Copy the templates out of an sdist."""
    target = folder()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch, tarfile.open(archive) as tar:
        whole = Path(scratch) / "whole"
        whole.mkdir()
        for member in tar:
            path = PurePosixPath(member.name)
            data = tar.extractfile(member) if path.suffix == ".jinja" and path.parts[1:-1] == _PLACE else None
            if data is not None:
                (whole / path.name).write_bytes(data.read())
        whole.rename(target)  # all of them, or none


def main() -> None:
    """An sdist that is there already may be named."""
    if not templates():
        keep(Path(sys.argv[1])) if len(sys.argv) > 1 else fetch()
    print(f"{len(templates())} public chat templates are in {folder()}")


if __name__ == "__main__":
    main()
