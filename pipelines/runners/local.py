"""The local engine: spawned processes on one machine.

concurrent.futures' pool notices a killed worker at once, where multiprocessing.Pool hangs.
The pool stays up from step to step, so that a run pays for its processes once.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for_any
from typing import Any

from pipelines.runners import Resources, WorkerDied
from pipelines.runners.pool import PoolRunner
from pipelines.runners.process import ONE_THREAD, prepare_process


class LocalRunner(PoolRunner):
    """Processes on this machine; use it as a context manager."""

    def start(self, workers: int, resources: Resources) -> ProcessPool:
        """Start a pool of spawned processes; a machine has no scheduler to ask."""
        return ProcessPool(workers)

    def placed_by(self, resources: Resources) -> Resources:
        """Return the same for all: one pool stays up from step to step, whatever a step asks."""
        return Resources()


class ProcessPool:
    """Spawned processes that end with their parent."""

    def __init__(self, workers: int) -> None:
        """Set up the pool; processes start with the first call."""
        for name, value in ONE_THREAD.items():  # inherited by spawned workers
            os.environ.setdefault(name, value)
        context = multiprocessing.get_context("spawn")
        self._executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
        self._broken = self._killed = False
        self._starting = threading.Lock()

    @property
    def broken(self) -> bool:
        """Tell whether a process died: the executor then gives up all others too."""
        return self._broken

    def submit(self, call: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Run a call in one of the processes. See `pipelines.runners.quarantine.Pool`."""
        with self._starting:  # a process that starts now is killed, or not started
            if self._killed:
                raise WorkerDied
            try:
                inner = self._executor.submit(call, *arguments)
            except BrokenProcessPool as error:
                self._broken = True
                raise WorkerDied from error
        outer: Future[Any] = Future()
        outer.set_running_or_notify_cancel()
        inner.add_done_callback(lambda f: self._pass_on(f, outer))
        return outer

    def end(self, kill: bool) -> None:
        """End the processes. See `pipelines.runners.quarantine.Pool`."""
        if kill:
            self.kill()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def kill(self) -> None:
        """Kill the processes, in any thread, for good; who waits for an answer gets WorkerDied."""
        with self._starting:
            self._killed = True
            for process in list((self._executor._processes or {}).values()):
                process.kill()

    def _pass_on(self, inner: Future[Any], outer: Future[Any]) -> None:
        if inner.cancelled():  # the pool was ended
            outer.set_exception(WorkerDied())
            return
        error = inner.exception()
        if isinstance(error, BrokenProcessPool):
            self._broken = True
            outer.set_exception(WorkerDied())
        elif error is not None:
            outer.set_exception(error)
        else:
            outer.set_result(inner.result())


def _start_worker() -> None:
    prepare_process()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when the driver dies: nobody would ever read its answer."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for_any([parent.sentinel])
        os._exit(1)
