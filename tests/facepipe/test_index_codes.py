"""Codes of shards: faiss's own, whatever way they come in, and searched where they lie."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from facepipe.errors import CorruptData, UsageError
from facepipe.index_codes import BLOCK_ROWS, ShardCodes, list_layout, read_codes
from facepipe.index_plan import plan_index
from facepipe.index_template import (
    TrainedTemplate,
    describe_template,
    read_template,
    train_template,
)
from facepipe.list_file import read_sizes
from facepipe.nearest_lists import NearestLists

DIM = 16
FACTORIES = ["IVF8,SQ8", "IVF8,PQ4x4fs", "IVF16_HNSW32,PQ2x4fs"]
MANY = "IVF4096,PQ4x4fs"  # lists that are trained by codes of their centres
Half = NDArray[np.float16]


def units(count: int, seed: int = 0, dim: int = DIM) -> Half:
    raw = np.random.default_rng(seed).normal(size=(count, dim))
    return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float16)


@lru_cache
def template(factory: str, seed: int = 0, dim: int = DIM) -> TrainedTemplate:
    kind = "ivf_sq8" if "SQ8" in factory else "ivf_pqfs"
    plan = plan_index(1000, dim, memory_budget_bytes=None, recall=0.99, kind=kind)  # type: ignore[arg-type]
    nlist = int(factory[3:].split(",")[0].split("_")[0])
    plan = replace(plan, factory=factory, nlist=nlist)
    sample = units(max(800, 2 * nlist), seed=99, dim=dim)
    data = train_template(sample, plan, seed)
    return read_template(data, describe_template(data, plan, seed, len(sample)), dim)


def encoded(factory: str, vectors: Half, step: int = 1 << 30) -> bytes:
    stream = io.BytesIO()
    codes = ShardCodes(template(factory), len(vectors))
    for start in range(0, len(vectors), step):
        codes.add(vectors[start : start + step])
    file = codes.write(stream)
    data = stream.getvalue()
    assert (file.bytes, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    return data


def opened(folder: Path, factory: str, vectors: Half) -> faiss.IndexIVF:
    path = folder / "codes.ivf"
    path.write_bytes(encoded(factory, vectors))
    return read_codes(path, template(factory), len(vectors))


def alike(of: TrainedTemplate, vectors: Half, count: int) -> Half:
    """Return vectors that products of floats, which faiss takes, lead to the same list."""
    wide = vectors.astype(np.float32)
    same = of.quantizer.search(wide, 1)[1][:, 0] == NearestLists(of).assign(wide)
    assert same.mean() > 0.95
    return vectors[same][:count]


def by_faiss(factory: str, vectors: Half) -> faiss.IndexIVF:
    index = template(factory).empty_index()
    index.add(vectors.astype(np.float32))
    return index


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("count", [1, 31, 32, 33, 2000])
def test_the_lists_are_those_that_faiss_makes(tmp_path: Path, factory: str, count: int) -> None:
    vectors = alike(template(factory), units(2 * count + 10, seed=1), count)
    ours, theirs = opened(tmp_path, factory, vectors), by_faiss(factory, vectors)
    layout = list_layout(template(factory), count)
    mine, other = (faiss.downcast_InvertedLists(i.invlists) for i in (ours, theirs))
    for number in range(layout.lists):
        size = other.list_size(number)
        assert mine.list_size(number) == size
        if size:
            whole = -(-size // layout.block) * layout.block if layout.scanned else size
            for read, length in (("get_ids", size), ("get_codes", whole * layout.code_bytes)):
                one, two = (
                    faiss.rev_swig_ptr(getattr(lists, read)(number), length)
                    for lists in (mine, other)
                )
                np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("nprobe", [1, 3, 8])
def test_a_search_finds_what_faiss_finds(tmp_path: Path, factory: str, nprobe: int) -> None:
    vectors = alike(template(factory), units(3300, seed=2), 3000)
    queries = units(50, seed=3).astype(np.float32)
    ours, theirs = opened(tmp_path, factory, vectors), by_faiss(factory, vectors)
    ours.nprobe = theirs.nprobe = nprobe
    for one, other in zip(ours.search(queries, 20), theirs.search(queries, 20), strict=True):
        np.testing.assert_array_equal(one, other)
    even = faiss.IDSelectorBatch(np.arange(0, 3000, 2))
    params = faiss.IVFSearchParameters(nprobe=nprobe, sel=even)
    scores, rows = ours.search(queries, 5, params=params)
    assert (rows[rows >= 0] % 2 == 0).all()
    np.testing.assert_array_equal(scores, theirs.search(queries, 5, params=params)[0])


@pytest.mark.parametrize("factory", [*FACTORIES, MANY])
def test_how_vectors_come_in_does_not_change_a_byte(factory: str) -> None:
    vectors = units(BLOCK_ROWS + 4000, seed=4)
    whole = encoded(factory, vectors)
    for step in (7000, BLOCK_ROWS, BLOCK_ROWS - 1, BLOCK_ROWS + 1):
        assert encoded(factory, vectors, step) == whole
    small = units(300, seed=5)
    assert encoded(factory, small, 1) == encoded(factory, small, 77) == encoded(factory, small)


@pytest.mark.parametrize("factory", [*FACTORIES, MANY])
def test_a_code_does_not_depend_on_the_shard_it_is_in(factory: str) -> None:
    """Shards of any length and order: each face's list and code is that of one large shard."""
    vectors = units(5000, seed=6)
    one = ShardCodes(template(factory), len(vectors))
    one.add(vectors)
    one.write(io.BytesIO())
    order = np.random.default_rng(7).permutation(len(vectors))
    for part in np.split(order, [1, 2, 9, 30, 700, 701, 3000]):
        shard = ShardCodes(template(factory), len(part))
        shard.add(vectors[part])
        shard.write(io.BytesIO())
        np.testing.assert_array_equal(shard._lists_N, one._lists_N[part])
        np.testing.assert_array_equal(shard._codes_NC, one._codes_NC[part])


