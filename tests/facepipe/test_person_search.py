"""Searching probes: made vectors with known people, strangers at the stated rate."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from facepipe.person_search import PersonSearch, Probes
from facepipe.threshold import calibrate

DIM = 64


def unit(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def people(seed: int, count: int, faces: int, spread: float = 0.8) -> npt.NDArray[np.float16]:
    """Return faces of so many people, person after person."""
    rng = np.random.default_rng(seed)
    centres = unit(rng.standard_normal((count, DIM))).repeat(faces, axis=0)
    aside = spread * rng.standard_normal((count * faces, DIM)) / math.sqrt(DIM)
    return unit(centres + aside).astype(np.float16)


def probes(vectors: npt.NDArray[np.float16], faces: int) -> Probes:
    person = np.arange(len(vectors)) // faces
    labels = [f"p{i}" for i in range(int(person.max()) + 1)]
    photos = [str(i) for i in range(len(vectors))]
    return Probes(vectors_PD=vectors, person_P=person, label_of=labels, photos_P=photos)


def test_the_same_people_are_found_and_strangers_at_the_stated_rate() -> None:
    both = people(1, 300, 6)
    given_, known = both.reshape(300, 6, DIM)[:, :3], both.reshape(300, 6, DIM)[:, 3:]
    search = PersonSearch(probes(given_.reshape(-1, DIM), 3), fpir=0.01)
    found = search.search(known.reshape(-1, DIM))
    right = found.person_N == np.arange(900) // 3
    assert (right & (found.chance_N <= 0.01)).mean() > 0.95
    strangers = search.search(people(2, 4000, 1))
    assert 0.001 < (strangers.chance_N <= 0.01).mean() < 0.02
    assert (strangers.chance_N <= 0.001).mean() < 0.005


def test_a_single_search_is_the_calibrated_one() -> None:
    alone = probes(people(3, 200, 1), 1)
    search = PersonSearch(alone, fpir=0.01)
    assert search.centre_threshold is None
    expected = calibrate(
        alone.vectors_PD, list(alone.label_of), alone.photos_P, fpir=0.01, seed=0
    ).value
    assert search.face_threshold.value == expected
    found = search.search(people(4, 3000, 1))
    wide = alone.vectors_PD.astype(np.float64)
    cosine = people(4, 3000, 1).astype(np.float64) @ wide.T
    assert np.allclose(found.cosine_N, cosine.max(axis=1), atol=1e-3)
    clear = np.abs(found.cosine_N - expected) > 1e-5
    assert ((found.chance_N <= 0.01) == (found.cosine_N >= expected))[clear].all()
    order = np.argsort(found.cosine_N)
    assert (np.diff(found.chance_N[order]) <= 1e-7).all()


def test_a_centre_finds_what_no_single_face_does() -> None:
    rng = np.random.default_rng(6)
    centre = unit(rng.standard_normal((1, DIM)))
    faces = unit(centre + 1.6 * rng.standard_normal((40, DIM)) / math.sqrt(DIM))
    others = people(7, 100, 2, spread=0.5)
    vectors = np.concatenate([faces.astype(np.float16), others])
    person = np.concatenate([np.zeros(40, np.int64), 1 + np.arange(200) // 2])
    given_ = Probes(
        vectors_PD=vectors,
        person_P=person,
        label_of=[str(i) for i in range(101)],
        photos_P=[str(i) for i in range(240)],
    )
    found = PersonSearch(given_, fpir=0.01).search(centre.astype(np.float16))
    assert found.person_N[0] == 0 and found.similarity_N[0] > found.cosine_N[0]
    mean = unit(faces.astype(np.float16).astype(np.float64)).sum(axis=0)
    expected = float(centre[0] @ mean) / np.linalg.norm(mean)
    assert found.similarity_N[0] == pytest.approx(expected, abs=2e-3)


def test_probes_without_a_face_are_refused() -> None:
    empty = Probes(
        vectors_PD=np.empty((0, DIM), np.float16),
        person_P=np.empty(0, np.int64),
        label_of=[],
        photos_P=[],
    )
    with pytest.raises(ValueError, match="no face"):
        PersonSearch(empty, fpir=0.01)
