"""The Dockerfiles: pinned, without root, and of the same pieces as the project."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from facepipe import __version__
from tests.infra.manifests import INFRA, ROOT

DOCKER = INFRA / "docker"
FILES = sorted(DOCKER.glob("*.Dockerfile"))
# Stages that become images, by the file they come from.
IMAGES = {("cpu", "facepipe"), ("cpu", "beam"), ("cpu", "dataflow"), ("gpu", "facepipe")}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@dataclass
class Stage:
    """One stage of a Dockerfile: what it starts from, and its instructions in order."""

    file: Path
    base: str
    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        return [rest for word, rest in self.steps if word == instruction]


def _instructions(path: Path) -> Iterator[tuple[str, str]]:
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            yield word, re.sub(r"\s+", " ", rest).strip()


def _stages(path: Path) -> dict[str, Stage]:
    stages: dict[str, Stage] = {}
    for word, rest in _instructions(path):
        if word == "FROM":
            base, name = re.fullmatch(r"(\S+) AS (\S+)", rest).groups()  # type: ignore[union-attr]
            stages[name] = Stage(path, base, name)
        else:
            stages[next(reversed(stages))].steps.append((word, rest))
    return stages


STAGES = {(path.name.split(".")[0], n): s for path in FILES for n, s in _stages(path).items()}


def _inherited(kind: str, stage: Stage, instruction: str) -> list[str]:
    """Return the instructions of a stage and of those it starts from, its own last."""
    base = STAGES.get((kind, stage.base))
    return [*(_inherited(kind, base, instruction) if base else []), *stage.all(instruction)]


@pytest.mark.parametrize("key", STAGES, ids="-".join)
def test_base_is_pinned(key: tuple[str, str]) -> None:
    stage = STAGES[key]
    if (key[0], stage.base) not in STAGES:
        assert re.fullmatch(r"[\w./-]+:\w*\d+\.\d[\w.-]*", stage.base), stage.base


@pytest.mark.parametrize("key", STAGES, ids="-".join)
def test_nothing_comes_past_the_registries(key: tuple[str, str]) -> None:
    stage = STAGES[key]
    assert stage.all("ADD") == []
    for run in stage.all("RUN"):
        assert not re.search(r"\b(curl|wget|git) (-\S+ )*\S*(//|@)|\| *(ba)?sh\b", run)
        if "apt-get install" in run:
            assert "apt-get update &&" in run
            assert "--no-install-recommends" in run
            assert "rm -rf /var/lib/apt/lists/*" in run
        for install in re.findall(r"pip install[^&]*", run):
            assert "-c infra/constraints.txt" in install


@pytest.mark.parametrize("key", sorted(IMAGES), ids="-".join)
def test_image_runs_without_root_and_gets_its_signals(key: tuple[str, str]) -> None:
    stage = STAGES[key]
    assert _inherited(key[0], stage, "USER")[-1] == "10001:10001"
    last_user = [word for word, _ in stage.steps if word in {"USER", "RUN", "COPY"}][-1]
    assert last_user == "USER"  # nothing is done as root after it
    # The exec form: the program is not below a shell, which would keep SIGTERM to itself.
    entrypoint = json.loads(_inherited(key[0], stage, "ENTRYPOINT")[-1])
    assert entrypoint in (["tini", "--", "facepipe"], ["/opt/apache/beam/boot"])
    assert isinstance(json.loads(_inherited(key[0], stage, "CMD")[-1]), list)


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_image_says_whether_it_is_healthy(kind: str, tmp_path: Path) -> None:
    (check,) = STAGES[kind, "facepipe"].all("HEALTHCHECK")
    shell = check.partition("CMD ")[2]
    (tmp_path / "facepipe").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "facepipe").chmod(0o755)
    for folder, said in ((tmp_path, f"doctor --models {tmp_path}"), (tmp_path / "none", "doctor")):
        script = shell.replace("/models", str(folder))
        env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        ran = subprocess.run(["sh", "-c", script], env=env, capture_output=True, text=True)
        assert (ran.returncode, ran.stdout.strip()) == (0, said)


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_image_holds_one_opencv_and_what_it_links(kind: str) -> None:
    (installs,) = (run for run in STAGES[kind, "build"].all("RUN") if "pip install" in run)
    assert any("grep -c '^opencv'" in run for run in STAGES[kind, "build"].all("RUN"))
    extras = re.search(r"'\.\[([\w,]+)\]'", installs)
    assert extras
    assert set(extras[1].split(",")) <= set(PYPROJECT["project"]["optional-dependencies"])
    runtime = " ".join(STAGES[kind, "facepipe"].all("RUN"))
    assert {"libgl1", "libxcb1", "tini", "wget"} <= set(runtime.split())
    assert re.search(r"\blibglib2\.0-0", runtime)


def test_gpu_files_are_the_last_ones_written() -> None:
    """As pyproject.toml says: the CPU builds of the same packages go, the GPU ones come again."""
    (run,) = (run for run in STAGES["gpu", "build"].all("RUN") if "uninstall" in run)
    first, uninstall, again = run.split(" && ")
    assert "'.[ray,gpu]'" in first
    assert uninstall == "pip uninstall -y onnxruntime faiss-cpu"
    assert again.endswith("-c infra/constraints.txt onnxruntime-gpu faiss-gpu")
    assert {"--force-reinstall", "--no-deps"} <= set(again.split())


def test_all_nodes_have_one_python() -> None:
    """Ray refuses a node of another minor version, and Beam's boot is built for one."""
    assert STAGES["cpu", "build"].base == STAGES["cpu", "facepipe"].base
    assert STAGES["cpu", "build"].base == STAGES["gpu", "build"].base
    python = re.match(r"python:(\d+\.\d+)-", STAGES["cpu", "build"].base)
    assert python
    assert STAGES["cpu", "beam-sdk"].base.startswith(f"apache/beam_python{python[1]}_sdk:")
    assert f"Programming Language :: Python :: {python[1]}" in PYPROJECT["project"]["classifiers"]


