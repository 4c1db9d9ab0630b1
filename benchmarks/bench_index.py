"""How small and how fast is a gallery that finds the same people as exact search, beside its peers?

    python benchmarks/bench_index.py FOLDER --vectors 500000 --peers-python PEERS/bin/python

Vectors and queries are those of gallery_vectors.py. facepipe builds from a dataset on disk and
searches as it has calibrated itself. A peer (faiss Flat, IVF,Flat and HNSW; usearch; hnswlib;
autofaiss where it installs) gets the vectors in memory, and the least search effort of its grid
at which the truth says Rth >= 0.99, or its greatest, where none is. PEERS is an environment with
usearch and hnswlib. Every contender is a process of one thread, all queries are one call, the
contenders take turns, and the median counts. FOLDER keeps what is built.

    B/vec    bytes of the index a vector; of facepipe's its codes and template, without float16
             vectors (2 D bytes on disk, mapped) and rows (uri, box, person), which "disk" counts
    Rth      share of the exact top-10 pairs of cosine >= 0.40 that are found
    id@1     share of the queries with a mate whose best hit is of the right person
    R@10     share of the exact top 10, strangers included
    q/core-s queries a second of CPU time
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import numpy.typing as npt
from gallery_dataset import write_gallery
from gallery_vectors import STRANGER, GalleryVectors
from peer_index import NAMED

from facepipe.neighbors import nearest

Array = npt.NDArray[Any]

K = 10
MIN_COSINE, TARGET = 0.40, 0.99
Z_95 = 1.959964  # of the normal law, two-sided
HERE = Path(__file__).parent
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True)
class Truth:
    """The exact answer: rows and cosines (Q, K), and whose each row and query is."""

    rows_QK: Array
    scores_QK: Array
    person_N: Array
    person_Q: Array


@dataclass(slots=True)
class Row:
    """What a contender has shown."""

    name: str
    said: dict[str, Any]
    setting: int = 0
    recall: dict[str, float] = field(default_factory=dict)
    cpu_s: list[float] = field(default_factory=list)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vectors", type=int, default=500_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--names", nargs="*", default=list(NAMED), choices=list(NAMED))
    parser.add_argument("--peers-python", default=sys.executable)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    truth = prepare(args.folder, GalleryVectors(args.vectors, args.dim, args.seed), args.queries)
    asked = {name: _Process(name, args.folder, args.peers_python) for name in args.names}
    rows = [Row(name, process.said) for name, process in asked.items() if process.said]
    for row in rows:  # which also warms each up
        _choose(row, asked[row.name], truth, args.folder)
    for _ in range(args.repeats):
        for row in rows:
            row.cpu_s.append(asked[row.name].search(row.setting))
    for process in asked.values():
        process.end()
    _print(rows, truth, args.vectors)


def prepare(folder: Path, made: GalleryVectors, queries: int) -> Truth:
    """Write vectors, queries and the dataset, where they are not there, and find the truth."""
    faces, asked = made.shuffled(), made.queries(queries)
    if not (folder / "dataset.truth.npz").exists():
        write_gallery(folder / "dataset", made, "shuffled")
    if not (folder / "vectors.npy").exists():
        np.save(folder / "vectors.npy", faces.vectors_ND)
    queries_QD = asked.vectors_ND.astype(np.float32)
    np.save(folder / "queries.npy", queries_QD / np.linalg.norm(queries_QD, axis=1, keepdims=True))
    scores_QK, rows_QK = nearest(np.load(folder / "queries.npy"), faces.vectors_ND, K)
    return Truth(rows_QK, scores_QK, faces.person_N, asked.person_N)


class _Process:
    """A contender at the other end of a pipe."""

    def __init__(self, name: str, folder: Path, peers_python: str) -> None:
        peer = not name.startswith(("facepipe", "faiss"))
        self._name, self._folder = name, folder
        self._process = subprocess.Popen(
            [peers_python if peer else sys.executable, str(HERE / "peer_index.py"), name, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **ONE_THREAD, "PYTHONPATH": str(HERE.parent)},
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        self.said: dict[str, Any] = json.loads(line) if line else {}
        if not line:
            print(f"{name}: does not run here, see above", file=sys.stderr, flush=True)

    def search(self, setting: int) -> float:
        """Search once, and return the CPU seconds."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(setting, K, file=self._process.stdin, flush=True)
        return float(json.loads(self._process.stdout.readline())["cpu_s"])

    def end(self) -> None:
        """Let it end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _choose(row: Row, process: _Process, truth: Truth, folder: Path) -> None:
    for setting in row.said["settings"]:
        process.search(setting)
        row.setting, row.recall = setting, recall(np.load(folder / f"found-{row.name}.npy"), truth)
        if row.recall["rth"] >= TARGET:
            return


def recall(found_QK: Array, truth: Truth) -> dict[str, float]:
    """Return rth, id_at_1 and recall_at_10, and what the first two are shares of."""
    hit_QK = (truth.rows_QK[:, :, None] == found_QK[:, None, :]).any(axis=2)
    strong_QK = truth.scores_QK >= MIN_COSINE
    mated_Q = truth.person_Q != STRANGER
    best_Q = np.where(found_QK[:, 0] >= 0, truth.person_N[found_QK[:, 0]], STRANGER)
    return {
        "rth": float(hit_QK[strong_QK].mean()),
        "pairs": int(strong_QK.sum()),
        "id_at_1": float((best_Q == truth.person_Q)[mated_Q].mean()),
        "mated": int(mated_Q.sum()),
        "recall_at_10": float(hit_QK.mean()),
    }


def wilson(share: float, count: float) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927)."""
    middle = (share + Z_95**2 / (2 * count)) / (1 + Z_95**2 / count)
    half = Z_95 * (share * (1 - share) / count + Z_95**2 / (4 * count**2)) ** 0.5
    half /= 1 + Z_95**2 / count
    return middle - half, middle + half


def _print(rows: list[Row], truth: Truth, vectors: int) -> None:
    flat = next((row for row in rows if row.name == "faiss-Flat"), rows[0])
    flat_rate = len(truth.person_Q) / statistics.median(flat.cpu_s)
    print(
        f"{vectors} vectors, {len(truth.person_Q)} queries in one call, one thread\n"
        f"{'':15} effort   B/vec  smaller  disk B/vec   R@10   Rth (95 %)            "
        f"id@1 (95 %)           q/core-s  faster  build CPU-s"
    )
    for row in rows:
        size = row.said["bytes"] / vectors
        disk = row.said.get("disk_bytes", row.said["bytes"]) / vectors
        rate = len(truth.person_Q) / statistics.median(row.cpu_s)
        low, high = wilson(row.recall["rth"], row.recall["pairs"])
        least, most = wilson(row.recall["id_at_1"], row.recall["mated"])
        effort = f"{row.said['nprobe']}/{row.said['candidates']}" if "nprobe" in row.said else ""
        print(
            f"{row.name:15} {effort or row.setting or '':>7} {size:7.1f} "
            f"{flat.said['bytes'] / row.said['bytes']:7.1f}x {disk:10.0f}  "
            f"{row.recall['recall_at_10']:6.4f} {row.recall['rth']:6.4f} ({low:.4f}-{high:.4f}) "
            f"{row.recall['id_at_1']:6.4f} ({least:.4f}-{most:.4f}) {rate:8.0f} "
            f"{rate / flat_rate:6.1f}x {row.said['build_cpu_s']:10.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
