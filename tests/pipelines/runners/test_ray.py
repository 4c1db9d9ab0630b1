"""The Ray engine on a cluster of two nodes: the contract, and nodes, actors and drivers lost."""

from __future__ import annotations

import fcntl
import importlib
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from facepipe.commits import Commit
from facepipe.errors import FacepipeError, UsageError
from pipelines.runners import ONE_CORE, Resources, Runner, ShardTask
from tests.pipelines.runners import contract
from tests.pipelines.runners.contract import RunnerContract, quarantined, tasks

pytest.importorskip("ray", reason="the extra is not installed: pip install 'facepipe[ray]'")

import ray
from ray.cluster_utils import Cluster

from pipelines.runners import ray as engine
from pipelines.runners.ray import RayRunner

ROOT = Path(__file__).parents[3]
TOKEN = "t" * 64
ALERT = {"health_check_period_ms": 500, "health_check_failure_threshold": 3}  # 15 s otherwise
IMPATIENT = {"RAY_NUM_REDIS_GET_RETRIES": "1"}  # Ray tries a token for 20 s otherwise


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes of one CPU each, which this process is connected to."""
    from ray._private.authentication.authentication_token_setup import enable_token_auth_by_default

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("RAY_AUTH_TOKEN", TOKEN)
        patch.delenv("RAY_AUTH_MODE", raising=False)
        patch.delenv("RAY_ADDRESS", raising=False)
        enable_token_auth_by_default()  # as ray.init does for a cluster of its own
        two = Cluster(initialize_head=True, head_node_args=node(_system_config=ALERT))
        two.add_node(**node())
        ray.init(two.address, log_to_driver=False, logging_level="ERROR")
        yield two
        ray.shutdown()
        two.shutdown()


def node(**more: Any) -> dict[str, Any]:
    small = {"num_cpus": 1, "object_store_memory": 75 * 2**20, "include_dashboard": False}
    return {**small, **more}


def start(workers: int, retries: int) -> Runner:
    return RayRunner(workers, retries)


@pytest.mark.usefixtures("cluster")
class TestRay(RunnerContract):
    runner = staticmethod(start)


# -- nodes and actors lost -----------------------------------------------------------------


@dataclass(frozen=True)
class Gated:
    """Says where a task runs, then waits for the gate to open; its own worker."""

    folder: str
    resources: Resources = ONE_CORE

    def open(self) -> Gated:
        return self

    def check(self) -> None:
        pass

    def run(self, task: ShardTask, quarantined: frozenset[int]) -> Commit:
        where = f"{os.getpid()} {ray.get_runtime_context().get_node_id()}\n"
        with (Path(self.folder) / f"run-{task.shard}").open("a") as stream:
            stream.write(where)
        with (Path(self.folder) / "gate").open("a") as gate:
            fcntl.flock(gate, fcntl.LOCK_SH)
        facts = {"quarantined": sorted(quarantined)}
        return Commit(step="s", shard=task.shard, key="k", files=(), counts={}, facts=facts)

    def probe(self, task: ShardTask, item: int) -> None:
        pass


@contextmanager
def closed(folder: Path) -> Iterator[None]:
    with (folder / "gate").open("a") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        yield


def runs(folder: Path) -> dict[str, list[list[str]]]:
    """Return (pid, node) of each run of each shard."""
    return {
        path.name.removeprefix("run-"): [line.split() for line in path.read_text().splitlines()]
        for path in folder.glob("run-*")
    }


def until(holds: Callable[[], object], seconds: float = 60) -> None:
    waited = threading.Event()
    for _ in range(int(seconds * 20)):
        if holds():
            return
        waited.wait(0.05)
    raise AssertionError("not within the time")


def map_meanwhile(
    folder: Path, workers: int, act: Callable[[list[list[str]]], None], shards: int = 9
) -> tuple[Counter[str], dict[str, Commit]]:
    """Map while ``act`` does its worst to the first ``workers`` runs."""
    results: Counter[str] = Counter()
    done: dict[str, Commit] = {}

    def on_done(task: ShardTask, commit: Commit) -> None:
        results[task.shard] += 1
        done[task.shard] = commit

    def strike() -> None:
        with closed(folder):
            barrier.wait()
            until(lambda: sum(map(len, runs(folder).values())) == workers)
            act([run[0] for run in runs(folder).values()])

    barrier = threading.Barrier(2)
    thread = threading.Thread(target=strike)
    thread.start()
    barrier.wait()
    with RayRunner(workers) as runner:
        runner.map(Gated(str(folder)), tasks(**{f"s{i}": ["x"] for i in range(shards)}), on_done)
    thread.join()
    return results, done


def test_an_actor_that_is_killed_costs_one_run(cluster: Cluster, tmp_path: Path) -> None:
    killed: list[str] = []

    def kill(running: list[list[str]]) -> None:
        killed.append(running[0][0])
        os.kill(int(killed[0]), signal.SIGKILL)

    results, done = map_meanwhile(tmp_path, 2, kill)
    assert results == {f"s{i}": 1 for i in range(9)}
    assert not any(map(any, quarantined(done).values()))
    again = {shard: len(where) for shard, where in runs(tmp_path).items() if len(where) > 1}
    assert list(again.values()) == [2]  # the run that was killed, and nothing else
    assert killed[0] not in {pid for where in runs(tmp_path).values() for pid, _ in where[1:]}


def test_a_node_that_dies_costs_the_runs_on_it(cluster: Cluster, tmp_path: Path) -> None:
    doomed = cluster.add_node(**node())
    until(lambda: ray.cluster_resources()["CPU"] == 3)

    def kill(running: list[list[str]]) -> None:
        assert len({where for _, where in running}) == 3
        cluster.remove_node(doomed, allow_graceful=False)
        for pid in [pid for pid, where in running if where == doomed.node_id]:
            os.kill(int(pid), signal.SIGKILL)  # Ray's test cluster lets them find out

    results, done = map_meanwhile(tmp_path, 3, kill)
    assert results == {f"s{i}": 1 for i in range(9)}
    assert not any(map(any, quarantined(done).values()))
    again = [where for where in runs(tmp_path).values() if len(where) > 1]
    assert [len(where) for where in again] == [2]
    assert again[0][0][1] == doomed.node_id != again[0][1][1]
    until(lambda: ray.cluster_resources()["CPU"] == 2)


# -- places --------------------------------------------------------------------------------


def run_all(runner: RayRunner, job: Any, *todo: ShardTask) -> dict[str, Commit]:
    done: dict[str, Commit] = {}
    with runner:
        runner.map(job, todo, lambda task, commit: done.__setitem__(task.shard, commit))
    return done


def test_more_workers_than_places(cluster: Cluster, tmp_path: Path) -> None:
    job = contract.Job(str(tmp_path), poison="kill")
    shards = {f"s{i}": ["x"] for i in range(8)}
    done = run_all(RayRunner(6), job, *tasks(bad=["x", "poison"], **shards))
    assert quarantined(done) == {"bad": [1], **{s: [] for s in shards}}


@pytest.mark.parametrize(("cpus", "workers"), [(1.0, 2), (0.5, 4), (0.75, 2), (2.0, 1)])
def test_as_many_workers_as_the_cluster_has_room_for(
    cluster: Cluster, tmp_path: Path, cpus: float, workers: int
) -> None:
    runner = RayRunner(patience_s=1 if cpus > 1 else 60)
    asked = Resources(num_cpus=cpus)
    if cpus > 1:  # the sum has room, and no node has
        with pytest.raises(FacepipeError, match="asks for CPU 2, and the cluster has CPU 2"):
            run_all(runner, Gated(str(tmp_path), asked), *tasks(a=["x"]))
    else:
        assert set(run_all(runner, Gated(str(tmp_path), asked), *tasks(a=["x"]))) == {"a"}
    assert runner.workers == workers


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        (Resources(num_cpus=64), "CPU 64"),
        (Resources(num_gpus=0.5), "CPU 1, GPU 0.5"),
        (Resources(memory_bytes=2**45), r"CPU 1, memory 3.51844e\+13"),
    ],
)
def test_no_place_at_all(cluster: Cluster, tmp_path: Path, asked: Resources, named: str) -> None:
    job = Gated(str(tmp_path), asked)
    with pytest.raises(FacepipeError, match=f"asks for {named}, and the cluster has CPU 2"):
        run_all(RayRunner(2, patience_s=1), job, *tasks(a=["x"]))
    assert set(run_all(RayRunner(2), Gated(str(tmp_path)), *tasks(a=["x"]))) == {"a"}


def test_a_step_with_other_resources_gets_other_actors(cluster: Cluster, tmp_path: Path) -> None:
    with RayRunner(2) as runner:
        for cpus in (1.0, 0.5, 1.0):
            job = Gated(str(tmp_path), Resources(num_cpus=cpus))
            runner.map(job, tasks(a=["x"], b=["x"]), lambda *_: None)
    pids = {pid for where in runs(tmp_path).values() for pid, _ in where}
    assert len(pids) >= 3 and [len(w) for w in runs(tmp_path).values()] == [3, 3]


# -- what does not fit together --------------------------------------------------------------


def test_another_version_on_a_node(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "__version__", "0.0.0")
    with pytest.raises(FacepipeError, match=r"this driver facepipe 0\.0\.0 on Python .*install"):
        run_all(RayRunner(2), Gated(str(tmp_path)), *tasks(a=["x"]))


def test_a_node_without_facepipe(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_in_the_driver.py").write_text("def introduce(): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("only_in_the_driver")
    monkeypatch.setattr(engine, "introduce", module.introduce)
    with pytest.raises(FacepipeError, match=r"cannot run facepipe: .*No module.*Install"):
        run_all(RayRunner(2), Gated(str(tmp_path)), *tasks(a=["x"]))


def test_errors_that_cannot_travel_say_what_they_were() -> None:
    class Stubborn(Exception):
        def __init__(self, a: int, b: int) -> None:
            super().__init__(f"{a} and {b}")

    came = engine._portable(Stubborn(1, 2))
    assert type(came) is RuntimeError and str(came) == "Stubborn: 1 and 2"
    assert type(engine._portable(UsageError("x"))) is UsageError


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "pipelines.runners.ray")
    with pytest.raises(UsageError, match=r"pip install 'facepipe\[ray\]'"):
        importlib.import_module("pipelines.runners.ray")
    monkeypatch.undo()
    monkeypatch.setattr("pipelines.runners.ray", engine)


# -- drivers -------------------------------------------------------------------------------

DRIVER = """
import os, sys
from facepipe.errors import FacepipeError
from pipelines.runners.ray import RayRunner
from tests.pipelines.runners import contract, test_ray
job = test_ray.Gated(sys.argv[1])
if len(sys.argv) > 2:
    job = contract.Job(sys.argv[1], poison=sys.argv[2])
