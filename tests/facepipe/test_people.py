"""Centres of people against the same done person by person."""

from __future__ import annotations

import numpy as np
import pytest

from facepipe import centres
from facepipe.centres import LabelledFaces
from facepipe.neighbors import unit_rows
from facepipe.people import cosines, gather


def made(count: int = 60) -> tuple[LabelledFaces, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    order = rng.permutation(count)
    stored = rng.normal(size=(count, 16)).astype(np.float16)
    label = np.sort(rng.integers(0, 9, count))
    faces = LabelledFaces(label_N=label, vector_N=order, vectors_ND=stored, labels=9)
    person = rng.integers(-1, 5, count)
    weight = rng.choice([0.0, 0.05, 0.3, 1.0], count)
    return faces, unit_rows(stored[order]).astype(np.float64), person, weight


@pytest.mark.parametrize("block", [7, 16384])
def test_sums_and_cosines_are_those_of_each_persons_other_faces(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(centres, "BLOCK_ROWS", block)
    faces, exact, person, weight = made()
    people = gather(faces, person, weight)
    assert people.total == 5
    for who in range(5):
        mine = person == who
        np.testing.assert_allclose(people.sums_PD[who], weight[mine] @ exact[mine], atol=1e-5)
        kish = weight[mine].sum() ** 2 / (weight[mine] ** 2).sum()
        assert people.size_P[who] == pytest.approx(kish, rel=1e-5)
    target = np.random.default_rng(5).integers(-1, 5, len(person))
    cosine, others = cosines(faces, people, target)
    for row in range(len(person)):
        rest = (person == target[row]) & (np.arange(len(person)) != row) & (target[row] >= 0)
        if not weight[rest].any():
            assert (cosine[row], others[row]) == (0, 0)
            continue
        mean = weight[rest] @ exact[rest]
        assert cosine[row] == pytest.approx(exact[row] @ mean / np.linalg.norm(mean), abs=2e-5)
        worth = weight[rest].sum() ** 2 / (weight[rest] ** 2).sum()
        assert others[row] == pytest.approx(worth, rel=1e-5)


def test_nobody_at_all() -> None:
    faces, _, _, weight = made(5)
    people = gather(faces, np.full(5, -1), weight)
    assert people.total == 0 and people.sums_PD.shape == (0, 16)
    cosine, others = cosines(faces, people, np.full(5, -1))
    assert not cosine.any() and not others.any()
