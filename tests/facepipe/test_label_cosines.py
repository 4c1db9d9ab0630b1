"""Modes from cosines against the same by vectors, label by label."""

from __future__ import annotations

import numpy as np
import pytest

from facepipe import label_cosines as module
from facepipe.centres import LabelledFaces
from facepipe.label_cosines import Floors, label_cosines, modes_of
from facepipe.modes import dominant_weights
from facepipe.neighbors import unit_rows

FLOORS = Floors(floor_M=np.array([0.2, 0.3, 0.35]))


def labelled(sizes: list[int], seed: int = 0, dim: int = 32) -> LabelledFaces:
    """Return labels of faces of two people each, and some of nobody."""
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(len(sizes)), sizes)
    person = 2 * label + (rng.random(len(label)) < 0.3)
    centre = unit_rows(rng.standard_normal((2 * len(sizes), dim)))
    away = unit_rows(rng.standard_normal((len(label), dim)))
    share = np.where(rng.random(len(label)) < 0.2, 0.0, 1.0)[:, None]
    return LabelledFaces(
        label_N=label,
        vector_N=np.arange(len(label)),
        vectors_ND=unit_rows(share * centre[person] + 0.7 * away),
        labels=len(sizes),
        unit=True,
    )


def test_every_label_is_once_in_a_group_with_its_cosines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROUP_COSINES", 300)
    sizes = [1, 2, 3, 17, 9, 9, 9, 33, 2, 0, 40, 12]
    faces = labelled(sizes)
    seen = []
    for group in label_cosines(faces, most=33):
        assert group.rows_Bn.size**2 / len(group.rows_Bn) <= max(300, group.rows_Bn.shape[1] ** 2)
        for rows, cosine in zip(group.rows_Bn, group.cosine_Bnn, strict=True):
            there = rows[rows >= 0]
            assert len(there) >= 0.8 * len(rows)
            vectors = np.asarray(faces.vectors_ND)[there]
            np.testing.assert_allclose(
                cosine[: len(there), : len(there)], vectors @ vectors.T, atol=1e-5
            )
            assert len(set(faces.label_N[there])) == 1
            seen += there.tolist()
    wanted = [size for size in sizes if 2 <= size <= 33]
    assert sorted(seen) == [r for r in range(sum(sizes)) if sizes[faces.label_N[r]] in wanted]


def test_the_first_modes_weights_are_those_of_the_vectors() -> None:
    faces = labelled([2, 5, 5, 6, 13, 40, 41, 90], seed=3)
    weight = dominant_weights(faces, FLOORS)
    for group in label_cosines(faces, most=90):
        mode, found = modes_of(group, FLOORS, 1)
        rows = group.rows_Bn[group.open_Bn]
        np.testing.assert_allclose(found[group.open_Bn], weight[rows], atol=2e-5)
        assert ((mode == 0) == (found > 0)).all()
        assert (mode[~group.open_Bn] == -1).all()


def test_later_modes_are_the_first_of_the_faces_left() -> None:
    faces = labelled([30, 31, 60], seed=5)
    for group in label_cosines(faces, most=60):
        mode, weight = modes_of(group, FLOORS, 6)
        for rows, modes, weights in zip(group.rows_Bn, mode, weight, strict=True):
            there = rows >= 0
            left = np.flatnonzero(there & (modes != 0))
            rest = LabelledFaces(
                label_N=np.zeros(len(left), np.int64),
                vector_N=np.arange(len(left)),
                vectors_ND=np.asarray(faces.vectors_ND)[rows[left]],
                labels=1,
                unit=True,
            )
            again = dominant_weights(rest, FLOORS)
            np.testing.assert_allclose(
                np.where(modes[left] == 1, weights[left], 0), again, atol=2e-5
            )


def test_faces_that_do_not_agree_have_no_mode() -> None:
    vectors = np.eye(4, dtype=np.float32)
    faces = LabelledFaces(
        label_N=np.zeros(4, np.int64),
        vector_N=np.arange(4),
        vectors_ND=vectors,
        labels=1,
        unit=True,
    )
    (group,) = label_cosines(faces, most=10)
    mode, weight = modes_of(group, FLOORS, 6)
    assert (mode == -1).all() and not weight.any()
