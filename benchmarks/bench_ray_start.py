"""What it costs to start Ray: CPU seconds over all processes, beside the local engine's.

    python benchmarks/bench_ray_start.py [--workers 2] [--repeat 3]

Each engine opens its workers in a new driver, runs one task that does nothing on each, and
ends. All processes are counted, those too that outlive their parent.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from facepipe.commits import Commit
from pipelines.runners import ONE_CORE, Resources, Runner, ShardTask

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


@dataclass(frozen=True)
class Job:
    """Does nothing, and is its own worker."""

    resources: Resources = ONE_CORE

    def open(self) -> Job:
        """Return the worker."""
        return self

    def check(self) -> None:
        """Find nothing wrong."""

    def run(self, task: ShardTask, quarantined: frozenset[int]) -> Commit:
        """Wait until every worker has a task."""
        time.sleep(0.5)
        return Commit(step="s", shard=task.shard, key="k", files=(), counts={}, facts={})

    def probe(self, task: ShardTask, item: int) -> None:
        """Touch nothing."""


def drive(engine: str, workers: int) -> None:
    """Run one task on each worker."""
    # Imported by name, since a worker cannot import what is in a driver's __main__.
    from bench_ray_start import Job as NamedJob

    tasks = [ShardTask(step="s", shard=f"{i}", key="k", items=1) for i in range(workers)]
    with _runner(engine, workers) as runner:
        runner.map(NamedJob(), tasks, lambda *_: None)


def _runner(engine: str, workers: int) -> Runner:
    if engine == "ray":
        from pipelines.runners.ray import RayRunner

        return RayRunner(workers)
    from pipelines.runners.local import LocalRunner

    return LocalRunner(workers)


def cost(engine: str, workers: int) -> tuple[float, float]:
    """Return the CPU and wall seconds of a driver and all that it starts."""
    before, started = _children_cpu_s(), time.monotonic()
    here = Path(__file__).resolve().parent
    path = os.pathsep.join([str(here), str(here.parent)])
    command = [sys.executable, __file__, "--drive", engine, "--workers", str(workers)]
    driver = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path})
    if driver.wait():
        raise SystemExit(f"the {engine} driver failed")
    wall_s = time.monotonic() - started
    while True:  # those whose parents are gone are this process's children now
        try:
            os.wait()
        except ChildProcessError:
            return _children_cpu_s() - before, wall_s


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Print the median cost of each engine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--drive")
    args = parser.parse_args()
    if args.drive:
        drive(args.drive, args.workers)
        return
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    medians: dict[str, float] = {}
    for engine in ("local", "ray"):
        costs = [cost(engine, args.workers) for _ in range(args.repeat)]
        medians[engine] = statistics.median(cpu for cpu, _ in costs)
        wall_s = statistics.median(wall for _, wall in costs)
        print(f"{engine}: {medians[engine]:.2f} CPU-s, {wall_s:.1f} s, {args.workers} workers")
    print(f"Ray costs {medians['ray'] - medians['local']:.2f} CPU-s beyond local")


if __name__ == "__main__":
    main()
