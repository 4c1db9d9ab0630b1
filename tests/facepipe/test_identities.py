"""Stretches of labels against all of them at once."""

from __future__ import annotations

import numpy as np
import pytest

from facepipe import identities
from facepipe.centres import LabelledFaces
from facepipe.identities import own_cosines
from facepipe.label_cosines import Floors
from facepipe.modes import find_modes, main_modes
from facepipe.neighbors import unit_rows


def made() -> LabelledFaces:
    """Return 30 labels of two people each and some strangers, one label large, one empty."""
    rng = np.random.default_rng(1)
    sizes = rng.integers(1, 15, 30)
    sizes[4], sizes[9] = 90, 0
    label = np.repeat(np.arange(30), sizes)
    person = 3 * label + rng.choice(3, len(label), p=(0.6, 0.3, 0.1))
    centre = unit_rows(rng.standard_normal((90, 64)))
    away = unit_rows(rng.standard_normal((len(label), 64)))
    near = np.where(person % 3 < 2, 1.0, 0.0)[:, None]
    stored = (near * centre[person] + 0.6 * away).astype(np.float16)
    return LabelledFaces(
        label_N=label, vector_N=np.arange(len(label)), vectors_ND=stored, labels=30
    )


@pytest.mark.parametrize("stretch", [1, 40, 100, 1 << 19])
def test_each_face_is_compared_with_the_others_of_its_first_mode(
    monkeypatch: pytest.MonkeyPatch, stretch: int
) -> None:
    monkeypatch.setattr(identities, "STRETCH_FACES", stretch)
    faces = made()
    modes = find_modes(faces, Floors(floor_M=np.array([0.3])))
    cosine_N, others_N = own_cosines(faces, modes)
    exact = unit_rows(np.asarray(faces.vectors_ND)).astype(np.float64)
    main_L = main_modes(modes, faces.labels)
    assert (main_L >= 0).sum() > 20 and len(modes.label_M) > 30
    for row, label in enumerate(faces.label_N):
        rest = (modes.mode_N == main_L[label]) & (main_L[label] >= 0)
        rest[row] = False
        weight = modes.weight_N[rest]
        if not len(weight):
            assert (cosine_N[row], others_N[row]) == (0, 0)
            continue
        mean = weight @ exact[rest]
        assert cosine_N[row] == pytest.approx(exact[row] @ mean / np.linalg.norm(mean), abs=2e-5)
        kish = max(weight.sum() ** 2 / (weight**2).sum(), 1.0)
        assert others_N[row] == pytest.approx(kish, rel=1e-5)


def test_stretches_are_whole_labels_and_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identities, "STRETCH_FACES", 40)
    faces = made()
    found = list(identities._stretches(faces))
    assert [s.start for s in found] == [0, *(s.stop for s in found[:-1])]
    assert found[-1].stop == len(faces.label_N)
    for rows in found:
        labels = faces.label_N[rows]
        assert len(labels) <= 40 or len(set(labels)) == 1
        outside = np.delete(faces.label_N, np.arange(rows.start, rows.stop))
        assert not set(labels) & set(outside)