def test_of_many_lists_the_nearest_is_found_nearly_always() -> None:
    of, vectors = template(MANY), units(5000, seed=11)
    codes = ShardCodes(of, len(vectors))
    codes.add(vectors)
    codes.write(io.BytesIO())
    wide = vectors.astype(np.float32)
    scores = wide @ of.quantizer.reconstruct_n(0, 4096).T
    assert (codes._lists_N == scores.argmax(axis=1)).mean() > 0.95
    taken = np.take_along_axis(scores, codes._lists_N[:, None].astype(np.int64), axis=1)[:, 0]
    assert (scores.max(axis=1) - taken).max() < 0.1


@pytest.mark.parametrize("factory", FACTORIES)
def test_an_empty_shard_has_empty_lists(tmp_path: Path, factory: str) -> None:
    index = opened(tmp_path, factory, units(0))
    index.nprobe = 8
    _, rows = index.search(units(3).astype(np.float32), 4)
    assert (rows == -1).all()


def test_it_is_searched_where_it_lies_and_its_name_may_go(tmp_path: Path) -> None:
    vectors = units(500)
    index = opened(tmp_path, "IVF8,PQ4x4fs", vectors)
    lists = faiss.downcast_InvertedLists(index.invlists)
    assert isinstance(lists, faiss.OnDiskInvertedLists)
    assert (lists.read_only, lists.prefetch_nthread) == (True, 0)
    before = index.search(vectors.astype(np.float32), 3)
    (tmp_path / "codes.ivf").unlink()
    np.testing.assert_array_equal(before[1], index.search(vectors.astype(np.float32), 3)[1])


@pytest.mark.parametrize("dim", [7, 12, 20])
@pytest.mark.parametrize("factory", ["IVF4,SQ8", "IVF4,PQ{}x4fs"])
def test_dimensions_that_leave_gaps(tmp_path: Path, dim: int, factory: str) -> None:
    of = template(factory.format(dim), dim=dim)
    vectors = alike(of, units(800, dim=dim), 700)
    codes = ShardCodes(of, 700)
    codes.add(vectors)
    path = tmp_path / "codes"
    with path.open("wb") as stream:
        codes.write(stream)
    ours, theirs = read_codes(path, of, 700), of.empty_index()
    wide = vectors.astype(np.float32)
    theirs.add(wide)
    ours.nprobe = theirs.nprobe = 4
    np.testing.assert_array_equal(ours.search(wide, 5)[0], theirs.search(wide, 5)[0])


def test_what_is_not_the_announced_shard_is_refused() -> None:
    codes = ShardCodes(template("IVF8,SQ8"), 10)
    with pytest.raises(ValueError, match="is not float16 N x 16"):
        codes.add(units(3, dim=8))
    with pytest.raises(ValueError, match="is not float16 N x 16"):
        codes.add(units(3).astype(np.float32))  # type: ignore[arg-type]
    codes.add(units(9))
    with pytest.raises(ValueError, match="9 of 10 vectors"):
        codes.write(io.BytesIO())
    with pytest.raises(ValueError, match="more than the 10"):
        codes.add(units(2))


def test_vectors_without_a_nearest_list_are_refused() -> None:
    codes = ShardCodes(template("IVF8,SQ8"), 5)
    vectors = units(5)
    vectors[2] = np.nan
    codes.add(vectors)
    with pytest.raises(ValueError, match="only unit vectors"):
        codes.write(io.BytesIO())


