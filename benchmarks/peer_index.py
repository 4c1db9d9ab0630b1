"""The contenders of bench_index.py: facepipe and its peers, each a process that is asked by line.

    python benchmarks/peer_index.py NAME FOLDER

FOLDER holds vectors.npy (N, D) float16 and queries.npy (Q, D) float32. The process builds, or
opens what an earlier run has left in FOLDER, says what that took as a line of JSON, and then
answers each line "SETTING K" by searching all queries in one call: found-NAME.npy (Q, K) int64
rows of the vectors, and the CPU seconds of the search alone as a line of JSON. Start it with
OMP_NUM_THREADS=1 and OPENBLAS_NUM_THREADS=1, as bench_index.py does.

Not part of the product. usearch and hnswlib are under the Apache licence; autofaiss is MIT.
"""

from __future__ import annotations

import json
import os
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

ADD_ROWS = 65536
IVF_LISTS = 2048  # about 3 sqrt N at 500,000
TRAIN_A_LIST = 64
HNSW_LINKS, HNSW_BUILD = 32, 40  # faiss's default effort
HNSWLIB_LINKS, HNSWLIB_BUILD = 16, 200  # hnswlib's own defaults


class Contender(ABC):
    """An index, what its search can be set to (from fast to slow), and where it is kept."""

    settings: tuple[int, ...] = (0,)

    def __init__(self, folder: Path) -> None:
        """Remember where the vectors are."""
        self.folder = folder
        self.vectors_ND: Array = np.load(folder / "vectors.npy", mmap_mode="r")
        self.dim = self.vectors_ND.shape[1]
        self.file = folder / f"{type(self).__name__.strip('_')}.index"

    def blocks(self) -> Any:
        """Yield the vectors as float32, some at a time."""
        for start in range(0, len(self.vectors_ND), ADD_ROWS):
            yield start, self.vectors_ND[start : start + ADD_ROWS].astype(np.float32)

    @abstractmethod
    def build(self) -> None:
        """Build, and leave the index in its file."""

    @abstractmethod
    def open(self) -> dict[str, float]:
        """Open the file; return its bytes and what else is worth saying."""

    @abstractmethod
    def search(self, queries_QD: Array, setting: int, k: int) -> Array:
        """Return rows (Q, K)."""


