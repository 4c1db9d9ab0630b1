"""The contract of an engine: map shard tasks over workers that open their models once.

A *job* says how to open a worker; it is small, frozen and picklable, since it travels with
every task. A *worker* runs one shard task and commits it itself, so that the driver never
holds data. An engine collects commits as they come, retries what fails in passing, and
finds the item that kills its worker, so that it costs only itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from facepipe.commits import Commit


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTask:
    """One shard of a step: its name, the key of its inputs, and what the worker needs."""

    step: str
    shard: str
    key: str
    items: int  # photos or faces, for progress and for finding a poisonous one
    payload: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one worker of a job keeps busy; an engine with a scheduler asks for as much."""

    num_cpus: float = 1.0
    num_gpus: float = 0.0
    memory_bytes: int = 0  # 0: not asked for


ONE_CORE = Resources()


class Worker(Protocol):
    """Runs the tasks of one job in one process."""

    def check(self) -> None:
        """Try what was opened on a made input. Raises what `run` would for a bad model."""
        ...

    def run(self, task: ShardTask, quarantined: frozenset[int]) -> Commit:
        """Run and commit one shard, giving quarantined items their status untouched."""
        ...

    def probe(self, task: ShardTask, item: int) -> None:
        """Touch one item as `run` would, and forget it: does it kill the process?"""
        ...


class Job(Protocol):
    """What to run; hashable, since a process keeps its workers by their job."""

    @property
    def resources(self) -> Resources:
        """Return what one worker needs."""
        ...

    def open(self) -> Worker:
        """Open models and stores, once per process."""
        ...


@runtime_checkable
class RecordedJob(Job, Protocol):
    """A job whose commits can be looked up, for engines whose workers cannot report them."""

    def committed(self, tasks: Sequence[ShardTask]) -> Iterable[Commit]:
        """Yield the commits of those of these tasks that have one under their key."""
        ...


class WorkerDied(Exception):
    """The process that ran a task is gone; whether the task is to blame is not known yet."""


class Runner(Protocol):
    """An engine; a context manager, which ends what it started."""

    def __enter__(self) -> Runner:
        """Return the runner; processes start with the first task."""
        ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the processes: at once after an error or Ctrl-C, their shards are redone."""
        ...

    def check(self, jobs: Sequence[Job]) -> None:
        """Open and check workers of these jobs. Raises the first error, in the jobs' order."""
        ...

    def map(
        self, job: Job, tasks: Sequence[ShardTask], on_done: Callable[[ShardTask, Commit], None]
    ) -> None:
        """Run every task to its commit, in any order.

        Raises the worker's own FacepipeError at once; FacepipeError after the last retry of
        a shard that keeps failing, once every other task has been tried.
        """
        ...