try:
    with RayRunner(2) as runner:
        runner.map(job, contract.tasks(a=["x"], b=["poison"]), lambda t, c: print(t.shard))
except FacepipeError as error:
    sys.exit(str(error))
"""


def driver(folder: Path, *arguments: str, **environment: str | None) -> subprocess.Popen[str]:
    script = folder / "driver.py"
    script.write_text(DRIVER)
    changed = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(folder), **environment}
    return subprocess.Popen(
        [sys.executable, str(script), str(folder), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={name: value for name, value in changed.items() if value is not None},
    )


def alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def marked(folder: Path) -> list[str]:
    """Return the processes that inherited a folder as their home: a driver and its cluster."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"HOME={folder}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_text().rstrip("\0 "))
        except OSError:
            continue
    return found


def kill_while_it_works(process: subprocess.Popen[str], folder: Path) -> list[str]:
    """Kill a driver whose two tasks run; return the actors' pids."""
    with closed(folder):
        gone = lambda: process.poll() is not None  # noqa: E731
        until(lambda: gone() or len(runs(folder)) == 2)
        pids = [where[0][0] for where in runs(folder).values()]
        assert len(pids) == 2 and all(map(alive, pids))
        process.kill()
        process.communicate()
        until(lambda: not any(map(alive, pids)))
    return pids


