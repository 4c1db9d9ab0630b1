"""Bayes for single faces, against the probabilities written out."""

from __future__ import annotations

import numpy as np
import pytest

from facepipe import posterior
from facepipe.centres import LabelledFaces
from facepipe.impostors import Impostors
from facepipe.people import gather
from facepipe.posterior import judge


def test_at_most_one_of_faces_that_do_not_agree_is_right() -> None:
    label = np.array([0, 0, 0, 1, 1])
    odds = np.array([3.0, 1.0, 0.5, 4.0, 9.0])
    alone = np.array([True, True, True, False, False])
    found = posterior._at_most_one(label, odds, alone)
    # Worlds: none of three right (weight 1), or one of them (its odds).
    np.testing.assert_allclose(found[:3], np.array([3.0, 1.0, 0.5]) / 5.5)
    np.testing.assert_allclose(found[3:], [0.8, 0.9])
    assert found[:3].sum() < 1


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_share_of_strangers_is_found(share: float) -> None:
    """Wrong faces whose likelihood of being somebody known is drawn from what it should be."""
    rng = np.random.default_rng(3)
    stranger = rng.random(4000) < share
    x = rng.normal(np.where(stranger, 0.0, 4.0), 1.0)
    others = np.exp(4.0 * x - 8.0)  # of N(4, 1) over N(0, 1)
    own = np.full(4000, 1e-9)
    found = posterior._stranger_share(own, others)
    assert found == pytest.approx(share, abs=0.05)


def test_without_wrong_faces_nothing_is_known_of_strangers() -> None:
    assert posterior._stranger_share(np.empty(0), np.empty(0)) == 0.5


def made(seed: int = 0) -> tuple[LabelledFaces, np.ndarray]:
    """Return 40 people of ten faces; of each label the last face is the next person's."""
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(40, 96))
    person = np.repeat(np.arange(40), 10)
    person[9::10] = (person[9::10] + 1) % 40
    vectors = centre[person] / np.sqrt(96) + rng.normal(size=(400, 96)) / np.sqrt(96) * 0.75
    faces = LabelledFaces(
        label_N=np.repeat(np.arange(40), 10),
        vector_N=np.arange(400),
        vectors_ND=vectors.astype(np.float16),
        labels=40,
    )
    return faces, person


def test_a_face_is_its_labels_persons_or_anothers() -> None:
    faces, person = made()
    impostors = Impostors(mean=0.0, std=0.1, quantiles=())
    people = gather(faces, person, np.ones(400))
    mixture, judged = judge(faces, people, np.arange(40), impostors)
    wrong = person != faces.label_N
    assert (judged.right_N[~wrong] > 0.9).mean() > 0.99 and (judged.right_N[wrong] < 0.01).all()
    assert (judged.other_N[wrong] == person[wrong]).all()
    assert (judged.other_right_N[wrong] > 0.99).all() and judged.clear_N[wrong].all()
    assert mixture.clean_share == pytest.approx(0.9, abs=0.03)
    assert judged.stranger_share < 0.3
    total = judged.right_N + judged.other_right_N
    assert (total <= 1 + 1e-9).all() and (judged.right_N >= 0).all()


def test_wrong_faces_of_nobody_known_are_strangers() -> None:
    faces, person = made()
    known = np.where(person == faces.label_N, person, -1)
    people = gather(faces, known, np.ones(400))
    impostors = Impostors(mean=0.0, std=0.1, quantiles=())
    _, near = judge(faces, people, np.arange(40), impostors)
    owner = np.arange(40)
    owner[7] = -1  # whose faces are still the nearest thing to each other
    _, unknown = judge(faces, people, owner, impostors)
    assert np.isnan(unknown.own_cosine_N[70:80]).all()
    assert np.isfinite(near.own_cosine_N[70:80]).all()
    assert unknown.right_N[70:80].sum() <= 1
