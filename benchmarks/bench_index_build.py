"""What does a gallery's build cost beyond faiss, and how much memory does it take?

    python benchmarks/bench_index_build.py rate FOLDER --vectors 262144
    python benchmarks/bench_index_build.py memory FOLDER --vectors 10000000

rate: one shard, as a worker makes it (read Parquet, lay out by face, check, hash, encode, write,
fsync), beside a bare loop of `index.add` over float32 blocks in memory, with the same template.
They take turns; the median counts.

memory: `facepipe index build` with codes, from a dataset that was made in a stream: the most
anonymous memory (RssAnon) of the command and all it starts together, and vectors a CPU second.
FOLDER needs 3 KB a vector and keeps the dataset. Two workers on two threads of one core take more
CPU seconds than one (--workers 1). Start both with OMP_NUM_THREADS=1 and
OPENBLAS_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import io
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from gallery_dataset import write_gallery
from gallery_vectors import GalleryVectors
from process_tree import descendants

from facepipe.index_codes import ShardCodes
from facepipe.index_plan import plan_index
from facepipe.index_settings import IndexSettings
from facepipe.index_template import TrainedTemplate, read_template
from facepipe.neighbors import vector_matrix
from facepipe.shards import Dataset
from facepipe.store import Store, open_store
from pipelines.index_files import read_template_bytes
from pipelines.index_select import cut, look
from pipelines.index_shards import Making, make_shard
from pipelines.index_training import Training, make_template

ADD_ROWS = 65536  # of the bare loop
SAMPLE_S = 0.05  # of memory


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("rate", "memory"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vectors", type=int, default=262_144)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory-budget", help="of the gallery, which decides the codes")
    parser.add_argument("--workers", type=int, default=2, help="of memory")
    args = parser.parse_args()
    dataset = args.folder / "dataset"
    if not dataset.with_name("dataset.truth.npz").exists():
        write_gallery(dataset, GalleryVectors(args.vectors, args.dim, args.seed), "sorted")
    if args.what == "rate":
        rate(dataset, args.folder / "index", args.repeats, args.memory_budget)
    else:
        memory(dataset, args.folder / "index", args.vectors, args.memory_budget, args.workers)


# -- rate --------------------------------------------------------------------------------


def rate(folder: Path, out: Path, repeats: int, budget: str | None) -> None:
    """Print what a shard costs, and what of it is faiss's."""
    dataset, store = Dataset(open_store(str(folder))), open_store(str(out))
    making, others = _making(dataset, store, budget)
    template = making.template
    if template is None:
        raise SystemExit("a shard of whole vectors has no codes: give more --vectors")
    trained = read_template(read_template_bytes(store, template), template, making.dim)
    half = vector_matrix(dataset.table("embeddings", ["vector"]))[: making.rows]
    wide = half.astype(np.float32)

    def bare() -> None:
        index = _bare_index(trained)
        for start in range(0, len(wide), ADD_ROWS):
            index.add(wide[start : start + ADD_ROWS])

    def codes() -> None:
        made = ShardCodes(trained, making.rows)
        made.add(half)
        made.write(io.BytesIO())

    def shard() -> None:
        make_shard(store, dataset, making, "cpu")

    work = {"bare loop of faiss": bare, "facepipe's codes": codes, "facepipe's shard": shard}
    spent = {name: _turns() for name in work}
    for _ in range(repeats):
        for name, function in work.items():
            for kind, seconds in _timed(function).items():
                spent[name][kind].append(seconds)
    print(f"{making.rows} vectors of {making.dim}, {template.factory} (one of {others} shards)")
    print(f"{'':20} vectors/CPU-s    of bare   vectors/s    of bare")
    base = {kind: statistics.median(spent["bare loop of faiss"][kind]) for kind in ("cpu", "wall")}
    for name, kinds in spent.items():
        cpu_s, wall_s = (statistics.median(kinds[kind]) for kind in ("cpu", "wall"))
        print(
            f"{name:20} {making.rows / cpu_s:13.0f} {base['cpu'] / cpu_s:10.3f} "
            f"{making.rows / wall_s:11.0f} {base['wall'] / wall_s:10.3f}"
        )


