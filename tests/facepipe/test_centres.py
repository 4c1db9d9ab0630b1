"""Centres against the same done face by face, label by label."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from facepipe import centres
from facepipe.centres import (
    LabelledFaces,
    dominant_centre,
    dominant_weights,
    face_impostors,
    leave_one_out,
)
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


@pytest.mark.parametrize(("block", "part"), [(4, 8), (7, 7), (16384, 65536)])
def test_leave_one_out_is_the_mean_without_the_face(
    monkeypatch: pytest.MonkeyPatch, block: int, part: int
) -> None:
    monkeypatch.setattr(centres, "BLOCK_ROWS", block)
    monkeypatch.setattr(centres, "PART_ROWS", part)
    vectors, label = people([1, 2, 9, 20, 0, 3])
    faces = labelled(vectors, label, 6)
    weight = np.random.default_rng(1).choice([0.0, 0.05, 0.4, 1.0], len(label))
    cosine, others, _ = leave_one_out(faces, weight)
    exact = unit_rows(vectors.astype(np.float16)).astype(np.float64)
    for row in range(len(label)):
        rest = (label == label[row]) & (np.arange(len(label)) != row)
        w = weight[rest]
        if not w.any():
            assert (cosine[row], others[row]) == (0, 0)
            continue
        mean = w @ exact[rest]
        assert cosine[row] == pytest.approx(exact[row] @ mean / np.linalg.norm(mean), abs=2e-5)
        assert others[row] == pytest.approx(w.sum() ** 2 / (w**2).sum(), rel=1e-5)
    some = np.array([0, 2, 5])
    for person, centre in zip(some, faces.centres(weight, some), strict=True):
        total = weight[label == person] @ exact[label == person]
        np.testing.assert_allclose(centre, unit_rows(total[None])[0], atol=1e-5)


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
    monkeypatch.setattr(centres, "SEED_FACES", 16)
    monkeypatch.setattr(centres, "BLOCK_ROWS", 32)
    monkeypatch.setattr(centres, "PART_ROWS", 64)
    vectors, person = people([150] + [1] * 50, dim=256)
    label = np.zeros(200, np.int64)
    weight = dominant_weights(labelled(vectors, label, 1), 0.2588)
    assert ((weight > 0) == (person == 0)).all()


def test_impostors_are_measured_between_labels_only() -> None:
    vectors, label = people([8] * 60, dim=64)
    faces = labelled(vectors, label, 60)
    cosine = vectors @ vectors.T
    foreign = cosine[label[:, None] != label[None, :]]
    measured = face_impostors(faces)
    assert measured.mean == pytest.approx(np.median(foreign), abs=0.01)
    assert measured.std == pytest.approx(foreign.std(), rel=0.05)
    to_centres = leave_one_out(faces, np.ones(len(label)))[2]
    assert abs(to_centres.mean) < 0.02
    assert dict(to_centres.quantiles)[0.999] < 0.6  # its own centre would be at 0.78


@pytest.mark.parametrize(("block", "part"), [(4, 8), (16, 16), (16384, 65536)])
@pytest.mark.parametrize("labels", [2, 8, 40])
def test_every_face_meets_the_centres_of_the_labels_after_its_own(
    monkeypatch: pytest.MonkeyPatch, block: int, part: int, labels: int
) -> None:
    monkeypatch.setattr(centres, "BLOCK_ROWS", block)
    monkeypatch.setattr(centres, "PART_ROWS", part)
    sizes = np.random.default_rng(labels).integers(0, 9, labels).tolist()
    vectors, label = people(sizes, seed=labels)
    exact = unit_rows(vectors.astype(np.float16)).astype(np.float64)
    weight = np.where(label % 5 == 1, 0.0, 1.0)  # some labels have no centre
    centre = {
        person: exact[label == person].sum(axis=0)
        for person in range(labels)
        if weight[label == person].any()
    }
    expected = [
        exact[row] @ centre[other] / np.linalg.norm(centre[other])
        for stride in {s % labels for s in (1, 7, 31)} - {0}
        for row in range(len(label))
        if (other := (label[row] + stride) % labels) in centre
    ]
    measured = leave_one_out(labelled(vectors, label, labels), weight)[2]
    shares, cosines = zip(*measured.quantiles, strict=True)
    np.testing.assert_allclose(cosines, np.quantile(expected, shares), atol=2e-5)


def test_a_few_labels_lean_on_what_is_known() -> None:
    vectors, person = people([40], dim=512)
    halves = np.repeat([0, 1], 20)  # one person under two labels: genuine cosines only
    measured = face_impostors(labelled(vectors, halves, 2))
    assert abs(measured.mean) < 0.06 and measured.std == pytest.approx(0.067, abs=0.01)
    alone = leave_one_out(labelled(vectors, person, 1), np.ones(40))[2]
    assert alone.quantiles == () and alone.mean == pytest.approx(0.02)


def test_a_label_without_faces_has_an_empty_centre() -> None:
    vectors, label = people([3, 0, 2])
    found = labelled(vectors, label, 3).centres(np.ones(5), np.arange(3))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), [1, 0, 1], atol=1e-6)


def test_no_faces_at_all() -> None:
    faces = LabelledFaces(
        label_N=np.empty(0, np.int64),
        vector_N=np.empty(0, np.int64),
        vectors_ND=np.empty((0, 8), np.float16),
        labels=0,
    )
    cosine, others, impostors = leave_one_out(faces, np.empty(0))
    assert (len(cosine), len(others), impostors.quantiles) == (0, 0, ())
    assert face_impostors(faces).quantiles == ()
