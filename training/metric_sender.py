"""Metrics on their way to a server that may be away: kept in order, tried again, never waited for.

A training writes its metrics to its own folder in any case. What is here brings them to a
tracking server from a thread beside it, so that neither a slow nor an absent server costs a step.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

BATCH_STEPS = 50  # logged steps sent at once; MLflow takes 1,000 values
FIRST_RETRY_S, LONGEST_RETRY_S = 5.0, 300.0  # doubled in between
CLOSE_S = 900.0  # how long the end of a training waits for its last files at most


class LoggedStep(NamedTuple):
    """What was measured at a step, and when."""

    step: int
    time_ms: int  # since 1970
    values: Mapping[str, float]


class MetricSender:
    """Sends steps and files in the order given, each once it is sure to be the next."""

    def __init__(
        self,
        send: Callable[[Sequence[LoggedStep]], None],
        send_file: Callable[[Path, str], None],
        say: Callable[[Exception], None],
        *,
        first_retry_s: float = FIRST_RETRY_S,
    ) -> None:
        """Start the thread. ``send`` and ``send_file`` raise where the server does not answer.

        ``say`` hears of that once.
        """
        self._send, self._send_file, self._say = send, send_file, say
        self._retry_s = first_retry_s
        self._steps: deque[LoggedStep] = deque()
        self._files: deque[tuple[Path, str]] = deque()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="metrics", daemon=True)
        self._thread.start()

    def step(self, logged: LoggedStep) -> None:
        """Send a step when its turn comes."""
        with self._changed:
            self._steps.append(logged)
            self._changed.notify()

    def file(self, path: Path, folder: str) -> None:
        """Send a file (as it then is) once all steps before it are sent."""
        with self._changed:
            self._files.append((path, folder))
            self._changed.notify()

    def close(self, timeout_s: float = CLOSE_S) -> tuple[int, int]:
        """Try what is left a last time; return how many steps and files did not get there."""
        with self._changed:
            self._closing.set()
            self._changed.notify()
        self._thread.join(timeout_s)
        with self._changed:
            return len(self._steps), len(self._files)

    def _work(self) -> None:
        told, wait_s = False, self._retry_s
        while self._wait_for_some():
            try:
                self._send_some()
            except Exception as error:  # whatever a server can answer: the training goes on
                if not told:
                    self._say(error)
                told = True
                if self._closing.is_set():
                    return
                self._closing.wait(wait_s)
                wait_s = min(2 * wait_s, LONGEST_RETRY_S)
            else:
                wait_s = self._retry_s

    def _wait_for_some(self) -> bool:
        """Return whether there is something to send, waiting for it unless this is the end."""
        with self._changed:
            while not (self._steps or self._files or self._closing.is_set()):
                self._changed.wait()
            return bool(self._steps or self._files)

    def _send_some(self) -> None:
        """Send what is next; it stays in its queue until it is there."""
        with self._changed:
            steps = [self._steps[n] for n in range(min(BATCH_STEPS, len(self._steps)))]
            files = [self._files[0]] if self._files and not steps else []
        if steps:
            self._send(steps)
        for path, folder in files:
            if path.exists():  # it may have been removed since: there is nothing to be sent
                self._send_file(path, folder)
        with self._changed:
            for _ in steps:
                self._steps.popleft()
            for _ in files:
                self._files.popleft()
