"""The centres of lists: stored as 8 bits, found by 4, and graphs that lead nowhere else."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from facepipe.errors import UsageError
from facepipe.list_centres import (
    coded_centres,
    copied_centres,
    graph_is_sound,
    on_gpu,
    shortlisting,
)

DIM = 16


def units(count: int, seed: int = 0, dim: int = DIM) -> NDArray[np.float32]:
    raw = np.random.default_rng(seed).normal(size=(count, dim))
    unit: NDArray[np.float32] = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(
        np.float32
    )
    return unit


def test_centres_keep_all_but_a_255th_of_their_range() -> None:
    centres = units(200)
    index = coded_centres(centres)
    ranges = centres.max(axis=0) - centres.min(axis=0)
    found = index.reconstruct_n(0, 200)
    assert (np.abs(found - centres) <= ranges / 255 + 1e-6).all()
    assert index.codes.size() == 200 * DIM


def test_a_copy_of_centres_is_the_same_and_its_own() -> None:
    index = coded_centres(units(50))
    copy = copied_centres(index, DIM)
    data = faiss.serialize_index(index).tobytes()
    del index
    assert faiss.serialize_index(copy).tobytes() == data


@pytest.mark.parametrize("kind", ["QT_fp16", "QT_4bit", "QT_8bit_uniform", "QT_8bit_direct"])
def test_other_codes_are_no_centres(kind: str) -> None:
    index = faiss.IndexScalarQuantizer(DIM, getattr(faiss.ScalarQuantizer, kind))
    index.train(units(50))
    index.add(units(50))
    assert copied_centres(index, DIM) is None


def test_the_nearest_is_on_the_shortlist_nearly_always() -> None:
    centres, vectors = units(4096, dim=64), units(2000, seed=1, dim=64)
    flat = faiss.IndexFlatIP(64)
    flat.add(centres)
    scores, lists = shortlisting(centres, flat).search(vectors, 1)
    exact = vectors @ centres.T
    assert (lists[:, 0] == exact.argmax(axis=1)).mean() > 0.95
    taken = np.take_along_axis(exact, lists, axis=1)
    np.testing.assert_allclose(scores, taken, atol=1e-5)  # of the centre, not of its code


def test_what_is_found_does_not_depend_on_who_else_looks() -> None:
    centres, vectors = units(4096), units(300, seed=2)
    flat = faiss.IndexFlatIP(DIM)
    flat.add(centres)
    index = shortlisting(centres, flat)
    _, together = index.search(vectors, 1)
    alone = np.concatenate([index.search(vectors[i : i + 1], 1)[1] for i in range(300)])
    np.testing.assert_array_equal(together, alone)


def test_an_empty_one_takes_centres_as_they_change() -> None:
    """As k-means needs it: reset, add the centres of the next round."""
    index = shortlisting(units(500), faiss.IndexFlatIP(DIM))
    for seed in (1, 2):
        index.reset()
        index.add(units(100, seed=seed))
        assert (index.search(units(100, seed=seed), 1)[1][:, 0] == np.arange(100)).mean() > 0.95


@pytest.mark.skipif(hasattr(faiss, "StandardGpuResources"), reason="this faiss has GPUs")
def test_where_there_is_no_gpu_the_remedy_is_named() -> None:
    with pytest.raises(UsageError, match=r"install faiss-gpu .* index.device=cpu"):
        on_gpu(faiss.IndexFlatIP(DIM))


# -- graphs ------------------------------------------------------------------------------


def graph() -> faiss.IndexHNSWFlat:
    index = faiss.IndexHNSWFlat(DIM, 4, faiss.METRIC_INNER_PRODUCT)
    index.add(units(300))
    return index


def test_a_graph_that_faiss_made_is_sound() -> None:
    index = graph()
    assert index.hnsw.max_level >= 2
    assert graph_is_sound(index.hnsw, 300)
    assert not graph_is_sound(index.hnsw, 299)


@pytest.mark.parametrize("link", [300, -2, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("place", [0, -1, 1000])
def test_a_link_out_of_the_graph_is_seen(link: int, place: int) -> None:
    index = graph()
    links = faiss.vector_to_array(index.hnsw.neighbors)
    links[place] = link
    faiss.copy_array_to_vector(links, index.hnsw.neighbors)
    assert not graph_is_sound(index.hnsw, 300)


def test_a_link_to_a_centre_that_is_not_on_the_floor_is_seen() -> None:
    index = graph()
    levels = faiss.vector_to_array(index.hnsw.levels)
    offsets = faiss.vector_to_array(index.hnsw.offsets)
    links = faiss.vector_to_array(index.hnsw.neighbors)
    high = int(np.flatnonzero(levels > 1)[0])
    low = int(np.flatnonzero(levels == 1)[0])
    links[int(offsets[high]) + 8] = low  # 8 links of the ground floor come first
    faiss.copy_array_to_vector(links, index.hnsw.neighbors)
    assert not graph_is_sound(index.hnsw, 300)


@pytest.mark.parametrize("entry", [-1, 300])
def test_an_entry_out_of_the_graph_is_seen(entry: int) -> None:
    index = graph()
    index.hnsw.entry_point = entry
    assert not graph_is_sound(index.hnsw, 300)


@pytest.mark.parametrize("array", ["levels", "offsets", "cum_nneighbor_per_level"])
@pytest.mark.parametrize("value", [0, -1, 2**30])
def test_a_wrong_floor_is_seen(array: str, value: int) -> None:
    index = graph()
    values = faiss.vector_to_array(getattr(index.hnsw, array)).copy()
    values[1] = np.array(value).astype(values.dtype)
    faiss.copy_array_to_vector(values, getattr(index.hnsw, array))
    assert not graph_is_sound(index.hnsw, 300)
