"""What happens inside a worker's process, on every engine: opened jobs, tasks, one thread."""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import Any

from facepipe.allocator import give_freed_back, keep_freed
from facepipe.commits import Commit
from pipelines.runners import Job, ShardTask, Worker

# One thread each: a second one per process only fights the other workers for the cores.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "OPENCV_LOG_LEVEL": "ERROR",
}
# Of freed memory, and of one block: glibc's own values make malloc give a photo's canvas and
# blob back and fault them in again at the next photo, 28,000 pages a second.
_KEPT_BYTES, _BLOCK_BYTES = 256 << 20, 32 << 20

_OPENED: dict[Any, Worker] = {}  # one: a step's models are let go before the next step's open


def prepare_process() -> None:
    """Make this process a worker: one thread, quiet, and Ctrl-C left to the driver."""
    os.environ.update(ONE_THREAD)  # for engines whose processes do not inherit the driver's
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    mute_native_libraries()
    keep_freed(_KEPT_BYTES, _BLOCK_BYTES)  # until a shard's end
    one_thread()


def one_thread() -> None:
    """Keep OpenCV and Arrow to one thread."""
    import cv2
    import pyarrow as pa

    cv2.setNumThreads(1)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)


def mute_native_libraries() -> None:
    """Keep Python's own messages on stderr and drop what libtiff and others print there.

    A hostile TIFF makes libtiff print hundreds of lines; what matters is in the photo's row.
    """
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    sys.stderr.flush()
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 2)
    os.close(silent)


def worker_of(job: Job) -> Worker:
    """Return this process's worker of a job, opened once."""
    if job not in _OPENED:
        _OPENED.clear()
        _OPENED[job] = job.open()
    return _OPENED[job]


def check_job(job: Job) -> None:
    """Open a job and check its worker."""
    worker_of(job).check()


def run_task(job: Job, task: ShardTask, quarantined: frozenset[int]) -> Commit:
    """Run one shard to its commit."""
    commit = worker_of(job).run(task, quarantined)
    give_memory_back()
    return commit


def give_memory_back() -> None:
    """Return what a shard left free to the system: in pieces it would add up over many shards.

    glibc's malloc and Arrow's pool keep freed memory for themselves; asking them takes
    milliseconds.
    """
    import pyarrow as pa

    pa.default_memory_pool().release_unused()
    give_freed_back()


def probe_item(job: Job, task: ShardTask, item: int) -> None:
    """Touch one item: does it kill this process?"""
    worker_of(job).probe(task, item)
