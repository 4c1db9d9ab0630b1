"""Modes of labels: the dominant identity, those after it, and near copies."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from facepipe import centres, modes
from facepipe.centres import LabelledFaces
from facepipe.label_cosines import Floors
from facepipe.modes import dominant_centre, dominant_weights, find_modes, near_copies
from facepipe.neighbors import unit_rows

Array = npt.NDArray[np.float64]


def people(
    sizes: list[int], seed: int = 0, dim: int = 48, cosine: float = 0.75
) -> tuple[Array, npt.NDArray[np.int64]]:
    """Return unit vectors around a random centre for each person, and whose they are."""
    rng = np.random.default_rng(seed)
    centre = unit_rows(rng.normal(size=(len(sizes), dim)))
    person = np.repeat(np.arange(len(sizes)), sizes)
    away = rng.normal(size=(len(person), dim))
    away -= (away * centre[person]).sum(axis=1, keepdims=True) * centre[person]
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    return cosine * centre[person] + np.sqrt(1 - cosine**2) * away, person


def labelled(vectors: Array, label: npt.NDArray[np.int64], labels: int) -> LabelledFaces:
    """Return faces whose vectors lie in another order, in float16."""
    order = np.random.default_rng(9).permutation(len(label))
    stored = np.empty_like(vectors, dtype=np.float16)
    stored[order] = vectors
    return LabelledFaces(label_N=label, vector_N=order, vectors_ND=stored, labels=labels)


FLOORS = Floors(floor_M=np.array([0.2588]))


@pytest.mark.parametrize(("clean", "strangers"), [(6, 0), (5, 5), (5, 12), (12, 40)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_dominant_identity_is_found_among_more_strangers(
    clean: int, strangers: int, dtype: type
) -> None:
    vectors, person = people([clean] + [1] * strangers, seed=clean, dim=256)
    order = np.random.default_rng(2).permutation(len(person))
    centre, weight = dominant_centre(vectors[order].astype(dtype))
    mean = vectors[person == 0].mean(axis=0)
    assert float(centre @ mean) / np.linalg.norm(mean) > 0.995
    assert ((weight > 0) == (person[order] == 0)).all()
    assert centre.shape == (256,) and np.linalg.norm(centre) == pytest.approx(1, abs=1e-6)


def test_the_larger_of_two_people_wins_whatever_the_order() -> None:
    vectors, person = people([6, 8], seed=4, dim=256)
    for order in (np.arange(14), np.arange(14)[::-1]):
        _, weight = dominant_centre(vectors[order].astype(np.float32))
        assert ((weight > 0) == (person[order] == 1)).all()


def test_a_look_alike_hardly_moves_the_centre() -> None:
    vectors, _ = people([10], dim=256)
    mean = vectors.mean(axis=0) / np.linalg.norm(vectors.mean(axis=0))
    away = np.random.default_rng(8).normal(size=256)
    away -= (away @ mean) * mean
    alike = 0.35 * mean + np.sqrt(1 - 0.35**2) * away / np.linalg.norm(away)
    _, weight = dominant_centre(np.vstack([vectors, alike]).astype(np.float32))
    assert 0 < weight[-1] < weight[:10].mean() / 3


def test_one_face_is_its_own_centre_and_two_that_disagree_have_no_weight() -> None:
    vectors, _ = people([1, 1], dim=256)
    centre, weight = dominant_centre(vectors[:1].astype(np.float32))
    assert weight.tolist() == [1.0]
    np.testing.assert_allclose(centre, vectors[0], atol=1e-6)
    centre, weight = dominant_centre(vectors.astype(np.float32))
    assert weight.tolist() == [0.0, 0.0] and not centre.any()


def test_a_label_larger_than_the_seed_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modes, "SEED_FACES", 16)
    monkeypatch.setattr(centres, "BLOCK_ROWS", 32)
    monkeypatch.setattr(centres, "PART_ROWS", 64)
    vectors, person = people([150] + [1] * 50, dim=256)
    label = np.zeros(200, np.int64)
    weight = dominant_weights(labelled(vectors, label, 1), FLOORS)
    assert ((weight > 0) == (person == 0)).all()


@pytest.mark.parametrize("sizes", [[9, 6, 3], [6, 9, 2, 4]])
def test_modes_are_the_people_of_a_label_by_size(sizes: list[int]) -> None:
    vectors, person = people([*sizes, 1, 1], seed=len(sizes), dim=256)
    order = np.random.default_rng(3).permutation(len(person))
    found = find_modes(labelled(vectors[order], np.zeros(len(order), np.int64), 1), FLOORS)
    assert found.label_M.tolist() == [0] * len(sizes)
    for mode, who in enumerate(np.argsort(sizes)[::-1]):
        assert ((found.mode_N == mode) == (person[order] == who)).all()
    assert ((found.mode_N < 0) == (person[order] >= len(sizes))).all()
    assert ((found.weight_N > 0) == (found.mode_N >= 0)).all()


def test_modes_do_not_depend_on_other_labels_or_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    sizes = rng.integers(1, 12, 60).tolist()
    vectors, person = people(sizes, dim=128)
    label = np.sort(person // 3)
    whole = find_modes(labelled(vectors, label, 20), FLOORS)
    monkeypatch.setattr(centres, "BLOCK_ROWS", 40)
    monkeypatch.setattr(centres, "PART_ROWS", 40)
    monkeypatch.setattr(modes, "GRAM_FACES", 16)
    parts = find_modes(labelled(vectors, label, 20), FLOORS)
    assert (whole.mode_N == parts.mode_N).all() and (whole.label_M == parts.label_M).all()
    for one in range(20):
        rows = np.flatnonzero(label == one)
        alone = find_modes(labelled(vectors[rows], np.zeros(len(rows), np.int64), 1), FLOORS)
        pairs = set(zip(whole.mode_N[rows].tolist(), alone.mode_N.tolist(), strict=True))
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def test_floors_follow_what_the_centre_is_worth() -> None:
    floors = Floors(floor_M=np.array([0.2, 0.4, 0.5]))
    assert floors.pair == 0.2
    np.testing.assert_allclose(floors.of(np.array([1.0, 1.5, 2.0, 9.0])), [0.2, 0.3, 0.4, 0.5])


@pytest.mark.parametrize("stretch", [3, 2048])
def test_near_copies_are_stars_around_the_first(
    monkeypatch: pytest.MonkeyPatch, stretch: int
) -> None:
    """0, 1 and 3 nearly one picture; 4 within reach of 3 but not of 0; another label's copy."""
    angle = np.deg2rad([0.0, 5.0, 90.0, 12.0, 24.0, 0.0])
    vectors = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    faces = LabelledFaces(
        label_N=np.array([0, 0, 0, 0, 0, 1]),
        vector_N=np.arange(6),
        vectors_ND=vectors.astype(np.float16),
        labels=2,
    )
    monkeypatch.setattr(modes, "SEED_FACES", stretch)
    copies = near_copies(faces).tolist()
    assert copies == ([0, 0, 2, 0, 4, 5] if stretch > 5 else [0, 0, 2, 3, 3, 5])
    cosine = vectors @ vectors.T
    assert all(cosine[row, copy] >= 0.95 for row, copy in enumerate(copies))


def test_two_copies_do_not_agree_with_each_other() -> None:
    """Of three faces of a label, two the same picture and none alike: no dominant identity."""
    vectors, _ = people([1, 1], dim=256)
    label = np.zeros(3, np.int64)
    faces = labelled(np.vstack([vectors, vectors[:1]]), label, 1)
    first = np.flatnonzero(near_copies(faces) == np.arange(3))
    assert len(first) == 2
    assert (find_modes(modes.subset(faces, first), FLOORS).mode_N < 0).all()
