"""The local engine: death, poison, passing errors, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from facepipe.commits import Commit
from facepipe.errors import FacepipeError, ModelUnreadable, StoreFull
from pipelines.runners import ShardTask
from pipelines.runners.local import LocalRunner


@dataclass(frozen=True)
class Job:
    """Counts its runs in a folder; some items kill, some shards fail at first."""

    folder: str
    poison: str = ""  # how the items named "poison" kill
    fail: int = 0  # times that a shard named "weak" fails

    def open(self) -> Worker:
        return Worker(self)


@dataclass
class Worker:
    job: Job

    def check(self) -> None:
        if self.job.poison == "open":
            os._exit(9)
        if self.job.fail:
            raise ModelUnreadable("a made model that is broken")

    def run(self, task: ShardTask, quarantined: frozenset[int]) -> Commit:
        self._count(task.shard)
        for i, item in enumerate(task.payload):
            if i not in quarantined:
                self._touch(item)
        if task.shard == "full":
            raise StoreFull("no space left on this made disk")
        if task.shard == "weak" and self._count("weak-fails") <= self.job.fail:
            raise OSError("a passing error")
        facts = {"quarantined": sorted(quarantined)}
        return Commit(step="s", shard=task.shard, key=task.key, files=(), counts={}, facts=facts)

    def probe(self, task: ShardTask, item: int) -> None:
        self._touch(task.payload[item])

    def _touch(self, item: str) -> None:
        if item == "poison":
            if self.job.poison == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.job.poison == "hang":
                signal.alarm(1)
                signal.pause()
        if item == "once" and self._count("once") == 1:
            os._exit(9)

    def _count(self, name: str) -> int:
        path = Path(self.job.folder) / name
        with path.open("a") as stream:
            stream.write(".")
        return path.stat().st_size


def tasks(**shards: list[str]) -> list[ShardTask]:
    return [
        ShardTask(step="s", shard=name, key="k", items=len(items), payload=tuple(items))
        for name, items in shards.items()
    ]


def run(job: Job, *todo: ShardTask, workers: int = 2) -> dict[str, Commit]:
    done: dict[str, Commit] = {}
    with LocalRunner(workers) as runner:
        runner.map(job, todo, lambda task, commit: done.__setitem__(task.shard, commit))
    return done


def test_every_task_once(tmp_path: Path) -> None:
    names = {f"shard-{i}": ["x"] for i in range(20)}
    done = run(Job(str(tmp_path)), *tasks(**names))
    assert set(done) == set(names)
    assert all((tmp_path / n).stat().st_size == 1 for n in names)


@pytest.mark.parametrize("how", ["kill", "hang"])
def test_poison_costs_only_itself(tmp_path: Path, how: str) -> None:
    shards = {"a": ["x"] * 3, "b": ["x", "poison", "x", "poison"], "c": ["x"] * 3}
    done = run(Job(str(tmp_path), poison=how), *tasks(**shards))
    assert {n: c.facts["quarantined"] for n, c in done.items()} == {"a": [], "b": [1, 3], "c": []}


def test_a_worker_that_dies_once_costs_nothing(tmp_path: Path) -> None:
    done = run(Job(str(tmp_path)), *tasks(a=["x"], b=["x", "once"], c=["x"]))
    assert {n: c.facts["quarantined"] for n, c in done.items()} == {"a": [], "b": [], "c": []}


def test_a_passing_error_is_tried_again(tmp_path: Path) -> None:
    assert set(run(Job(str(tmp_path), fail=2), *tasks(a=["x"], weak=["x"]))) == {"a", "weak"}


def test_a_lasting_error_names_the_shard_after_the_others_are_done(tmp_path: Path) -> None:
    done: list[str] = []
    job = Job(str(tmp_path), fail=99)
    with pytest.raises(FacepipeError, match="weak first with OSError: a passing error"):
        with LocalRunner(2, retries=1) as runner:
            runner.map(job, tasks(weak=["x"], a=["x"], b=["x"]), lambda t, c: done.append(t.shard))
    assert sorted(done) == ["a", "b"]
    assert (tmp_path / "weak").stat().st_size == 2


def test_an_error_beside_a_death_costs_only_its_own_shard(tmp_path: Path) -> None:
    done: dict[str, Commit] = {}
    job = Job(str(tmp_path), poison="kill", fail=99)
    with (
        pytest.raises(FacepipeError, match="1 shards failed"),
        LocalRunner(2, retries=1) as runner,
    ):
        todo = tasks(weak=["x"], bad=["poison"], a=["x"], b=["x"])
        runner.map(job, todo, lambda task, commit: done.__setitem__(task.shard, commit))
    assert {n: c.facts["quarantined"] for n, c in done.items()} == {"bad": [0], "a": [], "b": []}


def test_an_error_with_a_remedy_ends_the_run_at_once(tmp_path: Path) -> None:
    with pytest.raises(StoreFull, match="made disk"):
        run(Job(str(tmp_path)), *tasks(full=["x"]))


def test_models_are_checked_before_the_first_task(tmp_path: Path) -> None:
    with LocalRunner(2) as runner:
        runner.check([Job(str(tmp_path))] * 3)
        with pytest.raises(ModelUnreadable, match="broken"):
            runner.check([Job(str(tmp_path)), Job(str(tmp_path), fail=1)])
        with pytest.raises(FacepipeError, match="kills the process"):
            runner.check([Job(str(tmp_path), poison="open")])
        runner.check([Job(str(tmp_path))])  # the engine goes on after that


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0]
    except FileNotFoundError:
        return False


def test_workers_end_with_a_killed_driver(tmp_path: Path) -> None:
    code = (
        "import sys; from tests.pipelines.runners import test_local as t\n"
        "if __name__ == '__main__':\n"
        " with t.LocalRunner(2) as r:\n"
        "  r.map(t.Job(sys.argv[1]), t.tasks(a=['x'], b=['x']), lambda *_: None)\n"
        "  print(*r._pool._processes, flush=True); sys.stdin.read()\n"
    )
    script = tmp_path / "driver.py"
    script.write_text(code)
    root = Path(__file__).parents[3]
    driver = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert driver.stdout is not None and driver.stdin is not None
    workers = [int(pid) for pid in driver.stdout.readline().split()]
    assert len(workers) == 2 and all(map(alive, workers))
    driver.kill()
    driver.wait()
    deadline = time.monotonic() + 30
    while any(map(alive, workers)) and time.monotonic() < deadline:
        os.sched_yield()
    driver.stdin.close()
    driver.stdout.close()
    assert not any(map(alive, workers))
