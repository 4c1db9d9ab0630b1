"""The Beam engine: the contract on this machine, what a cluster sees, and what is left behind."""

from __future__ import annotations

import importlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from facepipe.commits import Commit
from facepipe.errors import FacepipeError, StoreFull, UsageError
from pipelines.runners import Resources, Runner, ShardTask
from tests.pipelines.runners.contract import Job, RunnerContract, tasks
from tests.pipelines.runners.recorded import RecordedJob, held_pids

pytest.importorskip("apache_beam")

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    GoogleCloudOptions,
    PipelineOptions,
    StandardOptions,
)
from apache_beam.portability.api import beam_runner_api_pb2 as protos
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from pipelines.runners.beam import BeamRunner, save_pipeline

ROOT = Path(__file__).parents[3]
PROCESSES = ["--direct_running_mode=multi_processing"]
# A job service that knows of this machine only what it is sent, and answers like a cluster.
FAR_AWAY = [
    "--runner=PortableRunner",
    "--job_endpoint=embed",
    "--environment_type=beam:env:harness_subprocess_python:v1",
    f"--environment_config={sys.executable} -m apache_beam.runners.worker.sdk_worker_main",
]


def in_memory(workers: int, retries: int) -> Runner:
    return BeamRunner(workers, retries)


def in_processes(workers: int, retries: int) -> Runner:
    return BeamRunner(workers, retries, PROCESSES)


class TestInMemory(RunnerContract):
    runner = staticmethod(in_memory)


class TestInProcesses(RunnerContract):
    runner = staticmethod(in_processes)


def run(runner: Runner, job: Job, todo: list[ShardTask]) -> dict[str, list[Commit]]:
    done: dict[str, list[Commit]] = {}
    with runner:
        runner.map(job, todo, lambda task, commit: done.setdefault(task.shard, []).append(commit))
    return done


