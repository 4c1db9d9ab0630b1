"""Does it matter how a gallery is cut into shards, or in what order its photos came?

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 \
    python benchmarks/bench_index_shards.py FOLDER --vectors 500000

Shards: the same dataset and template in 1, 8 and about 64 shards, for each kind of codes. Face ids
and scores must be the same to the bit. CPU is that of searching all queries in one call; they
take turns, and the median is set against that of one shard.

Order: the same faces in a dataset sorted by person and in one that is shuffled, each built by
`facepipe index build`'s defaults with a template of its own; both are searched with the setting
that the shuffled one was calibrated to.

"ivf_pqfs" has 4 bits for 8 dimensions; "ivf_pqfs/4" stands for 4 bits for 4, which the planner
takes for a recall of 0.999.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import numpy.typing as npt
from bench_index import K, Truth, prepare, recall
from gallery_dataset import SHARD_FACES, truth_file, write_gallery
from gallery_vectors import GalleryVectors

import facepipe
from facepipe import ids
from facepipe.index_manifest import CURRENT, Manifest, manifest_key, read_manifest
from facepipe.index_settings import IndexSettings
from facepipe.shards import Dataset
from facepipe.store import open_store
from pipelines.index import build_index
from pipelines.index_build import changed
from pipelines.index_select import cut, look
from pipelines.index_shards import Making, make_shard

SHARDS = (1, 8, 64)
KINDS = ("flat", "ivf_sq8", "ivf_pqfs", "ivf_pqfs/4")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vectors", type=int, default=500_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=KINDS)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    made = GalleryVectors(args.vectors, args.dim, args.seed)
    truth = prepare(args.folder, made, args.queries)
    queries_QD = np.load(args.folder / "queries.npy")
    print(f"{args.vectors} vectors, {args.queries} queries in one call, one thread")
    for kind in args.kinds:
        built = _built(args.folder / "dataset", kind)
        _shards(args.folder, built, kind, queries_QD, args.repeats)
        if kind != "flat":
            _order(args.folder, made, built, kind, queries_QD, truth)


def _settings(kind: str) -> IndexSettings:
    """Return the settings that make the planner take these codes."""
    name, _, more = kind.partition("/")
    return IndexSettings.model_validate({"kind": name, "recall": 0.999 if more else 0.99})


def _built(dataset: Path, kind: str) -> Path:
    out = dataset.with_name(f"{dataset.name}-{kind.replace('/', '-')}")
    build_index(Dataset(open_store(str(dataset))), str(out), _settings(kind))
    return out


# -- shards ------------------------------------------------------------------------------


def _shards(
    folder: Path, built: Path, kind: str, queries_QD: npt.NDArray[np.float32], repeats: int
) -> None:
    _, manifest = read_manifest(open_store(str(built)))
    galleries = {}
    for count in SHARDS:
        out = folder / f"{built.name}-{count}-shards"
        _cut(folder / "dataset", built, manifest, count, out)
        galleries[len(read_manifest(open_store(str(out)))[1].shards)] = facepipe.open_index(
            out, threads=1
        )
    found: dict[int, Any] = {}
    spent: dict[int, list[float]] = {count: [] for count in galleries}
    for _ in range(repeats):
        for count, gallery in galleries.items():
            started = time.process_time()
            found[count] = gallery.search(queries_QD, K)
            spent[count].append(time.process_time() - started)
    one = statistics.median(spent[1])
    for count in galleries:
        same = all(np.array_equal(a, b) for a, b in zip(found[count], found[1], strict=True))
        rate = len(queries_QD) / statistics.median(spent[count])
        print(
            f"{kind:10} {count:3} shards: {'identical' if same else 'NOT THE SAME':12} "
            f"{rate:7.0f} queries a CPU second, {statistics.median(spent[count]) / one:.3f} of the "
            "CPU of one",
            flush=True,
        )


def _cut(folder: Path, built: Path, manifest: Manifest, count: int, out: Path) -> None:
    """Write an index of so many shards with the template of another one."""
    dataset, store = Dataset(open_store(str(folder))), open_store(str(out))
    shard_rows = -(-manifest.totals.indexed // (count * SHARD_FACES)) * SHARD_FACES
    if manifest.template is not None:
        store.put(manifest.template.key, open_store(str(built)).get(manifest.template.key))
    stretch = look(dataset, "kept", decided=False)
    shards = tuple(
        make_shard(
            store,
            dataset,
            Making(dim=manifest.embedding.dim, template=manifest.template, work=work),
            "cpu",
        )
        for work in cut(store, "0" * 64, stretch, shard_rows)
    )
    data = changed(manifest, shards=shards, shard_rows=shard_rows).to_json()
    version = ids.sha256_hex(data)
    store.put(manifest_key(version), data)
    store.put(CURRENT, f"{version}\n".encode())


# -- order -------------------------------------------------------------------------------


def _order(
    folder: Path,
    made: GalleryVectors,
    built: Path,
    kind: str,
    queries_QD: npt.NDArray[np.float32],
    truth: Truth,
) -> None:
    by_person = folder / "sorted"
    if not truth_file(by_person).exists():
        write_gallery(by_person, made, "sorted")
    sorted_index = _built(by_person, kind)
    nprobe = None
    for name, dataset, index in (
        ("shuffled", folder / "dataset", built),
        ("sorted", by_person, sorted_index),
    ):
        gallery = facepipe.open_index(index, threads=1)
        nprobe = nprobe or gallery.record.search.nprobe
        face_ids_QK = gallery.search(queries_QD, K, nprobe=nprobe)[1]
        rows_QK = _rows(face_ids_QK, dataset, made if name == "sorted" else None)
        measured = recall(rows_QK, truth)
        print(
            f"{kind:10} {name:9} nprobe {nprobe:5}: Rth {measured['rth']:.4f}, "
            f"id@1 {measured['id_at_1']:.4f}, R@10 {measured['recall_at_10']:.4f}",
            flush=True,
        )


def _rows(
    face_ids_QK: npt.NDArray[np.object_], dataset: Path, turned: GalleryVectors | None
) -> npt.NDArray[np.int64]:
    """Return face ids as rows of the shuffled vectors."""
    with np.load(truth_file(dataset)) as stored:
        names = stored["face_id"]
    place = np.arange(len(names))
    if turned is not None:
        place[turned.order()] = np.arange(len(names))
    row_of = {name.decode(): row for name, row in zip(names, place.tolist(), strict=True)}
    return np.array([[row_of.get(f, -1) for f in found] for found in face_ids_QK], np.int64)


if __name__ == "__main__":
    main()
