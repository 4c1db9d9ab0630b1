"""What it costs to start Ray: CPU seconds over all processes, beside the local engine's.

    python benchmarks/bench_ray_start.py [--workers 2] [--repeat 3]

Each engine opens its workers in a new driver and runs one task that does nothing on each.
Then the driver adds up what it and all processes below it have used, before they end: Ray's
node does not wait for its own, so that their time would be lost afterwards.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from facepipe.commits import Commit
from pipelines.runners import ONE_CORE, Resources, Runner, ShardTask

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


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
    """Run one task on each worker and print the CPU seconds that it took."""
    # Imported by name, since a worker cannot import what is in a driver's __main__.
    from bench_ray_start import Job as NamedJob

    tasks = [ShardTask(step="s", shard=f"{i}", key="k", items=1) for i in range(workers)]
    with _runner(engine, workers) as runner:
        runner.map(NamedJob(), tasks, lambda *_: None)
        print(_tree_cpu_s(os.getpid()))


def _runner(engine: str, workers: int) -> Runner:
    if engine == "ray":
        from pipelines.runners.ray import RayRunner

        return RayRunner(workers)
    from pipelines.runners.local import LocalRunner

    return LocalRunner(workers)


def _tree_cpu_s(root: int) -> float:
    """Return what a process, those below it and those they waited for have used."""
    used_s: dict[int, float] = {}
    below: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        pid = int(stat.parent.name)
        below.setdefault(int(fields[1]), []).append(pid)
        used_s[pid] = sum(map(int, fields[11:15])) * _TICK_S
    total_s, todo = 0.0, [root]
    while todo:
        pid = todo.pop()
        total_s += used_s[pid]
        todo += below.get(pid, [])
    return total_s


def cost(engine: str, workers: int) -> tuple[float, float]:
    """Return the CPU and wall seconds of a driver and all that it starts."""
    here = Path(__file__).resolve().parent
    path = os.pathsep.join([str(here), str(here.parent)])
    command = [sys.executable, __file__, "--drive", engine, "--workers", str(workers)]
    environment = {**os.environ, "PYTHONPATH": path}
    started = time.monotonic()
    ran = subprocess.run(command, env=environment, check=True, text=True, stdout=subprocess.PIPE)
    return float(ran.stdout), time.monotonic() - started


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
    medians: dict[str, float] = {}
    for engine in ("local", "ray"):
        costs = [cost(engine, args.workers) for _ in range(args.repeat)]
        medians[engine] = statistics.median(cpu for cpu, _ in costs)
        wall_s = statistics.median(wall for _, wall in costs)
        print(f"{engine}: {medians[engine]:.2f} CPU-s, {wall_s:.1f} s, {args.workers} workers")
    print(f"Ray costs {medians['ray'] - medians['local']:.2f} CPU-s beyond local")


if __name__ == "__main__":
    main()
