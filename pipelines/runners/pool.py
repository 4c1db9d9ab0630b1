"""The driver's loop, for engines that have processes to give calls to.

Work in flight is bounded; what fails is tried again behind everything else; a task whose
process died runs alone in a process of its own, while the others go on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Self

from facepipe.commits import Commit
from facepipe.errors import FacepipeError
from pipelines.runners import Job, Resources, ShardTask, WorkerDied
from pipelines.runners.process import check_job, run_task
from pipelines.runners.quarantine import Pool, cannot_open, given_up, run_alone

_IN_FLIGHT = 2  # tasks per worker: one running, one waiting, so that no worker is idle

OnDone = Callable[[ShardTask, Commit], None]


@dataclass(slots=True)
class _Round:
    """The state of one `map`."""

    job: Job
    queue: list[ShardTask]  # the next task is the last
    on_done: OnDone
    flying: dict[Future[Any], ShardTask] = field(default_factory=dict)  # in the pool
    alone: dict[Future[Any], ShardTask] = field(default_factory=dict)  # suspects
    failures: Counter[str] = field(default_factory=Counter)
    causes: dict[str, BaseException] = field(default_factory=dict)


class PoolRunner(ABC):
    """An engine over a pool of processes; use it as a context manager."""

    def __init__(self, workers: int = 1, retries: int = 2) -> None:
        """Set the number of processes; they start with the first task."""
        self.workers = max(1, workers)
        self.retries = retries
        self._pool: Pool | None = None
        self._resources = Resources()

    @abstractmethod
    def start(self, workers: int, resources: Resources) -> Pool:
        """Start a pool."""

    def placed_by(self, resources: Resources) -> Resources:
        """Return what of these a pool is started for; jobs for which it is alike share one."""
        return resources

    def __enter__(self) -> Self:
        """Return the runner."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the processes: at once after an error or Ctrl-C, their shards are redone."""
        self._close(kill=kind is not None)

    def check(self, jobs: Sequence[Job]) -> None:
        """Open and check workers of these jobs. See `pipelines.runners.Runner.check`."""
        for _, alike in groupby(jobs, key=lambda job: self.placed_by(job.resources)):
            for future in [self._started(job).submit(check_job, job) for job in alike]:
                try:
                    future.result()
                except WorkerDied as error:
                    self._close(kill=True)
                    raise cannot_open(self.workers) from error

    def map(self, job: Job, tasks: Sequence[ShardTask], on_done: OnDone) -> None:
        """Run every task to its commit. See `pipelines.runners.Runner.map`."""
        now = _Round(job, list(reversed(tasks)), on_done)
        self._started(job)  # an engine may learn only now how many workers there are
        threads = ThreadPoolExecutor(self.workers)
        try:
            while now.queue or now.flying or now.alone:
                self._fill(now)
                done, _ = wait([*now.flying, *now.alone], return_when=FIRST_COMPLETED)
                for suspect in self._collect(now, done):
                    future = threads.submit(run_alone, job, suspect, self._fresh(job))
                    now.alone[future] = suspect
                if self._pool is not None and self._pool.broken and not now.flying:
                    self._close(kill=True)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
        if now.causes:
            texts = {s: f"{type(cause).__name__}: {cause}" for s, cause in now.causes.items()}
            raise given_up(texts, self.retries) from now.causes[min(now.causes)]

    def _fill(self, now: _Round) -> None:
        """Give the pool as many tasks as it may have; a suspect takes a worker's place."""
        window = _IN_FLIGHT * (self.workers - len(now.alone))
        while now.queue and len(now.flying) < window:
            pool = self._started(now.job)
            if pool.broken:  # its other tasks are about to come back as suspects
                if now.flying:
                    return
                self._close(kill=True)
                continue
            try:
                future = pool.submit(run_task, now.job, now.queue[-1], frozenset())
            except WorkerDied:
                continue
            now.flying[future] = now.queue.pop()

    def _collect(self, now: _Round, done: set[Future[Any]]) -> Iterator[ShardTask]:
        """Count what has finished, put back what failed, and yield whose process died."""
        for future in sorted(done, key=lambda f: (now.flying.get(f) or now.alone[f]).shard):
            task = now.flying.pop(future, None) or now.alone.pop(future)
            error = future.exception()
            if error is None:
                now.on_done(task, future.result())
            elif isinstance(error, WorkerDied):
                yield task
            elif isinstance(error, FacepipeError):
                raise error
            else:
                self._failed(now, task, error)

    def _failed(self, now: _Round, task: ShardTask, error: BaseException) -> None:
        """Put a failed task back, behind all others, or give it up after the last retry."""
        now.failures[task.shard] += 1
        if now.failures[task.shard] <= self.retries:
            now.queue.insert(0, task)  # last: the cause may pass meanwhile
        else:
            now.causes[task.shard] = error

    def _fresh(self, job: Job) -> Callable[[], Any]:
        @contextmanager
        def fresh() -> Iterator[Pool]:
            pool = self.start(1, job.resources)
            try:
                yield pool
            finally:
                pool.end(kill=True)

        return fresh

    def _started(self, job: Job) -> Pool:
        resources = self.placed_by(job.resources)
        if self._pool is not None and self._resources != resources:
            self._close(kill=False)
        if self._pool is None:
            self._pool, self._resources = self.start(self.workers, resources), resources
        return self._pool

    def _close(self, kill: bool) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.end(kill)
