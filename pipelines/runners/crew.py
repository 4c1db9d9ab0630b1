"""Calls given to processes that come and go: one thread decides, and nothing waits for a place.

On a cluster a process may start late or never, and a node may take its processes with it.
So only processes that are there get calls, one each, and all of them are alike: whichever
starts first takes what waits longest. A suspect, which must have a process that has run
nothing, takes the place of one of the crew, since no other place may be free.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any, Protocol

from facepipe.errors import FacepipeError
from pipelines.runners import WorkerDied

_STILLBORN = 5  # processes in a row that die while they start: it is no accident then


class Process(Protocol):
    """One process, which may not have started yet."""

    def ready(self) -> Future[None]:
        """Tell when it can take calls. Fails with WorkerDied, or with what no other mends."""
        ...

    def run(self, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Future[Any]:
        """Run a call. Fails with WorkerDied, or with the call's own exception."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...


@dataclass(eq=False, slots=True)
class _Call:
    call: Callable[..., Any]
    arguments: tuple[Any, ...]
    future: Future[Any]
    guest: Guest | None = None


class Crew:
    """Up to ``size`` processes; a pool of `pipelines.runners.quarantine`."""

    def __init__(
        self, size: int, hire: Callable[[], Process], patience_s: float, blame: Callable[[], str]
    ) -> None:
        """Set up the crew; ``hire`` starts a process when the first call needs it.

        ``blame`` says what is wrong where none of them has started within ``patience_s``.
        """
        self._size, self._hire = size, hire
        self._patience_s, self._blame = patience_s, blame
        self._starting: dict[Process, None] = {}  # a set that keeps its order
        self._new: deque[Process] = deque()  # they have run nothing
        self._used: deque[Process] = deque()
        self._busy: dict[Process, _Call] = {}
        self._lent: set[Process] = set()  # to guests
        self._calls: deque[_Call] = deque()
        self._guests: deque[_Call] = deque()  # the first call of each that has no process yet
        self._for_guests = 0  # of those that start, how many a process had to make room for
        self._stillborn = 0
        self._alone_since: float | None = None  # since when work waits and no process is there
        self._failed: BaseException | None = None
        self._ended = False
        self._mail: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._door = Lock()  # nothing is put into the mail that nobody will read
        self._thread = Thread(target=self._work, name="facepipe-crew", daemon=True)
        self._thread.start()

    # -- for any thread ------------------------------------------------------------------

    @property
    def broken(self) -> bool:
        """Tell whether a death has made the crew useless: never, the dead are replaced."""
        return False

    def submit(self, call: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Run a call in one of the processes. See `pipelines.runners.quarantine.Pool`."""
        return self._accept(_Call(call, arguments, _running()))

    @contextmanager
    def fresh(self) -> Iterator[Guest]:
        """Open a pool of one process that has run nothing yet."""
        guest = Guest(self)
        try:
            yield guest
        finally:
            guest.end(kill=True)

    def end(self, kill: bool) -> None:
        """End the processes: their calls, if there are any left, fail with WorkerDied."""
        with self._door:
            if not self._ended:
                self._mail.put(self._stop)
        self._thread.join()

    def _accept(self, call: _Call) -> Future[Any]:
        with self._door:
            if self._ended:
                raise WorkerDied
            self._mail.put(partial(self._take, call))
        return call.future

    def _leave(self, guest: Guest) -> None:
        with self._door:
            if not self._ended:
                self._mail.put(partial(self._goes, guest))

    def _post(self, what: Callable[..., None], *arguments: Any) -> Callable[[Future[Any]], None]:
        """Return a callback that only notes that a future is done: it runs in Ray's threads."""
        return lambda future: self._mail.put(partial(what, *arguments, future))

    # -- in the crew's own thread --------------------------------------------------------

    def _work(self) -> None:
        while not self._ended:
            try:
                self._mail.get(timeout=self._patience_left_s())()
                self._settle()
            except Empty:
                self._fail(FacepipeError(self._blame()))
            except Exception as error:  # nobody would ever hear of it, and wait for ever
                self._fail(error)
        while not self._mail.empty():
            self._mail.get()()

    def _patience_left_s(self) -> float | None:
        waiting = self._calls or self._guests
        if not waiting or self._new or self._used or self._busy or self._lent:
            self._alone_since = None
            return None
        if self._alone_since is None:
            self._alone_since = time.monotonic()
        return max(0.0, self._alone_since + self._patience_s - time.monotonic())

    def _take(self, call: _Call) -> None:
        guest = call.guest
        if self._failed is not None or self._ended:
            call.future.set_exception(self._failed or WorkerDied())
        elif guest is None:
            self._calls.append(call)
        elif guest.dead:
            call.future.set_exception(WorkerDied())
        elif guest.process is not None:
            self._send(guest.process, call)
        else:
            self._guests.append(call)

    def _settle(self) -> None:
        """Give what waits to processes that are there, and start those that are missing."""
        if self._failed is not None or self._ended:
            return
        while self._guests and self._new:
            call, process = self._guests.popleft(), self._new.popleft()
            if call.guest is not None:
                call.guest.process = process
            self._lent.add(process)
            self._send(process, call)
        while self._used and len(self._guests) > self._for_guests:
            self._used.popleft().kill()
            self._for_guests += 1
            self._start()
        while self._calls and (self._used or self._new):
            self._send((self._used or self._new).popleft(), self._calls.popleft())
        while len(self._starting) < min(self._room(), len(self._calls) + len(self._guests)):
            self._start()

    def _room(self) -> int:
        """Return how many may be starting, beside those that are there."""
        idle_lent = sum(p not in self._busy for p in self._lent)
        return self._size - len(self._new) - len(self._used) - len(self._busy) - idle_lent

    def _start(self) -> None:
        process = self._hire()
        self._starting[process] = None
        process.ready().add_done_callback(self._post(self._is_ready, process))

    def _is_ready(self, process: Process, future: Future[None]) -> None:
        if process not in self._starting:  # killed meanwhile
            return
        del self._starting[process]
        self._for_guests = max(0, self._for_guests - 1)
        error = future.exception()
        if error is None:
            self._stillborn = 0
            self._new.append(process)
            return
        process.kill()
        self._stillborn += 1
        if not isinstance(error, WorkerDied):
            self._fail(error)
        elif self._stillborn >= _STILLBORN:
            self._fail(FacepipeError(f"{self._stillborn} workers died while they started: {error}"))

    def _send(self, process: Process, call: _Call) -> None:
        self._busy[process] = call
        future = process.run(call.call, call.arguments)
        future.add_done_callback(self._post(self._is_done, process, call))

    def _is_done(self, process: Process, call: _Call, future: Future[Any]) -> None:
        if self._busy.get(process) is not call:  # it failed already
            return
        del self._busy[process]
        error = future.exception()
        if isinstance(error, WorkerDied):
            process.kill()  # it may only be out of reach
            self._lent.discard(process)
            if call.guest is not None:
                call.guest.process, call.guest.dead = None, True
        elif process not in self._lent:
            self._used.append(process)
        if error is None:
            call.future.set_result(future.result())
        else:
            call.future.set_exception(error)

    def _goes(self, guest: Guest) -> None:
        """Take back a guest's process; what it still runs is given up."""
        for call in [c for c in self._guests if c.guest is guest]:
            self._guests.remove(call)
            call.future.set_exception(WorkerDied())
        process, guest.process, guest.dead = guest.process, None, True
        if process is None or process not in self._lent:  # none, or ended with all others
            return
        self._lent.discard(process)
        if process in self._busy:
            self._busy.pop(process).future.set_exception(WorkerDied())
            process.kill()
        else:
            self._used.append(process)

    def _fail(self, error: BaseException) -> None:
        """Fail all calls, those to come too, and end the processes."""
        self._failed = error
        for call in [*self._busy.values(), *self._calls, *self._guests]:
            call.future.set_exception(error)
        for process in {*self._starting, *self._new, *self._used, *self._busy, *self._lent}:
            process.kill()
        for group in (self._starting, self._new, self._used, self._busy, self._lent):
            group.clear()
        self._calls.clear()
        self._guests.clear()

    def _stop(self) -> None:
        with self._door:
            self._ended = True
        self._fail(WorkerDied())


@dataclass(eq=False, slots=True)
class Guest:
    """A pool of one process of a crew, given calls one after the other."""

    crew: Crew
    process: Process | None = None  # this and the next are the crew's to set
    dead: bool = False

    @property
    def broken(self) -> bool:
        """Tell whether the process died."""
        return self.dead

    def submit(self, call: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Run a call in the process. See `pipelines.runners.quarantine.Pool`."""
        return self.crew._accept(_Call(call, arguments, _running(), self))

    def end(self, kill: bool) -> None:
        """Give the process back; one that still runs a call is ended."""
        self.crew._leave(self)


def _running() -> Future[Any]:
    """Return a future that cannot be cancelled."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future
