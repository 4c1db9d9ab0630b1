"""The MLflow server: its manifest, image and script closed down and of the pinned version."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from typing import Any

import pytest
import yaml

from tests.infra.manifests import INFRA, containers, problems

MLFLOW = INFRA / "mlflow"
DOCUMENTS = {d["kind"]: d for d in yaml.safe_load_all((MLFLOW / "server.yaml").read_text())}
POD = DOCUMENTS["Deployment"]["spec"]["template"]
(CONTAINER,) = containers(POD)
IMAGE = (MLFLOW / "Dockerfile").read_text()
SWITCHES = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_MODEL_CATALOG_URI": "",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


def pin(name: str) -> str:
    for path in (INFRA / "constraints.txt", MLFLOW / "constraints.txt"):
        found = re.search(rf"^{re.escape(name)}==(.+)$", path.read_text(), re.M)
        if found:
            return found[1]
    raise AssertionError(f"{name} is not pinned")


def parsed(words: list[str]) -> dict[str, Any]:
    """Parse as `mlflow server` does, and start nothing."""
    cli = pytest.importorskip("mlflow.cli", reason="mlflow, of [train], is missing")
    server = cli.cli.commands["server"]
    parameters: dict[str, Any] = server.make_context("server", words).params
    return parameters


def script_says(*arguments: str, **environment: str) -> list[str]:
    ran = subprocess.run(
        [MLFLOW / "server.sh", *arguments],
        env={"PATH": os.environ["PATH"], "DRY_RUN": "1", "HOME": "/home/x", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return shlex.split(ran.stdout)


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_manifest_is_valid(kind: str) -> None:
    pytest.importorskip("kubernetes_validate", reason="kubernetes-validate, of [dev], is missing")
    assert problems(DOCUMENTS[kind]) == []


def test_the_pod_is_closed_down() -> None:
    spec, security = POD["spec"], CONTAINER["securityContext"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False
    assert security == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert CONTAINER["resources"]["requests"] == CONTAINER["resources"]["limits"]
    (database,) = (v for v in CONTAINER["env"] if v["name"] == "MLFLOW_BACKEND_STORE_URI")
    assert set(database["valueFrom"]) == {"secretKeyRef"}  # it holds a password


def test_only_its_clients_reach_it() -> None:
    policy = DOCUMENTS["NetworkPolicy"]["spec"]
    labels = POD["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    (rule,) = policy["ingress"]
    (who,) = rule["from"]
    assert who["podSelector"]["matchLabels"]
    assert [port["port"] for port in rule["ports"]] == [5000]
    service = DOCUMENTS["Service"]["spec"]
    assert service["type"] == "ClusterIP"
    assert service["selector"].items() <= labels.items()


def test_the_server_understands_its_command() -> None:
    given = parsed(CONTAINER["args"][1:])
    assert CONTAINER["args"][0] == "server"
    assert (given["host"], given["port"]) == ("0.0.0.0", 5000)
    assert given["artifacts_destination"].startswith("s3://")
    assert "*" not in given["allowed_hosts"].split(",")
    assert "mlflow:5000" in given["allowed_hosts"]  # as MLFLOW_TRACKING_URI=http://mlflow:5000 asks
    (port,) = CONTAINER["ports"]
    assert port["containerPort"] == given["port"]


def test_the_image_is_of_the_pinned_version_with_every_switch() -> None:
    name, _, tag = CONTAINER["image"].rpartition(":")
    assert tag == pin("mlflow")
    assert f"-t {name}:{tag} ." in IMAGE
    for package in ("boto3", "psycopg2-binary"):
        assert pin(package)
    assert {f"{name}={value}" for name, value in SWITCHES.items()} <= set(
        re.findall(r"[A-Z_]+=[a-z]*", IMAGE)
    )
    assert "USER 10001:10001" in IMAGE


def test_the_script_serves_facepipes_own_runs_on_loopback() -> None:
    from training.tracking_server import ARTIFACTS

    program, command, *words = script_says(VENV="/venv", XDG_DATA_HOME="/data")
    assert (program, command) == ("/venv/bin/mlflow", "server")
    given = parsed(words)
    assert given["host"] == "127.0.0.1"
    assert given["backend_store_uri"] == "sqlite:////data/facepipe/mlflow.db"
    assert given["artifacts_destination"] == f"/data/facepipe/{ARTIFACTS}"
    other = parsed(script_says("/runs", PORT="5001")[2:])
    assert (other["port"], other["backend_store_uri"]) == (5001, "sqlite:////runs/mlflow.db")
    text = (MLFLOW / "server.sh").read_text()
    for name, value in SWITCHES.items():
        assert re.search(rf"^export .*\b{name}={value}( |$)", text, re.M), name
