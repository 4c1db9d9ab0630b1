"""How many faces a second are cleaned within their labels, and in how much memory?

    python benchmarks/bench_intra_label.py [--faces 100000 1000000 10000000] [--threads 1 2]

All of `facepipe.clean` that looks at one label at a time: near copies, impostors, floors, modes,
every face against the other faces of its label's first mode, and the probability that it is
right. (What comes after, people across labels, also holds the centres of all modes.) Vectors are
512-d float16 in a file, read as they are needed; labels are those of synthetic_faces.py (64
effective dimensions) with 40 % of the faces under a wrong one. From DISTINCT faces on the same
vectors come again under new labels: neither time nor memory knows.
Each size and number of threads in a process of its own, whose highest resident memory is printed,
and a digest of what was found: the same for any number of threads.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt
from made_dataset import mislabelled
from synthetic_faces import BLOCK_FACES, DIM, make_faces

from facepipe.centres import LabelledFaces, face_impostors
from facepipe.identities import find_floors, own_cosines
from facepipe.mixture import logistic
from facepipe.modes import find_modes, main_modes, near_copies
from facepipe.posterior import fit_faces

WRONG, DIMENSIONS, DISTINCT = 0.4, 64, 1_000_000
GAP_ROWS = 4  # rows that are not asked for are read with the others up to here
Int64 = npt.NDArray[np.int64]


class FileVectors:
    """Rows of a file of float16 vectors, read when asked for."""

    def __init__(self, path: Path, rows: int) -> None:
        """Open the file; ``rows`` may be more than it has."""
        self._file = os.open(path, os.O_RDONLY)
        self._distinct = os.fstat(self._file).st_size // (2 * DIM)
        self.shape = (rows, DIM)

    def __getitem__(self, rows: Int64) -> npt.NDArray[np.float16]:
        """Return vectors of rows, (len(rows), D)."""
        there = rows % self._distinct
        order = np.argsort(there, kind="stable")
        found = np.empty((len(rows), DIM), np.float16)  # no page of which is there yet
        cuts = np.flatnonzero(np.diff(there[order]) > GAP_ROWS) + 1
        for run in np.split(order, cuts) if len(order) else ():
            low, high = int(there[run[0]]), int(there[run[-1]]) + 1
            data = os.pread(self._file, (high - low) * 2 * DIM, low * 2 * DIM)
            read = np.frombuffer(data, np.float16).reshape(-1, DIM)
            if len(run) == len(rows):
                return read[there - low]
            found[run] = read[there[run] - low]
        return found


def main() -> None:
    """Measure each size in its own process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(Path(args.measure[0]), int(args.measure[1]), int(args.measure[2]))
        return
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), min(max(args.faces), DISTINCT))
        for faces in args.faces:
            for threads in args.threads:
                command = [sys.executable, __file__, "--measure", folder, str(faces), str(threads)]
                subprocess.run(command, check=True)


def write(folder: Path, faces: int) -> None:
    """Write vectors sorted by label, and the labels."""
    labels, first = [], 0
    with (folder / "vectors.f16").open("wb") as out:
        for piece, start in enumerate(range(0, faces, BLOCK_FACES)):
            made = make_faces(min(BLOCK_FACES, faces - start), dimensions=DIMENSIONS, seed=piece)
            label_N = mislabelled(made.identity_N, WRONG, piece)
            order = np.argsort(label_N, kind="stable")
            out.write(made.vectors_ND[order].tobytes())
            labels.append(label_N[order] + first)
            first += int(label_N.max()) + 1
    np.save(folder / "labels.npy", np.unique(np.concatenate(labels), return_inverse=True)[1])


def measure(folder: Path, count: int, threads: int) -> None:
    """Clean within labels once and print."""
    label_N = np.load(folder / "labels.npy", allow_pickle=False)
    turns = -(-count // len(label_N))
    labels = int(label_N.max()) + 1
    label_N = np.concatenate([label_N + turn * labels for turn in range(turns)])[:count]
    faces = LabelledFaces(
        label_N=label_N,
        vector_N=np.arange(count),
        vectors_ND=FileVectors(folder / "vectors.f16", count),
        labels=int(label_N[-1]) + 1,
        threads=threads,
    )
    started = time.perf_counter()
    original_N = near_copies(faces)
    impostors = face_impostors(faces)
    modes = find_modes(faces, find_floors(faces, impostors))
    cosine_N, others_N = own_cosines(faces, modes)
    main_N = main_modes(modes, faces.labels)[faces.label_N]
    mixture = fit_faces(faces, modes.mode_N, main_N, cosine_N, others_N, impostors)
    odds_N = mixture.log_odds(cosine_N, np.maximum(others_N, 1.0), mixture.clean_share)
    right = float(((logistic(odds_N) >= 0.5) & (others_N > 0)).mean())
    taken_s = time.perf_counter() - started
    copies = int((original_N != np.arange(count)).sum())
    digest = hashlib.sha256()
    for found in (original_N, modes.mode_N, modes.weight_N, cosine_N, others_N, odds_N):
        digest.update(found.data)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        f"{count:9} faces  {threads} threads  {taken_s:7.1f} s  {count / taken_s:8.0f} faces/s  "
        f"{peak / 1e6:6.0f} MB  {copies} near copies, {right:.3f} of the faces right  "
        f"{digest.hexdigest()[:8]}",
        flush=True,
    )


if __name__ == "__main__":
    main()
