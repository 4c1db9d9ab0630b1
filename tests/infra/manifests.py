"""Reading infra's manifests: their documents, the pods in them, and the fields they may have.

Kubernetes' own kinds are checked by its schemas, which kubernetes-validate brings. Of custom
resources custom_resources.yaml lists the fields; one that is not listed is refused, although
an operator may know it.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
KUBERNETES = "1.33"  # of the schemas

# What a custom resource may look like, by kind.
SHAPES = yaml.safe_load(Path(__file__).with_name("custom_resources.yaml").read_text())
VERSIONS = {
    "RayJob": "ray.io/v1",
    "RayCronJob": "ray.io/v1",
    "FlinkDeployment": "flink.apache.org/v1beta1",
    "Kustomization": "kustomize.config.k8s.io/v1beta1",
}
TYPES: dict[str, Any] = {
    "string": str,
    "integer": int,
    "boolean": bool,
    "number": (int, float),
    "map": dict,
}


def documents() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every document of every manifest, those that scripts print too."""
    for path in sorted(INFRA.rglob("*.yaml")):
        for number, document in enumerate(yaml.safe_load_all(path.read_text())):
            yield f"{path.relative_to(INFRA)}[{number}]", document
    yield "ray/raycronjob.sh", yaml.safe_load(printed_raycronjob())


def printed_raycronjob(*arguments: str) -> str:
    """Return what infra/ray/raycronjob.sh prints."""
    script = INFRA / "ray" / "raycronjob.sh"
    ran = subprocess.run([script, *arguments], capture_output=True, text=True, check=True)
    return ran.stdout


def problems(document: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a document by its schema; nothing, where all is right."""
    kind = document["kind"]
    if kind not in SHAPES:
        return _native(document)
    top: dict[str, Any] = {"apiVersion!": VERSIONS[kind], "kind!": kind}
    if kind == "Kustomization":  # has no spec around its fields
        top |= SHAPES[kind]
    else:
        top |= {"metadata!": "map", "spec!": SHAPES[kind]}
    return list(_wrong(document, top, ""))


def _native(document: Mapping[str, Any]) -> list[str]:
    import kubernetes_validate  # type: ignore[import-untyped]  # ships no annotations

    try:
        kubernetes_validate.validate(dict(document), KUBERNETES, strict=True)
    except (
        kubernetes_validate.ValidationError,
        kubernetes_validate.SchemaNotFoundError,
    ) as error:
        return [str(error)]
    return []


def _wrong(value: Any, shape: Any, where: str) -> Iterator[str]:
    if isinstance(shape, dict):
        yield from _wrong_fields(value, shape, where)
    elif isinstance(shape, list):
        if not isinstance(value, list):
            yield f"{where}: {value!r} is no list"
            return
        for number, item in enumerate(value):
            yield from _wrong(item, shape[0], f"{where}[{number}]")
    elif shape == "pod":
        wrapped = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {}, "template": value}
        yield from (f"{where}: {problem}" for problem in _native(wrapped))
    elif shape == "strings":
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            yield f"{where}: {value!r} is no map of strings"
    elif shape in TYPES:
        # bool is an int to Python, and to nobody else.
        if not isinstance(value, TYPES[shape]) or isinstance(value, bool) != (shape == "boolean"):
            yield f"{where}: {value!r} is no {shape}"
    elif value not in shape.split(" | "):
        yield f"{where}: {value!r} is none of {shape}"


def _wrong_fields(value: Any, shape: Mapping[str, Any], where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where}: {value!r} is no map"
        return
    fields = {name.rstrip("!"): inner for name, inner in shape.items()}
    needed = {name[:-1] for name in shape if name.endswith("!")}
    yield from (f"{where}.{name} is missing" for name in sorted(needed - set(value)))
    for name, inner in value.items():
        if name in fields:
            yield from _wrong(inner, fields[name], f"{where}.{name}")
        else:
            yield f"{where}.{name} is no field that is known"


# -- pods -------------------------------------------------------------------------------------


def pods(document: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the pods a document makes: what each is for, and its template."""
    kind, spec = document["kind"], document.get("spec", {})
    if kind == "Job":
        yield "job", spec["template"]
    elif kind == "CronJob":
        yield "job", spec["jobTemplate"]["spec"]["template"]
    elif kind == "RayJob":
        yield from _ray_pods(spec)
    elif kind == "RayCronJob":
        yield from _ray_pods(spec["jobTemplate"])
    elif kind == "FlinkDeployment":
        for name in ("jobManager", "taskManager"):
            yield name, _merged(spec["podTemplate"], spec[name]["podTemplate"])


def _ray_pods(spec: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    cluster = spec["rayClusterSpec"]
    yield "submitter", spec["submitterPodTemplate"]
    yield "head", cluster["headGroupSpec"]["template"]
    yield from ((group["groupName"], group["template"]) for group in cluster["workerGroupSpecs"])


def _merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Lay a manager's template over the common one, containers added, as the operator does."""
    spec, over = dict(base.get("spec", {})), own.get("spec", {})
    containers = [*spec.get("containers", []), *over.get("containers", [])]
    return {**base, **own, "spec": {**spec, **over, "containers": containers}}


def containers(pod: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the containers of a pod, those that run first included."""
    spec = pod["spec"]
    return [*spec.get("initContainers", []), *spec["containers"]]


def commands() -> Iterator[tuple[str, list[str]]]:
    """Yield every facepipe command that a manifest runs, without the word facepipe."""
    for where, document in documents():
        spec = document.get("spec", {})
        job = spec.get("jobTemplate", {}) if document["kind"] == "RayCronJob" else spec
        if "entrypoint" in job:
            words = shlex.split(job["entrypoint"])
            assert words[0] == "facepipe", where
            yield where, words[1:]
        for name, pod in pods(document):
            for container in containers(pod):
                tag = container.get("image", "").partition(":")[2]
                if tag and "/facepipe:" in container["image"] and "args" in container:
                    if not tag.endswith("-beam"):  # whose entrypoint is Beam's boot
                        yield f"{where} {name}", list(container["args"])
