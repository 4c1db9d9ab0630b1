"""Runs the shards that an engine hands to one of its processes, in children of that process.

Such a process belongs to the engine, and may be the driver itself: what can kill a process
runs in a child, so that a photo that kills costs only itself and not the engine's bundle.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from facepipe.commits import Commit
from facepipe.errors import FacepipeError
from pipelines.runners import Job, ShardTask, WorkerDied
from pipelines.runners.local import ProcessPool
from pipelines.runners.process import run_task
from pipelines.runners.quarantine import Pool, run_alone


class Children:
    """Child processes, lent to one thread at a time and kept for the next.

    They live as long as someone holds them, so that models are opened once, not per bundle.
    """

    def __init__(self) -> None:
        """Start none yet."""
        self._lock = threading.Lock()
        self._idle: list[ProcessPool] = []  # the last one used is the next one lent
        self._lent: set[ProcessPool] = set()
        self._holders = 0

    def hold(self) -> None:
        """Keep idle children until the matching `release`."""
        with self._lock:
            self._holders += 1

    def release(self) -> None:
        """End the idle children, if nobody else holds them."""
        with self._lock:
            self._holders -= 1
            ended, self._idle = ([], self._idle) if self._holders > 0 else (self._idle, [])
        for child in ended:
            child.end(kill=False)

    def kill(self) -> None:
        """End all children at once; who waits for one of them gets WorkerDied."""
        with self._lock:
            ended, self._idle = self._idle, []
            for child in self._lent:
                child.kill()  # and no more: it belongs to who waits for it
        for child in ended:
            child.end(kill=True)

    @contextmanager
    def one(self) -> Iterator[ProcessPool]:
        """Lend a child, an idle one where there is one."""
        with self._lock:
            child = self._idle.pop() if self._idle else ProcessPool(1)
            self._lent.add(child)
        try:
            yield child
        finally:
            with self._lock:
                self._lent.discard(child)
                keep = self._holders > 0 and not child.broken
                if keep:
                    self._idle.append(child)
            if not keep:
                child.end(kill=True)

    @contextmanager
    def fresh(self) -> Iterator[ProcessPool]:
        """Lend a child that has run nothing yet, and end it afterwards."""
        child = ProcessPool(1)
        with self._lock:
            self._lent.add(child)
        try:
            yield child
        finally:
            with self._lock:
                self._lent.discard(child)
            child.end(kill=True)


CHILDREN = Children()  # of this process


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a task: its commit, or what it failed with for the last time."""

    task: ShardTask
    result: Commit | BaseException


class Window:
    """Keeps a few tasks of a job in flight, and tries again what fails in passing."""

    def __init__(self, job: Job, size: int, retries: int, stopped: Callable[[], bool]) -> None:
        """Set the number of tasks in flight; once ``stopped`` says so, they fail at once."""
        self._job, self._size, self._retries, self._stopped = job, size, retries, stopped
        self._threads = ThreadPoolExecutor(size)
        self._flying: dict[Future[Commit], ShardTask] = {}
        self._again: list[ShardTask] = []
        self._failures: Counter[str] = Counter()

    def add(self, task: ShardTask) -> Iterator[Outcome]:
        """Start a task as soon as there is room; yield what was finished until then."""
        yield from self._wait(self._size - 1)
        self._flying[self._threads.submit(self._run, task)] = task

    def drain(self) -> Iterator[Outcome]:
        """Yield the rest, tasks that failed in passing last: the cause may be gone by then."""
        while self._flying or self._again:
            yield from self._wait(0)
            again, self._again = self._again, []
            for task in again:
                yield from self.add(task)

    def close(self) -> None:
        """Start nothing more; what is in flight is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _wait(self, most: int) -> Iterator[Outcome]:
        while len(self._flying) > most:
            done, _ = wait(self._flying, return_when=FIRST_COMPLETED)
            for future in done:
                task, error = self._flying.pop(future), future.exception()
                if error is None:
                    yield Outcome(task, future.result())
                elif self._gives_up(task, error):
                    yield Outcome(task, error)

    def _gives_up(self, task: ShardTask, error: BaseException) -> bool:
        """Tell whether an error is the last word; if not, put the task back."""
        self._failures[task.shard] += 1
        if isinstance(error, FacepipeError | WorkerDied):
            return True
        if self._failures[task.shard] > self._retries:
            return True
        self._again.append(task)
        return False

    def _run(self, task: ShardTask) -> Commit:
        """Run a task in a child, and alone where that dies. Raises WorkerDied once stopped."""
        try:
            with self._unstopped(CHILDREN.one) as child:
                commit: Commit = child.submit(run_task, self._job, task, frozenset()).result()
                return commit
        except WorkerDied:
            if self._stopped():
                raise
        return run_alone(self._job, task, lambda: self._unstopped(CHILDREN.fresh))

    @contextmanager
    def _unstopped(self, lend: Callable[[], AbstractContextManager[ProcessPool]]) -> Iterator[Pool]:
        """Lend a child to run something in. Raises WorkerDied once stopped."""
        # Ctrl-C reaches the children first, so that one may look like a photo's victim.
        if self._stopped():
            raise WorkerDied
        with lend() as child:
            # Who stops kills the children that are lent: a later one must end itself.
            if self._stopped():
                raise WorkerDied
            yield child
