"""What a command and all it starts cost: CPU seconds, and the peak of their memory.

Linux only. Orphans (Ray's daemons) come to this process, which is made their reaper, so that
their time is counted too. Memory is the sum of proportional set sizes, sampled.
"""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_SAMPLE_S = 0.1


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
    before, started = _children_cpu_s(), time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
    )
    peak = _Peak(os.getpid()) if memory else None
    stdout, _ = process.communicate()
    wall_s = time.perf_counter() - started
    _reap()
    return Cost(
        returncode=process.returncode,
        wall_s=wall_s,
        cpu_s=_children_cpu_s() - before,
        peak_bytes=peak.stop() if peak else 0,
        stdout=stdout,
    )


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _reap() -> None:
    """Wait for orphans; the daemons of a local Ray end within seconds of their driver."""
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


class _Peak:
    def __init__(self, root: int) -> None:
        self._root, self._peak, self._over = root, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> int:
        self._over.set()
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        while not self._over.wait(_SAMPLE_S):
            self._peak = max(self._peak, sum(_pss(pid) for pid in descendants(self._root)))


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
