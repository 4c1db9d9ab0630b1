"""Groups joined: centres against plain means, and who is joined with whom."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from facepipe import cluster_merge as module
from facepipe.cluster_merge import Groups, linked, merge
from facepipe.cluster_model import PersonModel
from facepipe.knn_graph import KnnGraph, knn_graph
from facepipe.neighbors import unit_rows

Int64 = npt.NDArray[np.int64]
NONE = (np.empty(0, np.int64), np.empty(0, np.int64))
MODEL = PersonModel(
    stranger_mean=0.0, stranger_std=0.065, tail_degrees=20.0, alone_share=0.3, faces=100
)


def people(
    sizes: list[int], noise: float = 0.8, seed: int = 0
) -> tuple[npt.NDArray[np.float16], Int64]:
    """Return faces of people of these sizes, in mixed order, and whose they are."""
    rng = np.random.default_rng(seed)
    person = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    centres = unit_rows(rng.standard_normal((len(sizes), 256)))
    noises = rng.standard_normal((len(person), 256)) / 16
    return unit_rows(centres[person] + noise * noises).astype(np.float16), person


def partition(group: Int64) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(group == g).tolist()) for g in np.unique(group)}


def mean_direction(vectors: npt.NDArray[np.float16], rows: Int64) -> npt.NDArray[np.float64]:
    total = unit_rows(vectors[rows]).astype(np.float64).sum(axis=0)
    return total / np.linalg.norm(total)


def test_centres_are_the_directions_of_the_means_also_after_joins() -> None:
    vectors, person = people([5, 3, 1, 1, 2])
    groups = Groups(vectors, person)
    first = np.array([np.flatnonzero(person == p)[0] for p in range(5)])
    np.testing.assert_array_equal(groups.group_N, first[person])
    groups.join(first[[0, 2]], first[[1, 3]])
    joined = np.array([0, 0, 2, 2, 4])[person]
    names = first[[0, 2, 4]]
    assert groups.size_N[names].tolist() == [8, 2, 2]
    expected = [mean_direction(vectors, np.flatnonzero(joined == p)) for p in (0, 2, 4)]
    np.testing.assert_allclose(groups.centres(names), expected, atol=1e-6)
    cosine = groups.cosines(names[[0, 1]], names[[1, 2]])
    assert cosine == pytest.approx([expected[0] @ expected[1], expected[1] @ expected[2]], abs=1e-6)


def test_linked_groups_are_those_that_neighbours_are_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINK_ROWS", 2)
    rows = np.array([[1, 2], [0, -1], [0, 4], [-1, -1], [3, 2]], np.int32)
    graph = KnnGraph(rows_NK=rows, cosine_NK=np.zeros((5, 2), np.float32))
    a, b = linked(np.array([0, 0, 2, 3, 3]), graph)
    assert list(zip(a.tolist(), b.tolist(), strict=True)) == [(0, 2), (2, 3)]


def test_people_are_joined_and_strangers_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAIR_ROWS", 7)
    vectors, person = people([9, 6, 4, 2, 1, 1])
    groups = Groups(vectors, np.arange(len(person)))
    joins = merge(groups, knn_graph(vectors, 10), MODEL, NONE)
    assert partition(groups.group_N) == partition(person)
    assert joins == len(person) - 6
    assert groups.size_N.sum() == len(person)


def test_faces_that_are_to_stay_apart_do_also_over_others() -> None:
    vectors, person = people([6, 5])
    a, b = np.flatnonzero(person == 0)[:2]
    groups = Groups(vectors, np.arange(len(person)))
    merge(groups, knn_graph(vectors, 10), MODEL, (np.array([b]), np.array([a])))
    assert groups.group_N[a] != groups.group_N[b]
    assert len(np.unique(groups.group_N[person == 0])) == 2
    assert len(np.unique(groups.group_N[person == 1])) == 1


def test_a_chain_of_look_alikes_is_not_one_person() -> None:
    # Each of 40 faces has the cosine 0.64 to the next, 0.41 to the one after, 0.26, 0.17, ...
    axes = np.linalg.qr(np.random.default_rng(0).standard_normal((256, 40)))[0].T
    walk = axes[:1]
    for axis in axes[1:]:
        walk = np.concatenate([walk, 0.64 * walk[-1:] + np.sqrt(1 - 0.64**2) * axis[None]])
    vectors = walk.astype(np.float16)
    graph = knn_graph(vectors, 10)
    groups = Groups(vectors, np.arange(40))
    merge(groups, graph, MODEL, NONE)
    assert (graph.cosine_NK[:, 0] > 0.6).all()  # by a threshold of the same, all would be one
    assert np.bincount(groups.group_N).max() <= 10
