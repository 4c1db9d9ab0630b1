"""What every engine must do: each task once, death, poison, passing and lasting errors.

Each engine's test module has a class that inherits `RunnerContract` and says how to start it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from facepipe.commits import Commit
from facepipe.errors import FacepipeError, ModelUnreadable, StoreFull
from pipelines.runners import ONE_CORE, Resources, Runner, ShardTask


@dataclass(frozen=True)
class Job:
    """Counts its runs in a folder; some items kill, some shards fail at first."""

    folder: str
    poison: str = ""  # how the items named "poison" kill
    fail: int = 0  # times that a shard named "weak" fails
    resources: Resources = ONE_CORE

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
        if "whole" in task.payload:  # too much for a process, though no single item is
            os._exit(9)
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
        if item == "twice" and self._count("twice") <= 2:
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


def quarantined(done: dict[str, Commit]) -> dict[str, list[int]]:
    return {name: commit.facts["quarantined"] for name, commit in done.items()}


class RunnerContract:
    """The tests; a subclass sets ``runner``."""

    runner: Callable[[int, int], Runner]  # (workers, retries); a staticmethod

    def run_all(self, job: Job, *todo: ShardTask) -> dict[str, Commit]:
        done: dict[str, Commit] = {}
        with self.runner(2, 2) as runner:
            runner.map(job, todo, lambda task, commit: done.__setitem__(task.shard, commit))
        return done

    def test_every_task_once(self, tmp_path: Path) -> None:
        names = {f"shard-{i}": ["x"] for i in range(20)}
        done = self.run_all(Job(str(tmp_path)), *tasks(**names))
        assert set(done) == set(names)
        assert all((tmp_path / n).stat().st_size == 1 for n in names)

    @pytest.mark.parametrize("how", ["kill", "hang"])
    def test_poison_costs_only_itself(self, tmp_path: Path, how: str) -> None:
        shards = {"a": ["x"] * 3, "b": ["x", "poison", "x", "poison"], "c": ["x"] * 3}
        done = self.run_all(Job(str(tmp_path), poison=how), *tasks(**shards))
        assert quarantined(done) == {
            "a": [],
            "b": [1, 3],
            "c": [],
        }

    def test_a_worker_that_dies_once_costs_nothing(self, tmp_path: Path) -> None:
        done = self.run_all(Job(str(tmp_path)), *tasks(a=["x"], b=["x", "once"], c=["x"]))
        assert quarantined(done) == {"a": [], "b": [], "c": []}

    def test_a_worker_that_is_taken_away_twice_costs_nothing(self, tmp_path: Path) -> None:
        done = self.run_all(Job(str(tmp_path)), *tasks(a=["x", "twice"], b=["x"]))
        assert quarantined(done) == {"a": [], "b": []}

    def test_a_shard_that_no_process_survives_is_named(self, tmp_path: Path) -> None:
        done: list[str] = []
        job = Job(str(tmp_path))
        with pytest.raises(FacepipeError, match=r"big first with .*kills its worker"):
            with self.runner(2, 1) as runner:
                todo = tasks(big=["whole"], a=["x"], b=["x"])
                runner.map(job, todo, lambda t, c: done.append(t.shard))
        assert sorted(done) == ["a", "b"]

    def test_a_passing_error_is_tried_again(self, tmp_path: Path) -> None:
        assert set(self.run_all(Job(str(tmp_path), fail=2), *tasks(a=["x"], weak=["x"]))) == {
            "a",
            "weak",
        }

    def test_a_lasting_error_names_the_shard_after_the_others(self, tmp_path: Path) -> None:
        done: list[str] = []
        job = Job(str(tmp_path), fail=99)
        with pytest.raises(FacepipeError, match="weak first with OSError: a passing error"):
            with self.runner(2, 1) as runner:
                runner.map(
                    job, tasks(weak=["x"], a=["x"], b=["x"]), lambda t, c: done.append(t.shard)
                )
        assert sorted(done) == ["a", "b"]
        assert (tmp_path / "weak").stat().st_size == 2

    def test_an_error_beside_a_death_costs_only_its_own_shard(self, tmp_path: Path) -> None:
        done: dict[str, Commit] = {}
        job = Job(str(tmp_path), poison="kill", fail=99)
        with (
            pytest.raises(FacepipeError, match="1 shards failed"),
            self.runner(2, 1) as runner,
        ):
            todo = tasks(weak=["x"], bad=["poison"], a=["x"], b=["x"])
            runner.map(job, todo, lambda task, commit: done.__setitem__(task.shard, commit))
        assert quarantined(done) == {
            "bad": [0],
            "a": [],
            "b": [],
        }

    def test_an_error_with_a_remedy_ends_the_run_at_once(self, tmp_path: Path) -> None:
        with pytest.raises(StoreFull, match="made disk"):
            self.run_all(Job(str(tmp_path)), *tasks(full=["x"]))

    def test_models_are_checked_before_the_first_task(self, tmp_path: Path) -> None:
        with self.runner(2, 2) as runner:
            runner.check([Job(str(tmp_path))] * 3)
            with pytest.raises(ModelUnreadable, match="broken"):
                runner.check([Job(str(tmp_path)), Job(str(tmp_path), fail=1)])
            with pytest.raises(FacepipeError, match="kills the process"):
                runner.check([Job(str(tmp_path), poison="open")])
            runner.check([Job(str(tmp_path))])  # the engine goes on after that