def _bare_index(trained: TrainedTemplate) -> Any:
    """Return what faiss makes of the factory's name, with the template's centres and codebook."""
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.index_factory(trained.dim, trained.record.factory, faiss.METRIC_INNER_PRODUCT)
    index.quantizer.add(trained.quantizer.reconstruct_n(0, trained.record.nlist))
    codebook = faiss.vector_to_array(trained.index.pq.centroids)
    faiss.copy_array_to_vector(codebook, index.pq.centroids)
    index.is_trained = True
    return index


def _making(dataset: Dataset, store: Store, budget: str | None) -> tuple[Making, int]:
    """Return the first shard of a gallery, to be made, and how many there are."""
    stretch = look(dataset, "kept", decided=False)
    settings = IndexSettings(kind="ivf_pqfs", memory_budget=budget)
    count = sum(map(len, stretch.tables()))
    plan = plan_index(
        count,
        stretch.dim,
        memory_budget_bytes=settings.memory_budget_bytes,
        recall=settings.recall,
        kind="ivf_pqfs",
    )
    works = tuple(cut(store, "0" * 64, stretch, plan.shard_rows))
    training = Training(dim=stretch.dim, plan=plan, seed=0, works=works)
    started = time.process_time()
    template = make_template(store, dataset, training, settings)
    print(f"template: {time.process_time() - started:.0f} CPU-s on {plan.sample} vectors")
    return Making(dim=stretch.dim, template=template, work=works[0]), len(works)


def _turns() -> dict[str, list[float]]:
    return {"cpu": [], "wall": []}


def _timed(function: Callable[[], None]) -> dict[str, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    function()
    return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}


# -- memory ------------------------------------------------------------------------------


def memory(folder: Path, out: Path, vectors: int, budget: str | None, workers: int) -> None:
    """Print the peak of anonymous memory of a build, and its rate."""
    command = [sys.executable, "-m", "pipelines.cli", "index", "build", str(folder)]
    command += ["--out", str(out), "--set", "index.kind=ivf_pqfs", "--workers", str(workers)]
    command += ["--set", f"index.memory_budget={budget}"] if budget else []
    started = time.perf_counter()
    with subprocess.Popen(command) as process:
        watch = _Watch(process.pid)
        process.wait()
        peak_bytes = watch.end()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = used.ru_utime + used.ru_stime
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(
        f"{vectors} vectors: exit {process.returncode}, {cpu_s:.0f} CPU-s "
        f"({vectors / cpu_s:.0f} vectors a CPU second), {time.perf_counter() - started:.0f} s, "
        f"{peak_bytes / 1e6:.0f} MB of anonymous memory at most, {size / 1e9:.2f} GB on disk"
    )
    each = " + ".join(f"{bytes_ / 1e6:.0f}" for bytes_ in watch.peak_each if bytes_ > 10**6)
    print(f"most memory after {watch.peak_s:.0f} s, in processes of {each} MB")


class _Watch:
    """Samples the anonymous memory of a process and all below it."""

    def __init__(self, pid: int) -> None:
        self._pid, self._over, self._peak_bytes = pid, threading.Event(), 0
        self._started, self.peak_s, self.peak_each = time.perf_counter(), 0.0, list[int]()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def end(self) -> int:
        """Return the peak in bytes."""
        self._over.set()
        self._thread.join()
        return self._peak_bytes

    def _work(self) -> None:
        while not self._over.wait(SAMPLE_S):
            pids = [self._pid, *descendants(self._pid)]
            each = [_anonymous_bytes(pid) for pid in pids]
            if sum(each) > self._peak_bytes:
                self._peak_bytes, self.peak_each = sum(each), each
                self.peak_s = time.perf_counter() - self._started


def _anonymous_bytes(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except (OSError, ProcessLookupError):  # it has ended meanwhile
        pass
    return 0


if __name__ == "__main__":
    main()