class _Faiss(Contender):
    factory = "Flat"
    parameter = ""

    def build(self) -> None:
        faiss = _faiss()
        index = faiss.index_factory(self.dim, self.factory, faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            rng = np.random.default_rng(0)
            count = min(len(self.vectors_ND), TRAIN_A_LIST * IVF_LISTS)
            rows = np.sort(rng.permutation(len(self.vectors_ND))[:count])
            index.train(self.vectors_ND[rows].astype(np.float32))
        if hasattr(index, "hnsw"):
            index.hnsw.efConstruction = HNSW_BUILD
        for _, block in self.blocks():
            index.add(block)
        faiss.write_index(index, str(self.file))

    def open(self) -> dict[str, float]:
        self.index = _faiss().read_index(str(self.file))
        return {"bytes": self.file.stat().st_size}

    def search(self, queries_QD: Array, setting: int, k: int) -> Array:
        if self.parameter:
            _faiss().ParameterSpace().set_index_parameter(self.index, self.parameter, setting)
        return np.asarray(self.index.search(queries_QD, k)[1])


class _FaissFlat(_Faiss):
    """Exact: a matrix product and a heap."""


class _FaissIvfFlat(_Faiss):
    """An inverted file of whole vectors."""

    factory, parameter = f"IVF{IVF_LISTS},Flat", "nprobe"
    settings = (16, 32, 64, 128, 256, 512, 1024, 2048)


class _FaissHnsw(_Faiss):
    """A graph of whole vectors."""

    factory, parameter = f"HNSW{HNSW_LINKS},Flat", "efSearch"
    settings = (16, 32, 64, 128, 256, 512, 1024)


class _Usearch(Contender):
    """usearch: a graph of vectors of one byte a dimension, its defaults otherwise."""

    kind = "i8"
    settings = (64, 128, 256, 512, 1024)

    def _index(self) -> Any:
        from usearch.index import Index

        return Index(ndim=self.dim, metric="cos", dtype=self.kind)

    def build(self) -> None:
        index = self._index()
        for start, block in self.blocks():
            index.add(np.arange(start, start + len(block)), block, threads=1)
        index.save(str(self.file))

    def open(self) -> dict[str, float]:
        self.index = self._index()
        self.index.load(str(self.file))
        return {"bytes": self.file.stat().st_size}

    def search(self, queries_QD: Array, setting: int, k: int) -> Array:
        self.index.expansion_search = setting
        return np.asarray(self.index.search(queries_QD, k, threads=1).keys).astype(np.int64)


class _UsearchF16(_Usearch):
    """usearch with float16."""

    kind = "f16"


class _Hnswlib(Contender):
    """hnswlib, its defaults."""

    settings = (16, 32, 64, 128, 256, 512, 1024)

    def _index(self) -> Any:
        import hnswlib

        index = hnswlib.Index(space="ip", dim=self.dim)
        index.set_num_threads(1)
        return index

    def build(self) -> None:
        index = self._index()
        index.init_index(len(self.vectors_ND), ef_construction=HNSWLIB_BUILD, M=HNSWLIB_LINKS)
        for start, block in self.blocks():
            index.add_items(block, np.arange(start, start + len(block)), num_threads=1)
        index.save_index(str(self.file))

    def open(self) -> dict[str, float]:
        self.index = self._index()
        self.index.load_index(str(self.file))
        return {"bytes": self.file.stat().st_size}

    def search(self, queries_QD: Array, setting: int, k: int) -> Array:
        self.index.set_ef(max(setting, k))
        return np.asarray(self.index.knn_query(queries_QD, k, num_threads=1)[0]).astype(np.int64)


class _Autofaiss(_Faiss):
    """autofaiss, asked for an index of a twenty-fourth of the memory."""

    settings = (0,)

    def build(self) -> None:
        from autofaiss import build_index

        build_index(
            self.vectors_ND.astype(np.float32),
            index_path=str(self.file),
            index_infos_path=str(self.file.with_suffix(".json")),
            metric_type="ip",
            max_index_memory_usage=f"{len(self.vectors_ND) * self.dim * 4 // 24}B",
            nb_cores=1,
        )


class _Facepipe(Contender):
    """The product: the dataset of the folder, through build_index and open_index."""

    kind = "ivf_pqfs"
    recall = 0.99

    def build(self) -> None:
        from facepipe.index_settings import IndexSettings
        from facepipe.shards import open_dataset
        from pipelines.index import build_index

        dataset = open_dataset(str(self.folder / "dataset"))
        settings = IndexSettings.model_validate({"kind": self.kind, "recall": self.recall})
        build_index(dataset, str(self.file), settings)

    def open(self) -> dict[str, float]:
        import facepipe

        self.index = facepipe.open_index(self.file, threads=1)
        with np.load(self.folder / "dataset.truth.npz") as truth:
            self.row_of = {name.decode(): row for row, name in enumerate(truth["face_id"])}
        sizes = {path: path.stat().st_size for path in self.file.rglob("*") if path.is_file()}
        beside = (".f16", ".parquet", ".json")
        codes = sum(size for path, size in sizes.items() if path.suffix not in beside)
        exact = sum(size for path, size in sizes.items() if path.suffix == ".f16")
        record = self.index.record
        return {
            "bytes": exact if record.kind == "flat" else codes,
            "disk_bytes": sum(sizes.values()),
            "nprobe": record.search.nprobe,
            "candidates": record.search.candidates,
        }

    def search(self, queries_QD: Array, setting: int, k: int) -> Array:
        return np.asarray(self.index.search(queries_QD, k)[1])

    def rows(self, found_QK: Array) -> Array:
        """Return face ids as rows; not part of the search's time."""
        rows = [self.row_of.get(name, -1) for name in found_QK.ravel()]
        return np.array(rows, np.int64).reshape(found_QK.shape)


class _FacepipeFlat(_Facepipe):
    """Exact, from the float16 store alone."""

    kind = "flat"


class _FacepipeClose(_Facepipe):
    """With the larger codes, for those who want nearly every match."""

    recall = 0.999


NAMED: dict[str, type[Contender]] = {
    "facepipe": _Facepipe,
    "facepipe-0.999": _FacepipeClose,
    "facepipe-flat": _FacepipeFlat,
    "faiss-Flat": _FaissFlat,
    "faiss-IVF,Flat": _FaissIvfFlat,
    "faiss-HNSW": _FaissHnsw,
    "usearch-i8": _Usearch,
    "usearch-f16": _UsearchF16,
    "hnswlib": _Hnswlib,
    "autofaiss": _Autofaiss,
}


def _faiss() -> Any:
    import faiss

    faiss.omp_set_num_threads(1)
    return faiss


def main() -> None:
    """Build or open, then answer."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is not an answer
    contender = NAMED[name](folder)
    built = contender.file.with_suffix(".built.json")
    if not built.exists():
        started = time.process_time()
        contender.build()
        built.write_text(json.dumps({"build_cpu_s": time.process_time() - started}))
    said = {**json.loads(built.read_text()), **contender.open(), "settings": contender.settings}
    print(json.dumps(said), file=answers)
    queries_QD = np.load(folder / "queries.npy")
    for line in sys.stdin:
        setting, k = (int(word) for word in line.split())
        started = time.process_time()
        found_QK = contender.search(queries_QD, setting, k)
        cpu_s = time.process_time() - started
        rows_QK = contender.rows(found_QK) if isinstance(contender, _Facepipe) else found_QK
        np.save(folder / f"found-{name}.npy", rows_QK)
        print(json.dumps({"cpu_s": cpu_s}), file=answers)


if __name__ == "__main__":
    main()
