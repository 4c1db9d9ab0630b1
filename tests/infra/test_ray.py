"""The Ray manifests: locked, sized as the README says, and one description of the job."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from typing import Any

import pytest
import yaml

from tests.infra.manifests import INFRA, containers, documents, pods, printed_raycronjob

RAY = INFRA / "ray"
GIB = 2**30
RAYJOB = yaml.safe_load((RAY / "rayjob.yaml").read_text())
CLUSTER = RAYJOB["spec"]["rayClusterSpec"]
GROUPS = {group["groupName"]: group for group in CLUSTER["workerGroupSpecs"]}
NIGHTLY = yaml.safe_load((RAY / "nightly.yaml").read_text())
ACCESS = {(d["kind"], d["metadata"]["name"]): d for d in yaml.safe_load_all(
    (RAY / "access.yaml").read_text())}  # fmt: skip
(POLICY,) = yaml.safe_load_all((RAY / "network.yaml").read_text())


def readme_rows(heading: str) -> dict[str, list[str]]:
    """Return the rows of the README's table below a heading: by first cell, the others."""
    section = (INFRA / "README.md").read_text().partition(f"### {heading}\n")[2]
    table = re.search(r"^\|.*?(?=\n\n)", section, re.S | re.M)
    assert table, heading
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in table[0].splitlines()]
    return {row[0]: row[1:] for row in rows[2:]}


def size_bytes(text: str) -> int:
    """Return what 6Gi or 256Mi is in bytes."""
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", text).groups()  # type: ignore[union-attr]
    return int(number) * {"Mi": 2**20, "Gi": GIB}[unit]


def _asked() -> dict[str, dict[str, str]]:
    words = shlex.split(RAYJOB["spec"]["entrypoint"])
    given = [words[n + 1] for n, word in enumerate(words) if word == "--set"]
    asked: dict[str, dict[str, str]] = {}
    for setting in given:
        step, name, value = re.fullmatch(  # type: ignore[union-attr]
            r"run\.resources\.(\w+)\.(\w+)=(\w+)", setting
        ).groups()
        asked.setdefault(step, {})[name] = value
    return asked


def test_every_ray_cluster_asks_for_the_token() -> None:
    pin = re.search(r"^ray==(.+)$", (INFRA / "constraints.txt").read_text(), re.M)
    assert pin
    found = 0
    for _, document in documents():
        spec: dict[str, Any] = document.get("spec", {})
        job = spec.get("jobTemplate", spec) if document["kind"].startswith("Ray") else {}
        for cluster in (job.get("rayClusterSpec"), spec.get("headGroupSpec") and spec):
            if cluster:
                found += 1
                assert cluster["authOptions"]["mode"] == "token"
                assert cluster["rayVersion"] == pin[1]
    assert found == 2  # RayJob and RayCronJob