def _pins(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    assert len(pins) == len(lines)
    return pins


def test_beams_worker_is_of_the_version_that_is_pinned() -> None:
    tag = STAGES["cpu", "beam-sdk"].base.partition(":")[2]
    assert tag == _pins(INFRA / "constraints.txt")["apache-beam"]


def test_pins_do_not_contradict_each_other() -> None:
    files = [INFRA / "constraints.txt", DOCKER / "constraints.txt"]
    base, ray, gcp = (_pins(path) for path in [*files, INFRA / "beam" / "constraints-gcp.txt"])
    assert set(base) & set(ray) == set()
    assert set(ray) & set(gcp) == set()
    # The one that the image of Dataflow leaves out of infra/constraints.txt.
    assert set(base) & set(gcp) <= {"cachetools"}
    (run,) = STAGES["cpu", "build-dataflow"].all("RUN")
    assert "sed -i '/^cachetools==/d' infra/constraints.txt" in run


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_build_sees_what_it_copies_and_nothing_else(path: Path) -> None:
    first, *lines = [
        line
        for line in Path(f"{path}.dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert first == "*"
    allowed = {line[1:] for line in lines if line.startswith("!")}
    assert all((ROOT / name).exists() for name in allowed)
    copied = set()
    for stage in _stages(path).values():
        for copy in stage.all("COPY"):
            if not copy.startswith("--from="):
                copied.update(copy.split()[:-1])
    assert copied <= allowed
    assert copied >= {name.split(".")[0] for name in PYPROJECT["tool"]["setuptools"]["packages"]}


STUB = """#!/bin/sh
printf '%s\\n' "$*" >>"$DOCKER_CALLS"
"""


@pytest.mark.parametrize(
    ("images", "tags"),
    [
        (None, ["", "-beam", "-gpu"]),
        ("cpu dataflow", ["", "-dataflow"]),
    ],
)
def test_build_makes_images_of_this_version(
    tmp_path: Path, images: str | None, tags: list[str]
) -> None:
    """With a docker that writes down what it is asked: a real one is not at hand in tests."""
    (tmp_path / "docker").write_text(STUB)
    (tmp_path / "docker").chmod(0o755)
    calls = tmp_path / "calls"
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "DOCKER_CALLS": str(calls)}
    if images is not None:
        environment["FACEPIPE_IMAGES"] = images
    subprocess.run([DOCKER / "build.sh", "mine/facepipe"], env=environment, check=True)
    asked = [line.split() for line in calls.read_text().splitlines()]
    assert [words[6] for words in asked] == [f"mine/facepipe:{__version__}{tag}" for tag in tags]
    for words in asked:
        assert words[0] == "build"
        file, target = Path(words[2]), words[4]
        assert file in FILES
        assert (file.name.split(".")[0], target) in IMAGES
        assert words[-1] == str(ROOT)


def test_build_refuses_an_image_that_it_does_not_know() -> None:
    ran = subprocess.run(
        [DOCKER / "build.sh"],
        env={"PATH": os.environ["PATH"], "FACEPIPE_IMAGES": "tpu"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 2
    assert "no image tpu" in ran.stderr
