"""Opens the engine that a command line asks for; Ray and Beam are imported only then."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from facepipe.config import Settings
from facepipe.errors import UsageError
from pipelines.runners import Runner

_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def open_engine(
    name: str, workers: int | None, retries: int, options: Sequence[str] = ()
) -> Runner:
    """Return an engine, to be used as a context manager.

    ``workers`` None: one a core of this machine; of the cluster where RAY_ADDRESS is set.
    Raises UsageError where the engine's extra is not installed.
    """
    if options and name != "beam":
        raise UsageError(f"options after -- are for --engine beam: {name} takes none")
    if name == "ray":
        from pipelines.runners.ray import RayRunner

        own = not os.environ.get("RAY_ADDRESS")  # a cluster that is there knows its size
        return RayRunner(workers or (usable_cores() if own else None), retries)
    if name == "beam":
        from pipelines.runners.beam import BeamRunner

        return BeamRunner(workers or usable_cores(), retries, options)
    from pipelines.runners.local import LocalRunner

    return LocalRunner(workers or usable_cores(), retries)


def with_cores(settings: Settings, engine: str, workers: int | None) -> Settings:
    """Return settings in which clean, one task with threads, has the cores of all local workers.

    On a cluster it has the cores that it asks for, and so here where they are set.
    """
    resources = settings.run.resources
    if engine != "local" or "num_cpus" in resources.clean.model_fields_set:
        return settings
    clean = resources.clean.model_copy(update={"num_cpus": float(workers or usable_cores())})
    resources = resources.model_copy(update={"clean": clean})
    run = settings.run.model_copy(update={"resources": resources})
    return settings.model_copy(update={"run": run})


def usable_cores() -> int:
    """Return how many cores this process may use, by its affinity and its container's quota."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = _CPU_QUOTA.read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup v2, or "max": no quota
        return cores
