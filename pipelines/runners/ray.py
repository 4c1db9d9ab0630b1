"""The Ray engine: actors on a cluster that is there, or on one of this machine alone.

Ray core only: an actor is a process that Ray places, and the crew decides what it runs. Ray
restarts and retries nothing, since a task that killed its worker must be tried alone.
"""

from __future__ import annotations

import logging
import os
import platform
import secrets
import signal
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

from facepipe import __version__
from facepipe.errors import FacepipeError, UsageError
from pipelines.runners import Job, Resources, WorkerDied
from pipelines.runners.crew import Crew
from pipelines.runners.placement import no_place, places
from pipelines.runners.pool import PoolRunner
from pipelines.runners.process import ONE_THREAD, prepare_process

# Ray prints the death of a worker to stdout, where results go. It reads this once, here.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
try:
    import ray as _partly_typed
    from ray.exceptions import RayError, RayTaskError
except ImportError as missing:
    raise UsageError("--engine ray needs Ray: pip install 'facepipe[ray]'") from missing

ray: Any = _partly_typed

# Ray's least; tasks and commits are some kB, which never enter the object store.
_OBJECT_STORE_BYTES = 75 * 2**20
# An autoscaler that must first buy a machine takes minutes.
_PATIENCE_S = 900.0
_ANSWER_S = 10.0  # for the head to take a connection; Ray itself would try for a quarter hour

# What a local cluster inherits, where the user has not said otherwise. The daemons look after
# one machine with nothing but our actors: at Ray's own pace they take 3 % of a core, so 2.5 %.
_LOCAL_ENVIRONMENT = {
    **ONE_THREAD,
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",  # nobody scrapes them
    "RAY_event_stats": "0",
    "RAY_raylet_report_resources_period_milliseconds": "1000",
    "RAY_memory_monitor_refresh_ms": "1000",
    "RAY_kill_idle_workers_interval_ms": "2000",
    "RAY_report_worker_backlog_interval_ms": "10000",
    "RAY_gcs_pull_resource_loads_period_milliseconds": "5000",
    "RAY_health_check_period_ms": "10000",
}


