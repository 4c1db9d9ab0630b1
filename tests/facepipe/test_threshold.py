"""The threshold keeps its promise to strangers: measured on strangers it has not seen."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from numpy.typing import NDArray

from facepipe.threshold import PRIOR_MEAN, PRIOR_STD, Strangers, calibrate

DIM = 128  # strangers' cosines then have a standard deviation of 0.09
Vectors = NDArray[np.float16]


class World:
    """People as random directions around a common one, faces as noise around a person."""

    def __init__(self, seed: int, dim: int = DIM) -> None:
        self.rng = np.random.default_rng(seed)
        self.common = self.rng.normal(size=dim) * 0.15

    def people(self, count: int) -> NDArray[np.float64]:
        return unit(self.common + self.rng.normal(size=(count, len(self.common))))

    def faces(self, people: NDArray[np.float64], each: int) -> tuple[Vectors, list[str]]:
        """Return faces with a cosine of about 0.8 within a person."""
        centres = np.repeat(people, each, axis=0)
        noise = unit(self.rng.normal(size=centres.shape))
        labels = [f"p{i:05d}" for i in range(len(people)) for _ in range(each)]
        return unit(centres + 0.5 * noise).astype(np.float16), labels

    def fpir(self, gallery: Vectors, threshold: float, searches: int = 4000) -> float:
        """Return the share of fresh strangers who find somebody."""
        fresh, _ = self.faces(self.people(searches), 1)
        best = (fresh.astype(np.float32) @ gallery.astype(np.float32).T).max(axis=1)
        return float((best >= threshold).mean())


def unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def own(count: int) -> list[str]:
    return [str(i) for i in range(count)]


@pytest.mark.parametrize(("people", "each"), [(200, 3), (1000, 1), (1000, 4), (3000, 2)])
@pytest.mark.parametrize("fpir", [0.01, 0.05])
def test_named_galleries_keep_the_stated_rate(people: int, each: int, fpir: float) -> None:
    world = World(seed=people + each)
    faces, labels = world.faces(world.people(people), each)
    found = calibrate(faces, labels, own(len(faces)), fpir=fpir, seed=0)
    assert found.method == "strangers"
    assert fpir / 2.5 <= world.fpir(faces, found.value) <= fpir * 2


def test_two_per_cent_of_people_with_two_labels_do_no_harm() -> None:
    world = World(seed=1)
    faces, labels = world.faces(world.people(1000), 4)
    noisy = [
        f"{x}-again" if int(x[1:]) % 50 == 0 and i % 4 >= 2 else x for i, x in enumerate(labels)
    ]
    assert len(set(noisy)) == 1020
    clean = calibrate(faces, labels, own(4000), fpir=0.01, seed=0)
    found = calibrate(faces, noisy, own(4000), fpir=0.01, seed=0)
    assert found.method == "strangers"
    assert found.value == pytest.approx(clean.value, abs=0.02)
    assert 0.003 <= world.fpir(faces, found.value) <= 0.02
    # What the fit is for: the empirical quantile is the score of a person with themselves.
    wide, codes = faces.astype(np.float32), np.unique(noisy, return_inverse=True)[1]
    scores = np.where(codes[:, None] == codes, -1, wide @ wide.T)
    assert np.quantile(scores.max(axis=1), 0.99) > 0.7


def test_labels_that_are_no_people_are_noticed() -> None:
    """A label a photo: everybody is found again under other labels."""
    world = World(seed=2)
    faces, labels = world.faces(world.people(300), 4)
    events = [f"event-{i}" for i in range(len(labels))]
    found = calibrate(faces, events, own(1200), fpir=0.01, seed=0)
    assert found.method == "impostor_pairs"
    assert "several names" in found.note
    assert world.fpir(faces, found.value) <= 0.02


@pytest.mark.parametrize(("people", "each"), [(30, 10), (500, 4), (3000, 1)])
def test_nameless_galleries_stay_near_the_stated_rate(people: int, each: int) -> None:
    """The tail is that of real strangers, heavier than these: rather too few are named."""
    world = World(seed=3 + people)
    faces, _ = world.faces(world.people(people), each)
    found = calibrate(faces, [None] * len(faces), own(len(faces)), fpir=0.01, seed=0)
    assert found.method == "unlabelled_pairs"
    assert world.fpir(faces, found.value) <= 0.02
    assert found.value < 0.65  # and a person still finds themselves, at about 0.8


def test_faces_of_one_photo_help_where_few_people_fill_an_album() -> None:
    """Of five people's random pairs a fifth are the same person; of one photo's, none."""
    world = World(seed=4)
    faces, labels = world.faces(world.people(5), 300)
    order = np.argsort([int(i) % 300 for i in range(1500)], kind="stable")  # five on a photo
    photos = [f"photo-{i // 5}" for i in range(1500)]
    assert len({labels[i] for i in order[:5]}) == 5
    nobody = [None] * 1500
    apart = calibrate(faces[order], nobody, own(1500), fpir=0.01, seed=0)
    together = calibrate(faces[order], nobody, photos, fpir=0.01, seed=0)
    assert "same photo" in together.note
    assert together.value < apart.value
    assert world.fpir(faces, together.value) <= 0.02


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize(("people", "each"), [(1, 1), (1, 30), (2, 1), (3, 4), (12, 3), (50, 1)])
def test_small_galleries_get_a_sane_threshold(people: int, each: int, labelled: bool) -> None:
    world = World(seed=10 * people + each)
    faces, labels = world.faces(world.people(people), each)
    found = calibrate(
        faces, labels if labelled else [None] * len(labels), own(len(faces)), fpir=0.01, seed=0
    )
    assert found.method in {"prior", "impostor_pairs", "unlabelled_pairs", "strangers"}
    assert (found.method == "prior") <= (people < 3)
    assert 0.15 < found.value < 0.65
    assert world.fpir(faces, found.value) <= 0.03


def test_no_faces_fall_back_on_the_prior() -> None:
    found = calibrate(np.zeros((0, 512), np.float16), [], [], fpir=0.01, seed=0)
    assert found.method == "prior"
    assert (found.impostor_mean, found.impostor_std) == (PRIOR_MEAN, PRIOR_STD)
    expected = PRIOR_MEAN + PRIOR_STD * 3.4 / 3.0902 * NormalDist().inv_cdf(0.99)
    assert found.value == pytest.approx(expected, abs=1e-3)


def test_some_names_among_many_faces_count_for_all_of_them() -> None:
    """The unnamed are never searched among, but a stranger is: the threshold must know."""
    world = World(seed=5)
    faces, labels = world.faces(world.people(2000), 2)
    named = [x if int(x[1:]) < 500 else None for x in labels]
    found = calibrate(faces, named, own(4000), fpir=0.01, seed=0)
    assert found.method == "strangers"
    assert 0.003 <= world.fpir(faces, found.value) <= 0.02


def test_same_seed_same_threshold_and_rates_are_ordered() -> None:
    world = World(seed=6)
    faces, labels = world.faces(world.people(2500), 1)

    def at(fpir: float, seed: int = 0) -> float:
        return calibrate(faces, labels, own(2500), fpir=fpir, seed=seed).value

    assert at(0.01) == at(0.01)
    assert at(0.01) != at(0.01, seed=1)
    assert at(0.1) < at(0.03) < at(0.01) < at(0.001)


@pytest.mark.parametrize(("faces", "fpir"), [(1, 0.01), (1000, 0.01), (10**5, 0.3)])
def test_the_rate_of_a_comparison_is_what_the_searchs_leaves_it(faces: int, fpir: float) -> None:
    vectors = np.ones((faces, 1), np.float16)
    found = calibrate(vectors, [None] * faces, own(faces), fpir=fpir, seed=0)
    assert 1 - (1 - found.fmr) ** faces == pytest.approx(fpir, rel=1e-6)
    assert found.method == "prior"  # all faces alike


def test_the_tail_is_continuous_and_rises() -> None:
    law = Strangers(0.0, 1.0)
    rates = np.logspace(-0.35, -9, 300)
    tail = np.array([law.threshold(float(r)) for r in rates])
    assert (np.diff(tail) > 0).all()
    assert np.diff(tail).max() < 0.1


@pytest.mark.parametrize("named", [True, False])
def test_a_sample_gives_the_threshold_of_the_whole_gallery(named: bool) -> None:
    """Of 12,000 faces every tenth: the number of the others is all that is known of them."""
    world = World(seed=5)
    faces, labels = world.faces(world.people(12000), 1)
    some = slice(0, None, 10)
    given = labels if named else [None] * len(faces)
    whole = calibrate(faces, given, own(len(faces)), fpir=0.01, seed=0)
    sample = calibrate(faces[some], given[some], own(1200), fpir=0.01, seed=0, total=len(faces))
    alone = calibrate(faces[some], given[some], own(1200), fpir=0.01, seed=0)
    assert sample.value == pytest.approx(whole.value, abs=0.02)
    assert alone.value < whole.value - 0.02
    assert sample.fmr == whole.fmr
    assert world.fpir(faces, sample.value) <= 0.02
