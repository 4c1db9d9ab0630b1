"""The neighbours' graph against a brute-force sort."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from facepipe import knn_graph as module
from facepipe.knn_graph import knn_graph
from facepipe.neighbors import unit_rows


def made(count: int, dim: int = 16, seed: int = 0) -> npt.NDArray[np.float16]:
    rng = np.random.default_rng(seed)
    return unit_rows(rng.standard_normal((count, dim))).astype(np.float16)


def brute_force(vectors: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
    unit = unit_rows(vectors)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    return cosine


@pytest.mark.parametrize("count", [1, 2, 7, 40, 101])
@pytest.mark.parametrize("k", [1, 6, 50])
def test_agrees_with_brute_force_over_blocks(
    monkeypatch: pytest.MonkeyPatch, count: int, k: int
) -> None:
    monkeypatch.setattr(module, "QUERY_ROWS", 16)
    monkeypatch.setattr(module, "BASE_ROWS", 32)
    vectors = made(count)
    graph = knn_graph(vectors, k)
    assert graph.rows_NK.shape == graph.cosine_NK.shape == (count, k)
    assert graph.rows_NK.dtype == np.int32 and graph.cosine_NK.dtype == np.float32
    assert graph.recall == 1.0
    there = min(k, count - 1)
    assert (graph.rows_NK[:, there:] == -1).all()
    assert (graph.cosine_NK[:, there:] == -np.inf).all()
    full = brute_force(vectors)
    expected = np.argsort(-full, axis=1, kind="stable")[:, :there]
    np.testing.assert_array_equal(graph.rows_NK[:, :there], expected)
    np.testing.assert_allclose(
        graph.cosine_NK[:, :there], np.take_along_axis(full, expected, axis=1), atol=1e-6
    )


def test_faces_that_are_the_same_come_by_row_and_never_oneself() -> None:
    vectors = np.repeat(made(1), 5, axis=0)
    graph = knn_graph(vectors, 4)
    for row in range(5):
        assert graph.rows_NK[row].tolist() == [r for r in range(5) if r != row]


def test_more_copies_than_neighbours_never_hold_oneself() -> None:
    graph = knn_graph(np.repeat(made(2), 30, axis=0), 4)
    assert (graph.rows_NK != np.arange(60)[:, None]).all()
    assert (graph.rows_NK >= 0).all()


def test_no_faces_have_no_neighbours() -> None:
    assert knn_graph(np.empty((0, 8), np.float16), 3).rows_NK.shape == (0, 3)


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    monkeypatch.setattr(module, "QUERY_ROWS", 64)
    vectors = made(500, 64)
    one, more = knn_graph(vectors, 9), knn_graph(vectors, 9, threads=threads)
    assert one.rows_NK.tobytes() == more.rows_NK.tobytes()
    assert one.cosine_NK.tobytes() == more.cosine_NK.tobytes()


def people(count: int) -> npt.NDArray[np.float16]:
    """Return faces in groups of ten, whose neighbours are in few cells."""
    rng = np.random.default_rng(1)
    centres = np.repeat(rng.standard_normal((count // 10, 32)), 10, axis=0)
    return unit_rows(centres + 0.3 * rng.standard_normal(centres.shape)).astype(np.float16)


@pytest.fixture
def in_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXACT_ROWS", 100)
    monkeypatch.setattr(module, "QUERY_ROWS", 64)
    monkeypatch.setattr(module, "BATCH_TASKS", 3)


@pytest.mark.usefixtures("in_cells")
@pytest.mark.parametrize("most", [1, 4, 200])
def test_in_cells_the_recall_is_what_it_says(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(module, "MOST_CELLS", most)
    vectors = people(1200)
    graph = knn_graph(vectors, 9)
    full = brute_force(vectors)
    expected = np.argsort(-full, axis=1, kind="stable")[:, :9]
    found = (graph.rows_NK[:, :, None] == expected[:, None, :]).any(axis=2)
    assert graph.recall == pytest.approx(found.mean(), abs=0.02)
    assert graph.recall >= (0.95 if most == 200 else 0.5)
    # What is found is right: others, each once, nearest first, with their cosines.
    there = graph.rows_NK >= 0
    assert (graph.rows_NK != np.arange(1200)[:, None]).all()
    assert all(
        len(set(r[t].tolist())) == t.sum() for r, t in zip(graph.rows_NK, there, strict=True)
    )
    assert (graph.cosine_NK[:, :-1] >= graph.cosine_NK[:, 1:]).all()
    cosine = np.take_along_axis(full, np.where(there, graph.rows_NK, 0), axis=1)
    np.testing.assert_allclose(graph.cosine_NK[there], cosine[there], atol=1e-6)


@pytest.mark.usefixtures("in_cells")
def test_in_cells_threads_do_not_change_a_bit() -> None:
    vectors = people(800)
    one, more = knn_graph(vectors, 5), knn_graph(vectors, 5, threads=4)
    assert one.rows_NK.tobytes() == more.rows_NK.tobytes()
    assert one.cosine_NK.tobytes() == more.cosine_NK.tobytes()
    assert one.recall == more.recall


def test_no_neighbours_cannot_be_asked_for() -> None:
    with pytest.raises(ValueError, match="k is 0"):
        knn_graph(made(3), 0)