def test_the_job_ends_and_goes() -> None:
    spec = RAYJOB["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert 0 < spec["ttlSecondsAfterFinished"] <= 3600
    assert 0 < spec["backoffLimit"] <= 3
    assert 0 < spec["activeDeadlineSeconds"] < 24 * 3600
    assert CLUSTER["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert CLUSTER["headGroupSpec"]["enableIngress"] is False


def test_nothing_but_the_command_runs_on_the_head() -> None:
    assert CLUSTER["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_pods_are_as_large_as_the_readme_says() -> None:
    table = readme_rows("Pods")
    for name, pod in pods(RAYJOB):
        (container,) = containers(pod)
        cores, memory, gpus = table[f"Ray {name}"][:3]
        requests = container["resources"]["requests"]
        assert (requests["cpu"], requests["memory"]) == (cores, memory.replace(" ", "")), name
        assert requests.get("nvidia.com/gpu", "0") == gpus, name


def test_steps_ask_for_what_the_readme_says() -> None:
    table = readme_rows("Steps")
    assert set(_asked()) <= set(table)
    for step, asked in _asked().items():
        cores, memory = table[step][:2]
        assert asked.get("num_cpus", "1") == cores
        assert int(asked["memory_bytes"]) == size_bytes(memory.replace(" ", ""))


def test_workers_fit_their_pods() -> None:
    words = shlex.split(RAYJOB["spec"]["entrypoint"])
    cores = 0
    for group in GROUPS.values():
        parameters, (container,) = group["rayStartParams"], containers(group["template"])
        requests = container["resources"]["requests"]
        assert parameters["num-cpus"] == requests["cpu"]
        assert parameters.get("num-gpus", "0") == requests.get("nvidia.com/gpu", "0")
        cores += group["replicas"] * int(requests["cpu"])
        memory = size_bytes(requests["memory"])
        for step in ("detect", "embed"):
            taken = int(requests["cpu"]) * int(_asked()[step]["memory_bytes"])
            assert taken + GIB <= memory  # a GiB for Ray's own processes and /dev/shm
        for step in ("dedup", "clean"):
            assert int(_asked()[step]["memory_bytes"]) + GIB <= memory
    assert int(words[words.index("--workers") + 1]) == cores


def test_ray_knows_what_its_nodes_are_started_with() -> None:
    pytest.importorskip("ray", reason="needs [ray]")
    # In a process of its own: ray's command line sets up more than it prints.
    code = (
        "from ray.scripts.scripts import start\n"
        "print(*(option for p in start.params for option in p.opts))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    used = {
        f"--{name}"
        for group in (CLUSTER["headGroupSpec"], *GROUPS.values())
        for name in group["rayStartParams"]
    }
    assert used <= set(ran.stdout.split())


@pytest.mark.parametrize("name", ["head", *GROUPS])
def test_shared_memory_holds_the_object_store(name: str) -> None:
    group = CLUSTER["headGroupSpec"] if name == "head" else GROUPS[name]
    (shm,) = (v for v in group["template"]["spec"]["volumes"] if v["name"] == "shm")
    assert shm["emptyDir"]["medium"] == "Memory"
    # Where it does not fit, Ray goes on in /tmp and says so in a log only.
    store = int(group["rayStartParams"]["object-store-memory"])
    assert store <= size_bytes(shm["emptyDir"]["sizeLimit"])
    (container,) = containers(group["template"])
    assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]


# -- every night ------------------------------------------------------------------------------


def test_nights_do_not_overlap() -> None:
    spec, job = NIGHTLY["spec"], NIGHTLY["spec"]["jobTemplate"]["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    (wait,) = job["template"]["spec"]["containers"]
    hours = re.fullmatch(r"--timeout=(\d+)h", wait["command"][-1])
    assert hours
    # The RayJob's end comes before the wait's, the wait's before the Job's, that before a day.
    ends = [RAYJOB["spec"]["activeDeadlineSeconds"], int(hours[1]) * 3600]
    assert sorted([*ends, job["activeDeadlineSeconds"], 24 * 3600]) == [
        *ends,
        job["activeDeadlineSeconds"],
        24 * 3600,
    ]


def test_nightly_handles_the_rayjob_of_the_manifest_and_may() -> None:
    template = NIGHTLY["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    name = RAYJOB["metadata"]["name"]
    said = {c["name"]: " ".join(c["command"]) for c in containers({"spec": template})}
    assert f"rayjob/{name}" in said["remove"]
    assert f"rayjob/{name}" in said["wait"]
    kustomization = yaml.safe_load((RAY / "kustomization.yaml").read_text())
    (generated,) = kustomization["configMapGenerator"]
    (volume,) = (v for v in template["volumes"] if "configMap" in v)
    assert volume["configMap"]["name"] == generated["name"]
    assert generated["files"] == ["rayjob.yaml"]
    assert said["create"].endswith("/etc/facepipe/rayjob.yaml")
    role = ACCESS["Role", template["serviceAccountName"]]
    verbs: dict[str, list[str]] = {}
    for rule in role["rules"]:
        assert (rule["apiGroups"], rule["resources"]) == (["ray.io"], ["rayjobs"])
        for verb in rule["verbs"]:
            verbs[verb] = rule.get("resourceNames", ["any"])
    assert verbs == {"create": ["any"]} | {v: [name] for v in ("get", "list", "watch", "delete")}
    binding = ACCESS["RoleBinding", role["metadata"]["name"]]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert [s["name"] for s in binding["subjects"]] == [template["serviceAccountName"]]


def test_kustomization_names_what_is_there() -> None:
    kustomization = yaml.safe_load((RAY / "kustomization.yaml").read_text())
    named = {*kustomization["resources"], *kustomization["configMapGenerator"][0]["files"]}
    assert named | {"kustomization.yaml"} == {path.name for path in RAY.glob("*.yaml")}


def test_raycronjob_is_the_same_job() -> None:
    printed = yaml.safe_load(printed_raycronjob())
    assert printed["spec"]["jobTemplate"] == RAYJOB["spec"]
    assert printed["spec"]["schedule"] == NIGHTLY["spec"]["schedule"]


# -- the network ------------------------------------------------------------------------------


def _selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    exact = selector.get("matchLabels", {}).items() <= labels.items()
    return exact and all(
        labels.get(e["key"]) in e["values"] for e in selector.get("matchExpressions", [])
    )


@pytest.mark.parametrize("name", ["submitter", "head", *GROUPS])
def test_policy_covers_every_ray_pod(name: str) -> None:
    labels = dict(pods(RAYJOB))[name]["metadata"]["labels"]
    assert _selects(POLICY["spec"]["podSelector"], labels)
    among = POLICY["spec"]["ingress"][0]["from"][0]["podSelector"]
    assert _selects(among, labels)
    assert POLICY["spec"]["policyTypes"] == ["Ingress", "Egress"]


@pytest.mark.parametrize("port", [6379, 8265, 10001, 20000])
@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"app.kubernetes.io/name": "facepipe", "app.kubernetes.io/component": "nightly"},
        {"app.kubernetes.io/name": "something-else"},
        {"app.kubernetes.io/name": "kuberay-operator"},
    ],
    ids=["unlabelled", "nightly", "another", "operator"],
)
def test_ports_are_closed_to_others(port: int, labels: dict[str, str]) -> None:
    open_to = [
        rule
        for rule in POLICY["spec"]["ingress"]
        if any(_selects(peer["podSelector"], labels) for peer in rule["from"])
        if port in [p["port"] for p in rule.get("ports", [])] or "ports" not in rule
    ]
    operator = labels.get("app.kubernetes.io/name") == "kuberay-operator"
    assert bool(open_to) == (operator and port == 8265)


def test_only_tls_goes_out_and_never_to_the_metadata_address() -> None:
    blocks = [
        (peer["ipBlock"], rule["ports"])
        for rule in POLICY["spec"]["egress"]
        for peer in rule["to"]
        if "ipBlock" in peer
    ]
    ((block, ports),) = blocks
    assert ports == [{"port": 443, "protocol": "TCP"}]
    assert "169.254.0.0/16" in block["except"]