class RayRunner(PoolRunner):
    """Actors on a Ray cluster; use it as a context manager.

    The cluster is the one of ``address`` or RAY_ADDRESS, or the one that this process is
    connected to; without any, one is started on this machine and ended with the runner.
    """

    def __init__(
        self,
        workers: int | None = None,
        retries: int = 2,
        address: str | None = None,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        """Set the number of actors; None: as many as the cluster's CPUs and GPUs allow.

        ``patience_s`` is how long work may wait while not a single actor can be placed.
        """
        super().__init__(workers or 1, retries)
        self._asked = workers
        self._address = address or os.environ.get("RAY_ADDRESS") or "local"
        self._patience_s = patience_s
        self._connected = False  # by this runner
        self._own = False  # the cluster is this runner's, and ends with it

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """End the actors, and the cluster if it is the runner's own."""
        try:
            super().__exit__(kind, *rest)
        finally:
            if self._connected:
                ray.shutdown()
            self._connected = self._own = False

    def start(self, workers: int, resources: Resources) -> Crew:
        """Start a crew, and before the first one the connection."""
        self._connect()
        if self._own:  # one place a worker, as many as asked for: a machine has no scheduler
            resources = replace(resources, num_cpus=1.0, memory_bytes=0)
        if self._asked is None:
            workers = self.workers = places(resources, ray.cluster_resources())
            if self._own:
                workers = self.workers = min(workers, len(os.sched_getaffinity(0)))
        hire = partial(_Actor, _options(resources))
        return Crew(workers, hire, self._patience_s, partial(self._blame, resources))

    def _fresh(self, job: Job) -> Callable[[], Any]:
        crew = self._started(job)
        assert isinstance(crew, Crew)
        return crew.fresh  # a suspect takes the place of one of the crew: there may be no other

    def _connect(self) -> None:
        if ray.is_initialized():
            return
        if "://" in self._address:
            raise UsageError(
                f"{self._address} is Ray's client protocol: give the address of the cluster's "
                "GCS, as in RAY_ADDRESS=head:6379, or submit the command as a Ray job"
            )
        options: dict[str, Any] = {"address": self._address}
        if self._address == "local":
            options |= self._local()
        try:
            _knock(self._address)
            with _sigterm_kept():
                ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
        except (OSError, RayError, RuntimeError, ValueError) as error:
            raise FacepipeError(_refusal(self._address, error)) from error
        self._connected, self._own = True, self._address == "local"

    def _local(self) -> dict[str, Any]:
        """Return what makes a cluster of this machine small, silent and closed to others."""
        for name, value in _LOCAL_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
            # Ray asks for a token by default, and would leave one of its own in the home folder.
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # stays: Ray reads it once
        return {
            "num_cpus": self._asked,
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
        }

    def _blame(self, resources: Resources) -> str:
        have, free = ray.cluster_resources(), ray.available_resources()
        return no_place(resources, have, free, self._patience_s)


# -- in the driver -------------------------------------------------------------------------


class _Actor:
    """An actor of the cluster; a process of `pipelines.runners.crew`."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._handle = ray.remote(**options)(InActor).remote()

    def ready(self) -> Future[None]:
        """Tell when the actor is placed and its process runs the driver's version."""
        outer: Future[None] = Future()

        def welcome(inner: Future[Any]) -> None:
            error = inner.exception()
            if error is None:
                error = _mismatch(*inner.result())
            elif not isinstance(error, WorkerDied):
                error = FacepipeError(
                    f"a node of the cluster cannot run facepipe: {type(error).__name__}: {error}. "
                    f"Install facepipe {__version__} on every node, or in the job's runtime_env"
                )
            if error is None:
                outer.set_result(None)
            else:
                outer.set_exception(error)

        self.run(introduce, ()).add_done_callback(welcome)
        return outer

    def run(self, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Future[Any]:
        """Run a call in the actor."""
        outer: Future[Any] = Future()
        inner = self._handle.run.remote(call, arguments).future()
        inner.add_done_callback(partial(_pass_on, outer))
        return outer

    def kill(self) -> None:
        """End the actor's process, or take back the request for one."""
        with suppress(Exception):  # it is gone, or the connection is
            ray.kill(self._handle, no_restart=True)


def _pass_on(outer: Future[Any], inner: Future[Any]) -> None:
    error = inner.exception()
    if isinstance(error, RayTaskError):  # raised around the call, not by it
        outer.set_exception(RuntimeError(str(error.cause).partition("\ntraceback:")[0]))
    elif isinstance(error, RayError):
        outer.set_exception(WorkerDied(str(error)))
    elif error is not None:
        outer.set_exception(error)
    else:
        raised, value = inner.result()
        if raised:
            outer.set_exception(value)
        else:
            outer.set_result(value)


def _mismatch(version: str, python: str) -> FacepipeError | None:
    """Return what is wrong with a node's versions."""
    if version == __version__ and python == _python():
        return None
    return FacepipeError(
        f"a node of the cluster has facepipe {version} on Python {python}, and this driver "
        f"facepipe {__version__} on Python {_python()}: install the same on every node, or "
        "run the command on the cluster itself (ray job submit)"
    )


def _knock(address: str) -> None:
    """Raise OSError where nobody listens at an address of a head."""
    host, _, port = address.rpartition(":")
    if port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_S).close()


def _refusal(address: str, error: Exception) -> str:
    if address == "local":
        return f"Ray cannot be started on this machine: {error}"
    return (
        f"no connection to the Ray cluster at {address}: {error}. Is RAY_ADDRESS its head's "
        "host:6379, are Ray and Python of the same versions there, and does RAY_AUTH_TOKEN or "
        "RAY_AUTH_TOKEN_PATH hold its token?"
    )


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Leave SIGTERM as it was: Ray would drain the node for seconds before it lets go."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _options(resources: Resources) -> dict[str, Any]:
    """Return an actor's options."""
    options = {
        "num_cpus": resources.num_cpus,
        "num_gpus": resources.num_gpus,
        "max_restarts": 0,
        "max_task_retries": 0,
    }
    return options | ({"memory": resources.memory_bytes} if resources.memory_bytes else {})


def _python() -> str:
    return ".".join(platform.python_version_tuple()[:2])


# -- in the actor --------------------------------------------------------------------------


class InActor:
    """Runs calls, one after the other on the process's main thread."""

    def run(self, call: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[bool, Any]:
        """Return whether the call raised, and its value or its error.

        An error that is returned keeps its type; Ray would wrap one that is raised.
        """
        try:
            return False, call(*arguments)
        except Exception as error:
            return True, _portable(error)


def introduce() -> tuple[str, str]:
    """Make this process a worker and return its versions."""
    prepare_process()
    return __version__, _python()


def _portable(error: Exception) -> Exception:
    """Return an error that arrives: some do not survive pickling, or not unpickling."""
    error.add_note(traceback.format_exc())
    error.__cause__ = error.__context__ = error.__traceback__ = None
    try:
        ray.cloudpickle.loads(ray.cloudpickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
