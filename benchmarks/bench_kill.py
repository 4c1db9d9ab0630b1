"""Kills workers, Ray nodes and drivers at random moments; compares with an undisturbed run.

    python benchmarks/bench_kill.py --pack PACK --kills 20 [--engine local] [--target driver]
        PHOTOS... [-- further curate options]

A killed driver is started again, until a run finishes, and on until enough have been killed;
each new start may only run shards that had no commit record when the one before was killed.
After a killed worker or node the same run has to finish by itself. At the end every table,
plan and manifest has to be that of a run of one local worker, byte for byte.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from bench_engines import contents, ray_cluster
from process_tree import descendants


def main() -> None:
    """Run the comparison; exit 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--pack", required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", default="local", choices=["local", "ray", "beam"])
    parser.add_argument("--target", default="driver", choices=["driver", "worker", "node"])
    parser.add_argument("--workers", type=int, default=2)
    args, extra = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary, _cluster(args.engine) as cluster:
        trial = Trial(args, extra, Path(temporary), cluster)
        same = trial.run()
    sys.exit(0 if same else 1)


@contextlib.contextmanager
def _cluster(engine: str) -> Iterator[Any]:
    if engine != "ray":
        yield None
        return
    with ray_cluster() as cluster:
        yield cluster


class Trial:
    """One engine, one target."""

    def __init__(
        self, args: argparse.Namespace, extra: list[str], folder: Path, cluster: Any
    ) -> None:
        """Set up; `run` does it."""
        self.args, self.extra, self.folder, self.cluster = args, extra, folder, cluster
        self.rng = random.Random(args.seed)
        self.killed = self.resumed = self.redone = 0

    def command(self, out: str, engine: str, workers: int) -> list[str]:
        """Return the command line of a run."""
        return [
            *(sys.executable, "-m", "pipelines.cli", "curate", *self.args.photos, *self.extra),
            *("--models", self.args.pack, "--out", str(self.folder / out), "--quiet", "--json"),
            *("--engine", engine, "--workers", str(workers), "--no-index", "--no-report"),
        ]

    def run(self) -> bool:
        """Run undisturbed and disturbed, and compare."""
        plain = subprocess.run(
            self.command("plain", "local", 1), check=True, stdout=subprocess.PIPE
        )
        self.shards = sum(s["shards"] for s in json.loads(plain.stdout)["steps"])
        started = time.perf_counter()
        self.finish(self.start("whole"))
        self.took = time.perf_counter() - started
        print(f"{self.args.engine}, {self.args.workers} workers, undisturbed: {self.took:.1f} s")
        kill = self.kill_drivers if self.args.target == "driver" else self.kill_others
        kill()
        plain_bytes = contents(self.folder / "plain")
        same = all(contents(self.folder / n) == plain_bytes for n in ("whole", "killed"))
        print(
            f"{self.killed} {self.args.target}s killed; resumed {self.resumed} times, "
            f"{self.redone} committed shards done again; {len(plain_bytes)} files, "
            f"{sum(map(len, plain_bytes.values()))} bytes, byte-identical: {same}",
            flush=True,
        )
        return same and not self.redone

    def start(self, out: str = "killed") -> subprocess.Popen[bytes]:
        """Start a run on the engine."""
        command = self.command(out, self.args.engine, self.args.workers)
        return subprocess.Popen(command, stdout=subprocess.PIPE)

    def finish(self, process: subprocess.Popen[bytes]) -> int:
        """Wait for a run; return how many shards it has run."""
        stdout, _ = process.communicate()
        if process.returncode:
            sys.exit(f"a run ended with {process.returncode}")
        return sum(s["shards_run"] for s in json.loads(stdout)["steps"])

    def records(self) -> int:
        """Return how many shards are committed."""
        return sum(1 for _ in (self.folder / "killed" / "_commits").glob("*/*.json"))

    def kill_drivers(self) -> None:
        """Kill and start again; where a run finishes before it is killed, begin anew."""
        committed = 0
        while True:
            process = self.start()
            done = self.killed >= self.args.kills
            try:
                # Moments are drawn so that all steps are hit.
                limit = max(2.0, self.took / self.args.kills * 4)
                wait_s = None if done else self.rng.uniform(0.3, limit)
                process.wait(timeout=wait_s)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.communicate()
                self.killed += 1
                committed = self.records()
                continue
            ran = self.finish(process)
            self.resumed += 1
            self.redone += max(0, ran - (self.shards - committed))
            if done:
                return
            shutil.rmtree(self.folder / "killed")
            committed = 0

    def kill_others(self) -> None:
        """Kill workers or nodes of runs that have to finish all the same."""
        strike: Callable[[int], bool] = (
            self.kill_worker if self.args.target == "worker" else self.kill_node
        )
        while self.killed < self.args.kills:
            shutil.rmtree(self.folder / "killed", ignore_errors=True)
            process = self.start()
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=self.rng.uniform(0.5, max(2.0, self.took / 3)))
                    break
                self.killed += strike(process.pid)
            self.finish(process)
            self.resumed += 1

    def kill_worker(self, driver: int) -> bool:
        """Kill a process that runs shards."""
        root = driver if self.cluster is None else os.getpid()
        pids = [p for p in descendants(root) if _is_worker(p, self.args.engine)]
        if not pids:
            return False
        try:
            os.kill(self.rng.choice(pids), signal.SIGKILL)
        except ProcessLookupError:  # it has ended meanwhile
            return False
        return True

    def kill_node(self, driver: int) -> bool:
        """Take the second node away as a power cut would, and bring another one."""
        nodes = [n for n in self.cluster.list_all_nodes() if not n.head]
        self.cluster.remove_node(nodes[0], allow_graceful=False)
        self.cluster.add_node(num_cpus=1)
        return True


def _is_worker(pid: int, engine: str) -> bool:
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return False
    if engine == "ray":
        return line.startswith("ray::InActor")  # and no agent, without which a node dies
    return "spawn_main" in line


if __name__ == "__main__":
    main()