@pytest.fixture
def temporary(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Have temporary files in a folder of their own, and nothing left there in the end."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


def test_threads_of_beam_are_told_apart(tmp_path: Path) -> None:
    runner = BeamRunner(3, 2, ["--direct_running_mode=multi_threading"])
    todo = tasks(**{f"shard-{i}": ["x"] for i in range(7)})
    done = run(runner, Job(str(tmp_path)), todo)
    assert {shard: len(commits) for shard, commits in done.items()} == {
        task.shard: 1 for task in todo
    }


def test_steps_share_their_child(tmp_path: Path, temporary: Path) -> None:
    pids = []
    with BeamRunner(1) as runner:
        for step in range(2):
            runner.map(Job(str(tmp_path)), tasks(**{f"step-{step}": ["x"]}), lambda *_: None)
            pids.append(_children())
    assert len(pids[0]) == 1 and pids[0] == pids[1]
    assert _children() == set()


def _children() -> set[int]:
    """Return the workers among this process's children."""
    mine = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    pids = {int(pid) for path in mine for pid in path.read_text().split()}
    return {p for p in pids if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()}


def test_memory_mode_opens_no_socket(tmp_path: Path) -> None:
    seen: list[set[str]] = []
    before = _sockets()
    with BeamRunner(2) as runner:
        runner.map(Job(str(tmp_path)), tasks(a=["x"]), lambda *_: seen.append(_sockets()))
    assert seen == [before]


def _sockets() -> set[str]:
    links = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            links.append(str(entry.readlink()))
        except FileNotFoundError:  # the one that listed the folder
            continue
    return {link for link in links if link.startswith("socket:")}


# -- on a cluster --------------------------------------------------------------------------


@pytest.fixture
def far_away(monkeypatch: pytest.MonkeyPatch, temporary: Path) -> None:
    """Let the processes that Beam starts by itself import the tests."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_records_say_what_a_cluster_has_done(tmp_path: Path, far_away: None) -> None:
    job = RecordedJob(str(tmp_path), poison="kill")
    run(BeamRunner(1), job, tasks(before=["x"]))
    todo = tasks(before=["x"], a=["x"], b=["x", "poison"])
    done = run(BeamRunner(1, 2, FAR_AWAY), job, todo)
    facts = {shard: [c.facts["quarantined"] for c in commits] for shard, commits in done.items()}
    assert facts == {"before": [[]], "a": [[]], "b": [[1]]}
    assert (tmp_path / "before").stat().st_size == 1  # a bundle tried again redoes nothing


def test_a_metric_says_what_a_cluster_gave_up(tmp_path: Path, far_away: None) -> None:
    job = RecordedJob(str(tmp_path), fail=99)
    done: list[str] = []
    with (
        pytest.raises(FacepipeError, match="1 shards failed 2 times, weak first with OSError: a"),
        BeamRunner(1, 1, FAR_AWAY) as runner,
    ):
        runner.map(job, tasks(weak=["x"], a=["x"]), lambda task, _: done.append(task.shard))
    assert done == ["a"]


def test_an_error_comes_back_as_itself_from_a_cluster(tmp_path: Path, far_away: None) -> None:
    with pytest.raises(StoreFull, match=r"^no space left on this made disk$"):
        run(BeamRunner(1, 1, FAR_AWAY), RecordedJob(str(tmp_path)), tasks(full=["x"]))


def test_a_job_without_records_is_not_taken_for_done(tmp_path: Path, far_away: None) -> None:
    with pytest.raises(FacepipeError, match="1 are not committed, a first"):
        run(BeamRunner(1, 1, FAR_AWAY), Job(str(tmp_path)), tasks(a=["x"]))


# -- options and the saved pipeline --------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--direct_num_workers=many"], "direct_num_workers: invalid int value: 'many'"),
        (["--direct_running_mode=magic"], "invalid choice: 'magic'"),
    ],
)
def test_a_value_that_beam_refuses_is_a_usage_error(options: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        BeamRunner(options=options)


def test_a_runner_that_beam_lacks_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--runner=NoSuchRunner: Unexpected pipeline runner"):
        run(BeamRunner(options=["--runner=NoSuchRunner"]), Job(str(tmp_path)), tasks(a=["x"]))


CLUSTERS = {
    "flink": [
        "--runner=FlinkRunner",
        "--flink_master=flink:8081",
        "--environment_type=DOCKER",
        "--environment_config=registry.example/facepipe:1",
    ],
    "spark": ["--runner=SparkRunner", "--spark_master_url=spark://spark:7077"],
    "dataflow": [
        "--runner=DataflowRunner",
        "--project=p",
        "--region=europe-west4",
        "--temp_location=gs://bucket/tmp",
        "--sdk_container_image=registry.example/facepipe:1",
    ],
}


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_options_of_clusters_are_taken(cluster: str) -> None:
    BeamRunner(options=CLUSTERS[cluster])
    parsed = PipelineOptions(CLUSTERS[cluster])
    assert parsed.view_as(StandardOptions).runner.lower() == f"{cluster}runner"
    if cluster == "dataflow":
        assert parsed.view_as(GoogleCloudOptions).region == "europe-west4"


def test_beam_is_named_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    monkeypatch.delitem(sys.modules, "pipelines.runners.beam")
    with pytest.raises(UsageError, match=r"pip install 'facepipe\[beam\]'"):
        importlib.import_module("pipelines.runners.beam")


@pytest.fixture
def saved(tmp_path: Path, temporary: Path) -> protos.Pipeline:
    resources = Resources(memory_bytes=3 << 30)
    job = RecordedJob(str(tmp_path), poison="kill", resources=resources)
    todo = tasks(**{f"shard-{i}": ["x"] for i in range(5)}, bad=["x", "poison"])
    save_pipeline(job, todo, tmp_path / "saved.pb", CLUSTERS["flink"])
    proto = protos.Pipeline()
    proto.ParseFromString((tmp_path / "saved.pb").read_bytes())
    return proto


def test_a_saved_pipeline_is_create_reshuffle_pardo(saved: protos.Pipeline) -> None:
    parts = saved.components
    top = parts.transforms[saved.root_transform_ids[0]]
    steps = [parts.transforms[name] for name in top.subtransforms or saved.root_transform_ids]
    assert [step.unique_name for step in steps] == ["Shards", "Spread", "RunShards"]
    assert steps[1].spec.urn == "beam:transform:reshuffle:v1"
    assert steps[2].spec.urn == "beam:transform:pardo:v1"
    payload = protos.ParDoPayload.FromString(steps[2].spec.payload)
    assert payload.do_fn.urn == "beam:dofn:pickled_python_info:v1"
    leaves = {t.spec.urn for t in parts.transforms.values() if not t.subtransforms}
    assert leaves == {
        "beam:transform:impulse:v1",
        "beam:transform:group_by_key:v1",
        "beam:transform:pardo:v1",
    }
    assert list(saved.requirements) == []
    environment = parts.environments[steps[2].environment_id]
    assert environment.urn == "beam:env:docker:v1"
    image = protos.DockerPayload.FromString(environment.payload).container_image
    assert image == "registry.example/facepipe:1"
    assert environment.resource_hints["beam:resources:min_ram_bytes:v1"] == str(3 << 30).encode()


def test_a_saved_pipeline_runs(saved: protos.Pipeline, tmp_path: Path) -> None:
    direct = PipelineOptions(["--direct_embed_docker_python", "--no_save_main_session"])
    for environment in saved.components.environments.values():
        if environment.urn == "beam:env:docker:v1":  # not here: in the process of the test
            environment.urn, environment.payload = "beam:env:embedded_python:v1", b""
    pipeline = beam.Pipeline.from_runner_api(saved, FnApiRunner(), direct)
    pipeline.run().wait_until_finish()
    names = {*(f"shard-{i}" for i in range(5)), "bad"}
    job = RecordedJob(str(tmp_path))
    commits = list(job.committed(tasks(**{name: ["x"] for name in names})))
    assert {c.shard: c.facts["quarantined"] for c in commits} == {
        name: [1] if name == "bad" else [] for name in names
    }
    assert all((tmp_path / f"shard-{i}").stat().st_size == 1 for i in range(5))


# -- death ---------------------------------------------------------------------------------


@pytest.fixture
def held(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "held-pids")
    return tmp_path


def kill_when_held(folder: Path, times: int) -> threading.Thread:
    """Kill the process of Beam that runs "held", as often as it is run."""

    def kill() -> None:
        for _ in range(times):
            os.kill(held_pids(folder)[1], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


def test_a_lost_process_of_beam_costs_only_what_it_ran(held: Path, temporary: Path) -> None:
    killer = kill_when_held(held, 1)
    todo = tasks(held=["x"], **{f"shard-{i}": ["x"] for i in range(5)})
    done = run(BeamRunner(2, 1, PROCESSES), RecordedJob(str(held), hold=1), todo)
    killer.join()
    assert {shard: len(commits) for shard, commits in done.items()} == {
        task.shard: 1 for task in todo
    }
    assert all((held / f"shard-{i}").stat().st_size == 1 for i in range(5))


def test_processes_of_beam_that_keep_dying_end_the_run_and_not_the_next(held: Path) -> None:
    killer = kill_when_held(held, 1)
    todo = tasks(held=["x"], a=["x"])
    runner = BeamRunner(2, 0, PROCESSES)
    with pytest.raises(FacepipeError, match="died 1 times"), runner:
        runner.map(RecordedJob(str(held), hold=99), todo, lambda *_: None)
    killer.join()
    assert set(run(runner, RecordedJob(str(held)), todo)) == {"held", "a"}


DRIVER = """
import sys
from pipelines.runners.beam import BeamRunner
from tests.pipelines.runners.contract import tasks
from tests.pipelines.runners.recorded import RecordedJob
if __name__ == "__main__":
    job = RecordedJob(sys.argv[1], hold=99)
    with BeamRunner(2, 1, sys.argv[2:]) as runner:
        runner.map(job, tasks(held=["x"], a=["x"]), lambda *_: None)
"""


@pytest.mark.parametrize("options", [[], PROCESSES], ids=["memory", "processes"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_the_driver(
    held: Path, options: list[str], how: int, temporary: Path
) -> None:
    script = held / "driver.py"
    script.write_text(DRIVER)
    driver = subprocess.Popen(
        [sys.executable, str(script), str(held), *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    child, parent = held_pids(held)
    watched = [os.pidfd_open(pid) for pid in {child, parent} - {driver.pid}]
    os.killpg(driver.pid, how) if how == signal.SIGINT else driver.kill()
    _, said = driver.communicate(timeout=30)
    if how == signal.SIGINT:
        assert driver.returncode == -signal.SIGINT
        assert said.rstrip().endswith("KeyboardInterrupt") and "FacepipeError" not in said
    for pidfd in watched:
        assert _ended(pidfd)
        os.close(pidfd)


def _ended(pidfd: int) -> bool:
    """Wait until a process has ended, for half a minute at most."""
    return bool(select.select([pidfd], [], [], 30)[0])
