"""The local engine: the contract, and workers that end with their driver."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.runners import Resources, Runner, WorkerDied
from pipelines.runners.local import LocalRunner, ProcessPool
from tests.pipelines.runners import contract
from tests.pipelines.runners.contract import RunnerContract


def start(workers: int, retries: int) -> Runner:
    return LocalRunner(workers, retries)


class TestLocal(RunnerContract):
    runner = staticmethod(start)


def test_steps_share_their_processes_whatever_they_ask(tmp_path: Path) -> None:
    pids = []
    with LocalRunner(1) as runner:
        for step, cores in (("detect", 1.0), ("clean", 2.0), ("index", 1.0)):
            job = contract.Job(str(tmp_path / step), resources=Resources(num_cpus=cores))
            Path(job.folder).mkdir()
            runner.map(job, contract.tasks(a=["x"]), lambda *_: None)
            assert runner._pool is not None
            pids.append(list(runner._pool._executor._processes))  # type: ignore[attr-defined]
    assert len(pids[0]) == 1 and pids[0] == pids[1] == pids[2]


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0]
    except FileNotFoundError:
        return False


def test_workers_end_with_a_killed_driver(tmp_path: Path) -> None:
    code = (
        "import sys; from pipelines.runners.local import LocalRunner\n"
        "from tests.pipelines.runners import contract as t\n"
        "if __name__ == '__main__':\n"
        " with LocalRunner(2) as r:\n"
        "  r.map(t.Job(sys.argv[1]), t.tasks(a=['x'], b=['x']), lambda *_: None)\n"
        "  print(*r._pool._executor._processes, flush=True); sys.stdin.read()\n"
    )
    script = tmp_path / "driver.py"
    script.write_text(code)
    root = Path(__file__).parents[3]
    driver = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert driver.stdout is not None and driver.stdin is not None
    workers = [int(pid) for pid in driver.stdout.readline().split()]
    assert len(workers) == 2 and all(map(alive, workers))
    driver.kill()
    driver.wait()
    deadline = time.monotonic() + 30
    while any(map(alive, workers)) and time.monotonic() < deadline:
        os.sched_yield()
    driver.stdin.close()
    driver.stdout.close()
    assert not any(map(alive, workers))


def test_a_pool_that_was_killed_starts_nothing_more() -> None:
    """Processes start with the first call: one that comes after the kill must not."""
    pool = ProcessPool(1)
    pool.kill()
    with pytest.raises(WorkerDied):
        pool.submit(os.getpid)
    pool.end(kill=True)
