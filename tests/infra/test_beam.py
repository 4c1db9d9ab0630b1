"""Beam on Flink and Dataflow: options that Beam knows, and a cluster that fits them."""

from __future__ import annotations

import logging
import os
import re
import shlex
import subprocess
from typing import Any

import pytest
import yaml

from tests.infra.manifests import INFRA, containers, pods
from tests.infra.test_ray import GIB, readme_rows, size_bytes

BEAM = INFRA / "beam"
OPTIONS = (BEAM / "flink-options.txt").read_text().splitlines()
CLUSTER, POLICY = yaml.safe_load_all((BEAM / "flink-cluster.yaml").read_text())
JOB = yaml.safe_load((BEAM / "flink-job.yaml").read_text())
PINS = dict(re.findall(r"^([\w-]+)==(.+)$", (INFRA / "constraints.txt").read_text(), re.M))


def _flag(name: str) -> str:
    (value,) = (o.partition("=")[2] for o in OPTIONS if o.startswith(f"--{name}="))
    return value


def _dataflow(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {"PATH": os.environ["PATH"], "DRY_RUN": "1", **environment}
    script = BEAM / "dataflow.sh"
    return subprocess.run([script, *words], env=given, capture_output=True, text=True)


def _dataflow_words() -> list[str]:
    ran = _dataflow(
        *("gs://b/raw", "--out", "gs://b/datasets/d", "--models", "/models"),
        PROJECT="p",
        REGION="europe-west3",
        BUCKET="b",
        IMAGE="europe-docker.pkg.dev/p/r/facepipe:0.1.0-dataflow",
    )
    assert ran.returncode == 0, ran.stderr
    return shlex.split(ran.stdout)


def _known(flags: list[str], caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    """Return the options as Beam reads them; it discards what it does not know, with a line."""
    options = pytest.importorskip("apache_beam.options.pipeline_options", reason="needs [beam]")
    with caplog.at_level(logging.WARNING):
        given: dict[str, Any] = options.PipelineOptions(flags).get_all_options(drop_default=True)
    assert "iscarding" not in caplog.text
    return given


def test_beam_says_so_when_it_does_not_know_an_option(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("apache_beam", reason="needs [beam]")
    with pytest.raises(AssertionError):
        _known(["--runner=FlinkRunner", "--flink_mister=http://x:8081"], caplog)


def test_beam_knows_the_options_for_flink(caplog: pytest.LogCaptureFixture) -> None:
    given = _known(OPTIONS, caplog)
    assert given["runner"] == "FlinkRunner"
    assert given["environment_type"] == "EXTERNAL"
    assert given["flink_submit_uber_jar"] is True
    assert len(given) == len(OPTIONS)


def test_beam_knows_the_options_for_dataflow(caplog: pytest.LogCaptureFixture) -> None:
    words = _dataflow_words()
    flags = words[words.index("--") + 1 :]
    given = _known(flags, caplog)
    assert given["runner"] == "DataflowRunner"
    assert given["number_of_worker_harness_threads"] == 1
    assert given["sdk_container_image"].endswith("/facepipe:0.1.0-dataflow")
    assert given["use_public_ips"] is False
    assert len(given) == len(flags)


def test_dataflow_runs_facepipe_with_what_it_is_given() -> None:
    words = _dataflow_words()
    own = words[: words.index("--")]
    assert own[:2] == ["facepipe", "curate"]
    from tests.test_infra import _parsed

    given = _parsed(own[1:])
    assert (given["sources"], given["out"]) == (["gs://b/raw"], "gs://b/datasets/d")
    assert given["engine"] == "beam"


@pytest.mark.parametrize("missing", ["PROJECT", "REGION", "BUCKET", "IMAGE"])
def test_dataflow_says_what_is_missing(missing: str) -> None:
    given = {"PROJECT": "p", "REGION": "r", "BUCKET": "b", "IMAGE": "i"}
    del given[missing]
    ran = _dataflow("gs://b/raw", "--out", "gs://b/d", **given)
    assert ran.returncode != 0
    assert missing in ran.stderr
    assert ran.stdout == ""


def test_the_job_runs_with_the_options_of_the_file() -> None:
    (container,) = JOB["spec"]["template"]["spec"]["containers"]
    arguments = container["args"]
    assert arguments[arguments.index("--") + 1 :] == OPTIONS


def test_flinks_versions_agree() -> None:
    version = _flag("flink_version")
    assert CLUSTER["spec"]["flinkVersion"] == "v" + version.replace(".", "_")
    assert CLUSTER["spec"]["image"].startswith(f"flink:{version}.")
    beam = pytest.importorskip("apache_beam.options.pipeline_options", reason="needs [beam]")
    assert version in beam.FlinkRunnerOptions.PUBLISHED_FLINK_VERSIONS


def test_every_slot_has_a_python_process_and_a_core() -> None:
    slots = int(CLUSTER["spec"]["flinkConfiguration"]["taskmanager.numberOfTaskSlots"])
    assert int(_flag("sdk_worker_parallelism")) == slots
    assert int(_flag("parallelism")) % slots == 0
    (pool,) = (c for c in containers(dict(pods(CLUSTER))["taskManager"]) if "args" in c)
    assert pool["args"] == ["--worker_pool"]
    (port,) = pool["ports"]
    assert _flag("environment_config") == f"localhost:{port['containerPort']}"
    requests = pool["resources"]["requests"]
    assert int(requests["cpu"]) == slots
    step = size_bytes(readme_rows("Steps")["detect"][1].replace(" ", ""))
    assert size_bytes(requests["memory"]) >= slots * step + GIB


def test_the_job_finds_the_cluster_and_is_let_in() -> None:
    assert _flag("flink_master") == f"http://{CLUSTER['metadata']['name']}-rest:8081"
    labels = JOB["spec"]["template"]["metadata"]["labels"]
    (peers,) = (rule["from"] for rule in POLICY["spec"]["ingress"] if "ports" not in rule)
    (peer,) = peers
    (allowed,) = peer["podSelector"]["matchExpressions"]
    assert labels["app.kubernetes.io/component"] in allowed["values"]
    own = POLICY["spec"]["podSelector"]["matchExpressions"][0]["values"]
    for name, pod in pods(CLUSTER):
        assert pod["metadata"]["labels"]["app.kubernetes.io/component"] in own, name


def test_pods_are_as_large_as_the_readme_says() -> None:
    table = readme_rows("Pods")
    spec = CLUSTER["spec"]
    for row, resource in (
        ("Flink job manager", "jobManager"),
        ("Flink task manager", "taskManager"),
    ):
        asked = spec[resource]["resource"]
        mebibytes = int(asked["memory"].removesuffix("m"))
        assert [str(asked["cpu"]), f"{mebibytes // 1024} Gi"] == table[row][:2]
    (pool,) = (c for c in containers(dict(pods(CLUSTER))["taskManager"]) if "args" in c)
    (job,) = JOB["spec"]["template"]["spec"]["containers"]
    for row, container in (("Beam worker pool", pool), ("Beam submitter", job)):
        requests = container["resources"]["requests"]
        assert [requests["cpu"], requests["memory"]] == [c.replace(" ", "") for c in table[row][:2]]
