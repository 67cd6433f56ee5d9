"""The manifests of a herd on Kubernetes: they fit the schema, each other, and the program that they start."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parent.parent.parent / "deploy" / "kubernetes"
LISTED = FOLDER / "kustomization.yaml"

yaml = pytest.importorskip("yaml", reason="the manifests are read by PyYAML, which comes with kubernetes-validate")


def documents() -> Iterator[tuple[str, dict[str, Any]]]:
    for name in yaml.safe_load(LISTED.read_text(encoding="utf-8"))["resources"]:
        for document in yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8")):
            yield name, document


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [document for _, document in documents() if document["kind"] == kind]


def pods() -> list[dict[str, Any]]:
    return [stateful["spec"]["template"] for stateful in of_kind("StatefulSet")]


def containers() -> list[dict[str, Any]]:
    return [container for pod in pods() for container in pod["spec"]["containers"]]


def test_every_file_is_listed_once() -> None:
    listed = yaml.safe_load(LISTED.read_text(encoding="utf-8"))["resources"]
    assert sorted([*listed, LISTED.name]) == sorted(path.name for path in FOLDER.iterdir())


@pytest.mark.parametrize("version", ["1.33", "1.37"])
def test_manifests_fit_the_schema(version: str) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed here")
    for name, document in documents():
        assert validate.validate(document, version, strict=True) == version, name


def test_services_find_pods_and_pods_their_service() -> None:
    labels = {pod["metadata"]["labels"]["app.kubernetes.io/name"]: pod["metadata"]["labels"] for pod in pods()}
    for service in of_kind("Service"):
        wanted = service["spec"]["selector"]
        assert wanted.items() <= labels[wanted["app.kubernetes.io/name"]].items()
    named = {service["metadata"]["name"] for service in of_kind("Service")}
    for stateful in (stateful["spec"] for stateful in of_kind("StatefulSet")):
        assert stateful["serviceName"] in named
        assert stateful["selector"]["matchLabels"].items() <= stateful["template"]["metadata"]["labels"].items()


def test_strangers_reach_only_the_port_for_users() -> None:
    closed, opened = of_kind("NetworkPolicy")
    for pod in pods():
        assert closed["spec"]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    (source,) = closed["spec"]["ingress"][0]["from"]
    assert source["podSelector"] == closed["spec"]["podSelector"]
    assert opened["spec"]["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "door"}
    assert opened["spec"]["ingress"] == [{"ports": [{"port": "http", "protocol": "TCP"}]}]


def test_pods_may_do_no_more_than_they_must() -> None:
    for pod in pods():
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    for container in containers():
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"]


def test_what_is_mounted_is_there() -> None:
    for stateful in of_kind("StatefulSet"):
        spec = stateful["spec"]["template"]["spec"]
        there = {volume["name"] for volume in spec["volumes"]}
        there |= {claim["metadata"]["name"] for claim in stateful["spec"]["volumeClaimTemplates"]}
        assert {mount["name"] for container in spec["containers"] for mount in container["volumeMounts"]} == there


def test_the_program_knows_what_it_is_started_with() -> None:
    helps: dict[tuple[str, ...], str] = {}
    for container in containers():
        program, *words = [*container["command"], *container.get("args", ())]
        assert program == "canister"
        command = tuple(word for word in words[:2])
        if command not in helps:
            done = subprocess.run(
                [sys.executable, "-m", "canister", *command, "--help"],
                capture_output=True,
                text=True,
                check=True,
                env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"},
            )
            helps[command] = done.stdout
        for word in words[2:]:
            if word.startswith("--"):
                assert word.partition("=")[0] in helps[command].split(), word
