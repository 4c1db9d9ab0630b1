"""What a process becomes when it is made a worker."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS_OF_BLOBS = """
import resource, sys
import numpy as np

if sys.argv[1:] == ["worker"]:
    from pipelines.runners.process import prepare_process
    prepare_process()
for _ in range(5):
    np.ones((3, 640, 640), np.float32)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    # What a photo leaves free at its end is more than malloc keeps by itself.
    [np.ones((3, 640, 640), np.float32) for _ in range(8)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*args: str) -> int:
    command = [sys.executable, "-c", FAULTS_OF_BLOBS, *args]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="not Linux: glibc's malloc alone is told")
def test_a_worker_keeps_what_a_photo_leaves_free() -> None:
    pages = 100 * 8 * 3 * 640 * 640 * 4 // 4096  # if each blob were faulted in anew
    assert faults("worker") < pages / 10 < faults()
