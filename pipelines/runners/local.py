"""The local engine: spawned processes on one machine.

concurrent.futures' pool notices a killed worker at once, where multiprocessing.Pool hangs.
The pool stays up from step to step, so that a run pays for its processes once.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait as wait_for_any
from typing import Any

from facepipe.commits import Commit
from facepipe.errors import FacepipeError
from pipelines.runners import Job, ShardTask, Worker

# One thread each: a second one per process only fights the other workers for the cores.
_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "OPENCV_LOG_LEVEL": "ERROR",
}
_IN_FLIGHT = 2  # tasks per worker: one running, one waiting, so that no worker is idle
_OPEN_WORKERS = 2  # opened jobs a process keeps: detect's models are let go after embed starts

OnDone = Callable[[ShardTask, Commit], None]


class LocalRunner:
    """Processes on this machine; use it as a context manager."""

    def __init__(self, workers: int = 1, retries: int = 2) -> None:
        """Set the number of processes; they start with the first task."""
        self.workers = max(1, workers)
        self.retries = retries
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> LocalRunner:
        """Return the runner."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the processes: at once after an error or Ctrl-C, their shards are redone."""
        self._close(kill=kind is not None)

    def check(self, jobs: Sequence[Job]) -> None:
        """Open and check workers of these jobs. See `pipelines.runners.Runner.check`."""
        for future in [self._started().submit(_check, job) for job in jobs]:
            try:
                future.result()
            except BrokenProcessPool as error:
                self._close(kill=True)
                raise FacepipeError(
                    "opening the models kills the process: is there memory enough for "
                    f"{self.workers} workers, and does onnxruntime run on this machine?"
                ) from error

    def map(self, job: Job, tasks: Sequence[ShardTask], on_done: OnDone) -> None:
        """Run every task to its commit. See `pipelines.runners.Runner.map`."""
        failures: Counter[str] = Counter()
        causes: dict[str, BaseException] = {}
        queue = list(reversed(tasks))
        while queue:
            suspects = self._run_until_death(job, queue, failures, causes, on_done)
            self._run_suspects(job, suspects, queue, failures, causes, on_done)
        if causes:
            name, cause = min(causes.items())
            raise FacepipeError(
                f"{len(causes)} shards failed {self.retries + 1} times, {name} first with "
                f"{type(cause).__name__}: {cause}; the others are kept: run the same command "
                "again once the cause is mended"
            ) from cause

    def _run_until_death(
        self,
        job: Job,
        queue: list[ShardTask],
        failures: Counter[str],
        causes: dict[str, BaseException],
        on_done: OnDone,
    ) -> list[ShardTask]:
        """Work the queue off; return the tasks that were in flight when a worker died."""
        pool = self._started()
        flying: dict[Future[Commit], ShardTask] = {}
        while queue or flying:
            while queue and len(flying) < _IN_FLIGHT * self.workers:
                try:
                    flying[pool.submit(_run, job, queue[-1], frozenset())] = queue[-1]
                except BrokenProcessPool:
                    return self._after_death(flying, on_done)
                queue.pop()
            done, _ = wait(flying, return_when=FIRST_COMPLETED)
            for future in done:
                task = flying[future]
                try:
                    commit = future.result()
                except BrokenProcessPool:
                    return self._after_death(flying, on_done)
                except FacepipeError:
                    raise
                except Exception as error:
                    del flying[future]
                    self._failed(task, error, queue, failures, causes)
                    continue
                del flying[future]
                on_done(task, commit)
        return []

    def _after_death(
        self, flying: dict[Future[Commit], ShardTask], on_done: OnDone
    ) -> list[ShardTask]:
        """Collect what had finished before the pool broke; return the rest."""
        suspects = []
        for future, task in flying.items():
            if future.done() and future.exception() is None:
                on_done(task, future.result())
            else:
                suspects.append(task)
        self._close(kill=True)
        return sorted(suspects, key=lambda t: t.shard)

    def _run_suspects(
        self,
        job: Job,
        suspects: Sequence[ShardTask],
        queue: list[ShardTask],
        failures: Counter[str],
        causes: dict[str, BaseException],
        on_done: OnDone,
    ) -> None:
        """Run each suspect in a process of its own, as many at a time as there are workers."""
        with ThreadPoolExecutor(self.workers) as threads:
            flying = {threads.submit(_run_alone, job, task): task for task in suspects}
            for future, task in flying.items():
                try:
                    on_done(task, future.result())
                except FacepipeError:
                    raise
                except Exception as error:
                    self._failed(task, error, queue, failures, causes)

    def _failed(
        self,
        task: ShardTask,
        error: BaseException,
        queue: list[ShardTask],
        failures: Counter[str],
        causes: dict[str, BaseException],
    ) -> None:
        """Put a failed task back, behind all others, or give it up after the last retry."""
        failures[task.shard] += 1
        if failures[task.shard] <= self.retries:
            queue.insert(0, task)  # last: the cause may pass meanwhile
        else:
            causes[task.shard] = error

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = _pool(self.workers)
        return self._pool

    def _close(self, kill: bool) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            _end(pool, kill)