@pytest.mark.skipif(hasattr(faiss, "StandardGpuResources"), reason="this faiss has GPUs")
def test_a_gpu_that_is_asked_for_and_absent_is_an_error() -> None:
    with pytest.raises(UsageError, match="sees no GPU"):
        ShardCodes(template("IVF8,SQ8"), 5, device="cuda")


# -- files that are not what was written -------------------------------------------------


@pytest.mark.parametrize("factory", FACTORIES)
def test_codes_of_another_template_are_refused(tmp_path: Path, factory: str) -> None:
    path = tmp_path / "codes"
    path.write_bytes(encoded(factory, units(100)))
    assert read_codes(path, template(factory), 100).ntotal == 100
    for other in [*FACTORIES, "IVF4,PQ4x4fs"]:
        if other != factory:
            with pytest.raises(CorruptData, match="not a list file of this template"):
                read_codes(path, template(other), 100)
    with pytest.raises(CorruptData, match="not a list file of this template"):
        read_codes(path, template(factory, seed=1), 100)
    for rows in (99, 101, 0):
        with pytest.raises(CorruptData, match="and shard"):
            read_codes(path, template(factory), rows)


@pytest.mark.parametrize("factory", FACTORIES)
def test_bits_flipped_anywhere_do_no_harm(tmp_path: Path, factory: str) -> None:
    """Refused, or a code that scores otherwise: rows that come out are rows of the shard."""
    path, count = tmp_path / "codes", 400
    data = encoded(factory, units(count))
    queries = units(4, seed=8).astype(np.float32)
    rng = np.random.default_rng(9)
    places = [*range(128), *rng.integers(128, len(data), 200).tolist()]
    refused = 0
    for place in places:
        flipped = bytearray(data)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            index = read_codes(path, template(factory), count)
        except CorruptData:
            refused += 1
            continue
        index.nprobe = index.nlist
        _, rows = index.search(queries, 50)
        assert ((rows >= 0) & (rows < count)).all()
    assert refused >= 56  # every byte of the header that is not filling


@pytest.mark.parametrize("factory", FACTORIES)
def test_every_truncation_is_refused(tmp_path: Path, factory: str) -> None:
    path = tmp_path / "codes"
    data = encoded(factory, units(400))
    for length in [*range(0, 200, 9), *range(200, len(data), 199), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(CorruptData):
            read_codes(path, template(factory), 400)


def test_indexes_of_faiss_are_no_list_files(tmp_path: Path) -> None:
    vectors = units(300).astype(np.float32)
    path = tmp_path / "codes"
    for factory in ("Flat", "IVF8,Flat", "IVF8,PQ4x4fs", "HNSW8", "IVF8,SQ8"):
        index = faiss.index_factory(DIM, factory, faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            index.train(vectors)
        index.add(vectors)
        faiss.write_index(index, str(path))
        with pytest.raises(CorruptData, match="not a list file"):
            read_codes(path, template("IVF8,PQ4x4fs"), 300)


def test_ids_may_go_unread(tmp_path: Path) -> None:
    """What costs a pass over the file can wait until the ids come up."""
    factory, path = "IVF8,SQ8", tmp_path / "codes"
    data = bytearray(encoded(factory, units(50)))
    path.write_bytes(data)
    layout = list_layout(template(factory), 50)
    sizes = read_sizes(path, layout)
    first = int(np.flatnonzero(sizes)[0])
    at = int(layout.offsets(sizes)[first] + layout.capacities(sizes)[first] * layout.code_bytes)
    data[at : at + 8] = (10**12).to_bytes(8, "little")
    path.write_bytes(data)
    with pytest.raises(CorruptData, match="ids are not the rows"):
        read_codes(path, template(factory), 50)
    assert read_codes(path, template(factory), 50, check_ids=False).ntotal == 50


def test_the_same_bytes_in_another_process_with_more_threads() -> None:
    """What OpenMP and BLAS would like to do with the cores has no say."""
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "import hashlib\n"
        "from tests.facepipe.test_index_codes import encoded, units\n"
        "print(hashlib.sha256(encoded('IVF8,PQ4x4fs', units(5000))).hexdigest())"
    )
    root = Path(__file__).parents[2]
    many = {**os.environ, "OMP_NUM_THREADS": "4", "OPENBLAS_NUM_THREADS": "4"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=many, capture_output=True, text=True, check=True
    )
    here = hashlib.sha256(encoded("IVF8,PQ4x4fs", units(5000))).hexdigest()
    assert done.stdout.strip() == here
