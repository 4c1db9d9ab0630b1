"""A run in processes out of the driver's hands: followed, stopped, and told of shards.

An engine that calls us somewhere may do so in the driver's own process, in a process that the
driver started for it, or on another machine. In the first two a report reaches the driver; for
the third it looks for commit records while it waits.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from queue import Empty, SimpleQueue
from typing import Any, TextIO

from pipelines.runners.bundle import CHILDREN
from pipelines.runners.reports import Round

_LOOK_S = 5.0  # between two looks at the commit records, at least
_LOOK_SHARE = 0.05  # of the time goes into looking, at most
_END_S = 10.0  # that an engine gets to end by itself
_WATCH_S = 0.5  # between two attempts to tell an engine that a process of its is gone

_RUNS: dict[str, Run] = {}  # the runs that this process drives
_DRIVER: list[TextIO] = []  # to the driver, in a process that it started


class ProcessLost(Exception):
    """A process that the engine called us in has died, and what it had to do is not done."""


class Run:
    """One run of an engine; `follow` may be interrupted, and then ends what runs here."""

    def __init__(self, now: Round) -> None:
        """Prepare a run of what is left of a round."""
        self.name = uuid.uuid4().hex
        self.stopped = False
        self.cancel: Callable[[], object] = lambda: None  # asks the engine to stop
        self.lost: ProcessLost | None = None
        self.processes: list[Process] = []
        self._now = now
        self._inbox: SimpleQueue[Mapping[str, Any] | None] = SimpleQueue()
        self._error: Exception | None = None

    def hear(self, report: Mapping[str, Any]) -> None:
        """Take a report, in any thread."""
        self._inbox.put(report)

    def follow(self, execute: Callable[[], None], look: bool) -> None:
        """Call the engine in a thread, and take reports in this one until it has finished.

        With ``look`` the commit records are read meanwhile. Raises ProcessLost, what ``execute``
        raises, and what a report says that ends the run.
        """
        thread = threading.Thread(target=self._call, args=(execute,), daemon=True)
        _RUNS[self.name] = self
        with _broken_channels_unsaid():
            thread.start()
            try:
                self._listen(_LOOK_S if look else None)
            except BaseException:
                self._stop(thread)
                raise
            finally:
                thread.join(_END_S)
                del _RUNS[self.name]
        if self.lost is not None:
            raise self.lost from self._error
        if self._error is not None:
            raise self._error
        self._now.look()

    def _call(self, execute: Callable[[], None]) -> None:
        try:
            execute()
        except Exception as error:
            self._error = error
        finally:
            self._inbox.put(None)

    def _listen(self, pause_s: float | None) -> None:
        while True:
            try:
                report = self._inbox.get(timeout=pause_s)
            except Empty:
                started = time.monotonic()
                self._now.look()
                pause_s = max(_LOOK_S, (time.monotonic() - started) / _LOOK_SHARE)
                continue
            if report is None:
                return
            self._now.take(report)

    def _stop(self, thread: threading.Thread) -> None:
        """End what runs here, also what is being started just now, and cancel the rest."""
        self.stopped = True
        try:
            self.cancel()
        except Exception as error:  # the error that stopped the run matters more
            logging.getLogger(__name__).warning("the job could not be cancelled: %s", error)
        until = time.monotonic() + _END_S
        while thread.is_alive() and time.monotonic() < until:
            for process in self.processes:
                process.kill()
            CHILDREN.kill()
            thread.join(_WATCH_S)


def driven(name: str) -> Run | None:
    """Return a run by its name, in the process that drives it."""
    return _RUNS.get(name)


def is_stopped(name: str) -> bool:
    """Tell whether the driver is this process and has given a run up."""
    run = driven(name)
    return run is not None and run.stopped


def tell(report: Mapping[str, Any]) -> None:
    """Bring a report to its run, if that can be reached from here."""
    run = driven(report["run"])
    if run is not None:
        run.hear(report)
    else:
        for driver in _DRIVER:
            driver.write(json.dumps(report) + "\n")
            driver.flush()


# -- processes that the driver starts for an engine ----------------------------------------


class Process:
    """A process for an engine: its reports are heard, its death noticed, its end certain."""

    def __init__(
        self,
        run: Run,
        call: str,
        environment: Mapping[str, str],
        mourn: Callable[[ProcessLost], None],
    ) -> None:
        """Start Python with a statement that calls `begin` first; ``mourn`` its early end."""
        self._run, self._mourn = run, mourn
        self._ended = threading.Event()
        warnings = [os.environ.get("PYTHONWARNINGS"), "ignore:resource_tracker:UserWarning"]
        self._process = subprocess.Popen(
            # -c: the process's children would import what -m names, and the engine with it.
            [sys.executable, "-c", call],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                "PYTHONWARNINGS": ",".join(filter(None, warnings)),  # of a killed one's locks
                **environment,
            },
            text=True,
            process_group=0,  # Ctrl-C is the driver's
        )
        run.processes.append(self)
        if run.stopped:
            self.kill()
        self._thread = threading.Thread(target=self._hear, daemon=True)
        self._thread.start()

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()

    def end(self) -> None:
        """Wait for the end of a process that has nothing left to do."""
        self._ended.set()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._thread.join()

    def _hear(self) -> None:
        with self._process as process:
            for line in process.stdout or ():
                tell(json.loads(line))
        while not self._ended.wait(_WATCH_S):  # again: the engine may ask for it anew
            self._run.lost = ProcessLost(f"exit code {self._process.returncode}")
            with contextlib.suppress(Exception):  # of channels that broke with the process
                self._mourn(self._run.lost)


def begin() -> None:
    """Make this process one that ends with its driver, reports to it, and prints to stderr."""
    _DRIVER.append(os.fdopen(os.dup(1), "w"))
    os.dup2(2, 1)
    threading.Thread(target=_end_with_driver, daemon=True).start()
    threading.excepthook = _unless_broken(threading.excepthook)


def _end_with_driver() -> None:
    os.read(0, 1)  # the driver never writes: this returns when it is gone
    os._exit(1)


@contextlib.contextmanager
def _broken_channels_unsaid() -> Iterator[None]:
    before = threading.excepthook
    threading.excepthook = _unless_broken(before)
    try:
        yield
    finally:
        threading.excepthook = before


def _unless_broken(
    before: Callable[[threading.ExceptHookArgs], object],
) -> Callable[[threading.ExceptHookArgs], object]:
    """Return a hook that does not print that the process at the end of a channel is gone."""

    def hook(raised: threading.ExceptHookArgs) -> None:
        if not raised.exc_type.__module__.startswith("grpc"):
            before(raised)

    return hook
