"""The local engine: the contract, and workers that end with their driver."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from pipelines.runners import Runner
from pipelines.runners.local import LocalRunner
from tests.pipelines.runners.contract import RunnerContract


def start(workers: int, retries: int) -> Runner:
    return LocalRunner(workers, retries)


class TestLocal(RunnerContract):
    runner = staticmethod(start)


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
