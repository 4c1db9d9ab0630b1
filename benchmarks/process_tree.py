"""What a command and all it starts cost: CPU seconds, and the peak of their memory.

Linux only. Orphans (Ray's daemons) come to this process, which is made their reaper. CPU time is
what each process was last seen to have used: Ray reaps its own children, whose time nobody else
is told. Memory is the sum of proportional set sizes. Both are sampled.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_SAMPLE_S = 0.1  # of memory
_CPU_SAMPLE_S = 0.25
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a command cost."""

    returncode: int
    wall_s: float
    cpu_s: float
    peak_bytes: int
    stdout: str


def run(
    command: Sequence[str], environment: Mapping[str, str] | None = None, *, memory: bool = False
) -> Cost:
    """Run a command to the end of everything it has started, and return what it cost."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    started, own = time.perf_counter(), os.getpid()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
    )
    watch = _Watch(own, memory)
    stdout, _ = process.communicate()
    wall_s = time.perf_counter() - started
    _reap()
    watch.stop()
    return Cost(
        returncode=process.returncode,
        wall_s=wall_s,
        cpu_s=watch.cpu_s(),
        peak_bytes=watch.peak_bytes,
        stdout=stdout,
    )


def _reap() -> None:
    """Wait for orphans; the daemons of a local Ray end within seconds of their driver."""
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


class _Watch:
    def __init__(self, root: int, memory: bool) -> None:
        self._root, self._memory, self._over = root, memory, threading.Event()
        self._ticks: dict[tuple[int, int], int] = {}  # by process id and start
        self.peak_bytes = 0
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def cpu_s(self) -> float:
        return sum(self._ticks.values()) / _TICKS_PER_S

    def _work(self) -> None:
        while not self._over.wait(_SAMPLE_S if self._memory else _CPU_SAMPLE_S):
            pids = descendants(self._root)
            if self._memory:
                self.peak_bytes = max(self.peak_bytes, sum(map(_pss, pids)))
                continue
            for pid in pids:
                self._look(pid)

    def _look(self, pid: int) -> None:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            return
        self._ticks[pid, int(fields[19])] = int(fields[11]) + int(fields[12])


def descendants(root: int) -> list[int]:
    """Return the process ids below a process."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):  # it has ended meanwhile
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    found, pending = [], [root]
    while pending:
        children = parents.get(pending.pop(), [])
        found += children
        pending += children
    return found


def _pss(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except (OSError, ProcessLookupError):
        pass
    return 0