def test_actors_end_with_a_killed_driver(cluster: Cluster, tmp_path: Path) -> None:
    kill_while_it_works(driver(tmp_path, RAY_ADDRESS=cluster.address), tmp_path)
    second = driver(tmp_path, RAY_ADDRESS=cluster.address)
    out, _ = second.communicate(timeout=120)
    assert sorted(out.split()) == ["a", "b"] and second.returncode == 0


def test_a_wrong_token_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    wrong = driver(tmp_path, RAY_ADDRESS=cluster.address, RAY_AUTH_TOKEN="f" * 64, **IMPATIENT)
    _, err = wrong.communicate(timeout=120)
    assert wrong.returncode == 1 and "RAY_AUTH_TOKEN" in err
    assert not runs(tmp_path)


@pytest.mark.parametrize(
    ("address", "says"),
    [("ray://127.0.0.1:10001", "GCS"), ("127.0.0.1:9", "no connection .* at 127.0.0.1:9")],
)
def test_addresses_where_no_cluster_is(address: str, says: str, tmp_path: Path) -> None:
    ray.shutdown()
    with pytest.raises(FacepipeError, match=says):
        run_all(RayRunner(2, address=address), Gated(str(tmp_path)), *tasks(a=["x"]))


@pytest.mark.slow
def test_a_cluster_of_its_own_leaves_nothing(tmp_path: Path) -> None:
    nobody = {"RAY_ADDRESS": None, "RAY_AUTH_TOKEN": None, "RAY_AUTH_MODE": None}
    first = driver(tmp_path, "kill", **nobody)
    out, err = first.communicate(timeout=120)
    assert (sorted(out.split()), first.returncode) == (["a", "b"], 0), err  # and no word of Ray
    assert not (tmp_path / ".ray").exists()
    until(lambda: not marked(tmp_path))

    kill_while_it_works(driver(tmp_path, **nobody), tmp_path)
    # Ray's agents wait for up to a minute for their head to come back; they run nothing.
    until(lambda: all(process.endswith("Agent") for process in marked(tmp_path)))