def _pool(workers: int) -> ProcessPoolExecutor:
    for name, value in _ONE_THREAD.items():  # inherited by spawned workers
        os.environ.setdefault(name, value)
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)


def _end(pool: ProcessPoolExecutor, kill: bool) -> None:
    processes = list((pool._processes or {}).values())
    if kill:
        for process in processes:
            process.kill()
    pool.shutdown(wait=True, cancel_futures=True)


def _run_alone(job: Job, task: ShardTask) -> Commit:
    """Run a suspect in its own process; where that dies too, find what kills it."""
    commit = _alone(job, task, frozenset())
    if commit is not None:
        return commit
    quarantined = frozenset(_poisonous(job, task))
    commit = _alone(job, task, quarantined) if quarantined else None
    if commit is None:
        raise FacepipeError(
            f"shard {task.shard} of {task.step} kills its worker, and no single item of it "
            "does: most likely memory runs out. Use fewer --workers or a smaller "
            "run.shard_photos, then run the same command again"
        )
    return commit


def _alone(job: Job, task: ShardTask, quarantined: frozenset[int]) -> Commit | None:
    """Run a task in a fresh process; None where it dies."""
    with _fresh() as pool:
        try:
            return pool.submit(_run, job, task, quarantined).result()
        except BrokenProcessPool:
            return None


def _poisonous(job: Job, task: ShardTask) -> Iterator[int]:
    """Yield the items that kill a process, also when they are its only one."""
    start = 0
    while start < task.items:
        with _fresh() as pool:
            for item in range(start, task.items):
                if _dies(pool, job, task, item):
                    with _fresh() as another:
                        if _dies(another, job, task, item):
                            yield item
                    start = item + 1
                    break
            else:
                return


def _dies(pool: ProcessPoolExecutor, job: Job, task: ShardTask, item: int) -> bool:
    """Tell whether probing an item kills the process; an error it raises is no death."""
    future = pool.submit(_probe, job, task, item)
    return isinstance(future.exception(), BrokenProcessPool)


@contextmanager
def _fresh() -> Iterator[ProcessPoolExecutor]:
    pool = _pool(1)
    try:
        yield pool
    finally:
        _end(pool, kill=True)


# -- in the worker process ---------------------------------------------------------------

_WORKERS: dict[Any, Worker] = {}


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _mute_native_libraries()
    import cv2
    import pyarrow as pa

    cv2.setNumThreads(1)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)


def _mute_native_libraries() -> None:
    """Keep Python's own messages on stderr and drop what libtiff and others print there.

    A hostile TIFF makes libtiff print hundreds of lines; what matters is in the photo's row.
    """
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    sys.stderr.flush()
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 2)
    os.close(silent)


def _end_with_parent() -> None:
    """End this process when the driver dies: nobody would ever read its answer."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for_any([parent.sentinel])
        os._exit(1)


def _worker(job: Job) -> Worker:
    if job not in _WORKERS:
        while len(_WORKERS) >= _OPEN_WORKERS:
            del _WORKERS[next(iter(_WORKERS))]
        _WORKERS[job] = job.open()
    return _WORKERS[job]


def _check(job: Job) -> None:
    _worker(job).check()


def _run(job: Job, task: ShardTask, quarantined: frozenset[int]) -> Commit:
    return _worker(job).run(task, quarantined)


def _probe(job: Job, task: ShardTask, item: int) -> None:
    _worker(job).probe(task, item)
