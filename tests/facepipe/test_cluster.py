"""People found without labels: made faces whose people are known, constraints, edges."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from facepipe.cluster import ClusterSettings, People, find_people, photo_constraints
from facepipe.cluster_score import score_people
from facepipe.neighbors import unit_rows

Int64 = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float16]
SETTINGS = ClusterSettings()


def made(
    people: int, *, noise: float = 0.8, dim: int = 256, seed: int = 0
) -> tuple[Vectors, Int64]:
    """Return faces of people of 1 to 14 faces, in mixed order, and whose they are."""
    rng = np.random.default_rng(seed)
    person = rng.permutation(np.repeat(np.arange(people), 1 + np.arange(people) % 14))
    centres = unit_rows(rng.standard_normal((people, dim)))
    noises = rng.standard_normal((len(person), dim)) / np.sqrt(dim)
    return unit_rows(centres[person] + noise * noises).astype(np.float16), person


@pytest.mark.parametrize(
    ("noise", "dim", "least"), [(0.6, 512, 0.999), (0.8, 256, 0.995), (1.0, 128, 0.93)]
)
def test_people_are_found(noise: float, dim: int, least: float) -> None:
    vectors, person = made(150, noise=noise, dim=dim)
    found = find_people(vectors, SETTINGS)
    score = score_people(found.person_N, person)
    assert score.bcubed_f >= least and score.pair_f >= least
    assert found.recall == 1.0
    assert found.person_N.dtype == np.int64


def test_a_face_is_as_near_as_it_is_to_the_others_of_its_person() -> None:
    vectors, _ = made(30)
    found = find_people(vectors, SETTINGS)
    unit = unit_rows(vectors)
    for i, person in enumerate(found.person_N.tolist()):
        others = [j for j in np.flatnonzero(found.person_N == person) if j != i]
        centre = unit[others].sum(axis=0) if person >= 0 else np.zeros(256)
        expected = unit[i] @ centre / (np.linalg.norm(centre) or 1.0)
        assert found.cosine_N[i] == pytest.approx(float(expected), abs=1e-5)


def test_people_are_numbered_by_their_first_faces_and_have_two_or_more() -> None:
    vectors, _ = made(60)
    found = find_people(vectors, SETTINGS)
    named = found.person_N[found.person_N >= 0]
    first = [int(np.flatnonzero(named == p)[0]) for p in range(int(named.max()) + 1)]
    assert first == sorted(first)
    assert np.bincount(named).min() >= 2
    assert (found.person_N[found.person_N < 0] == -1).all()


def test_confidence_is_how_often_it_is_right() -> None:
    vectors, person = made(400, noise=1.2, dim=96)
    found = find_people(vectors, SETTINGS)
    owner = [
        np.bincount(person[found.person_N == p]).argmax() for p in range(found.person_N.max() + 1)
    ]
    named = np.flatnonzero(found.person_N >= 0)
    right = np.array(owner)[found.person_N[named]] == person[named]
    sure = found.confidence_N[named]
    assert ((found.confidence_N >= 0) & (found.confidence_N <= 1 + 1e-9)).all()
    assert right[sure > 0.99].mean() > 0.98
    assert right[sure < 0.8].mean() < right[sure > 0.99].mean() - 0.1
    assert sure.mean() == pytest.approx(right.mean(), abs=0.05)


def same_people(one: People, other: People) -> bool:
    return (
        one.person_N.tobytes() == other.person_N.tobytes()
        and one.confidence_N.tobytes() == other.confidence_N.tobytes()
        and one.model == other.model
        and one.pairs.probability_P.tobytes() == other.pairs.probability_P.tobytes()
    )


def test_the_same_faces_give_the_same_bits_with_any_threads() -> None:
    vectors, _ = made(120, noise=1.1, dim=96)
    once = find_people(vectors, SETTINGS)
    assert same_people(once, find_people(vectors, SETTINGS))
    assert same_people(once, find_people(vectors, SETTINGS, threads=3))


class Rows:
    """Vectors that are read by the row only, and never many of them at once."""

    def __init__(self, vectors: Vectors, most: int) -> None:
        self.vectors, self.most = vectors, most
        self.shape = vectors.shape

    def __getitem__(self, rows: Int64, /) -> Vectors:
        assert len(rows) <= self.most
        return self.vectors[rows]


def test_vectors_are_read_a_block_at_a_time() -> None:
    vectors, _ = made(1500, dim=64, noise=0.5)
    assert len(vectors) > 8192
    assert same_people(find_people(Rows(vectors, 32768), SETTINGS), find_people(vectors, SETTINGS))


@pytest.mark.parametrize("count", [0, 1, 2, 3])
@pytest.mark.parametrize("alike", [False, True])
def test_few_faces(count: int, alike: bool) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((1 if alike else count, 512))
    vectors = np.repeat(unit_rows(vectors), count, axis=0) if alike else unit_rows(vectors)
    found = find_people(vectors.astype(np.float16), SETTINGS)
    expected = 0 if alike and count > 1 else -1
    assert found.person_N.tolist() == [expected] * count
    assert len(found.confidence_N) == count


def test_faces_without_a_vector_are_alone() -> None:
    vectors, _ = made(20)
    empty = np.concatenate([vectors, np.zeros((5, vectors.shape[1]), np.float16)])
    found = find_people(empty, SETTINGS)
    assert (found.person_N[-5:] == -1).all()
    assert found.person_N[:-5].max() > 10


def test_more_copies_of_a_picture_than_neighbours_do_not_hide_the_person() -> None:
    vectors, person = made(40)
    row = int(np.flatnonzero(person == 13)[0])
    copies = np.concatenate([vectors, np.repeat(vectors[row : row + 1], 60, axis=0)])
    found = find_people(copies, SETTINGS)
    truth = np.concatenate([person, np.full(60, 13)])
    assert score_people(found.person_N, truth).pair_f > 0.99


# -- what is known beforehand ------------------------------------------------------------


def test_faces_that_are_two_people_are_not_one() -> None:
    vectors, person = made(40)
    rows = np.flatnonzero(person == 13)
    apart = np.array(list(itertools.product(rows[:4], rows[4:9])))
    found = find_people(vectors, SETTINGS, cannot_link=apart)
    assert not (found.person_N[apart[:, 0]] == found.person_N[apart[:, 1]]).any()
    pairs = found.pairs
    refused = pairs.apart_P & (pairs.probability_P > 0.5)
    assert refused.any()  # and it is said that they look like one
    a, b = pairs.first_P[refused][0], pairs.second_P[refused][0]
    assert set(person[np.isin(found.person_N, [a, b])].tolist()) == {13}


def test_faces_that_are_one_person_are() -> None:
    vectors, person = made(40)
    a, b, c = (np.flatnonzero(person == p) for p in (11, 12, 13))
    said = np.array([[b[0], a[0]], [c[0], b[1]], [b[0], b[1]]])
    found = find_people(vectors, SETTINGS, must_link=said)
    together = found.person_N[np.concatenate([a[:1], b[:2], c[:1]])]
    assert len(set(together.tolist())) == 1 and together[0] >= 0


def test_where_both_are_said_they_are_one() -> None:
    vectors, person = made(30)
    a, b, c = (int(np.flatnonzero(person == p)[0]) for p in (5, 6, 7))
    found = find_people(
        vectors,
        SETTINGS,
        must_link=np.array([[a, b], [b, c]]),
        cannot_link=np.array([[a, c]]),
    )
    assert found.person_N[a] == found.person_N[c] >= 0


@given(st.lists(st.tuples(st.integers(0, 59), st.integers(0, 59)), max_size=40), st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_no_list_of_pairs_is_disobeyed(pairs: list[tuple[int, int]], cut: int) -> None:
    vectors, _ = made(12, noise=1.2, dim=64, seed=1)
    vectors = vectors[:60]
    links = np.array([p for p in pairs if p[0] != p[1]], np.int64).reshape(-1, 2)
    must, apart = links[:cut], links[cut:]
    found = find_people(vectors, SETTINGS, must_link=must, cannot_link=apart)
    assert (found.person_N[must[:, 0]] == found.person_N[must[:, 1]]).all()
    if not len(must):
        clash = (found.person_N[apart[:, 0]] == found.person_N[apart[:, 1]]) & (
            found.person_N[apart[:, 0]] >= 0
        )
        assert not clash.any()


@pytest.mark.parametrize("links", [[[0, 99]], [[-1, 0]], [0, 1], [[0, 1, 2]]])
def test_links_of_faces_that_are_not_there_are_refused(links: list[object]) -> None:
    with pytest.raises(ValueError, match=r"rows 0\.\.9"):
        find_people(made(5)[0][:10], SETTINGS, cannot_link=np.array(links))


def test_two_people_who_may_be_one_are_shown() -> None:
    # A person at two ages that are ever more alike, from strangers to one person.
    rng = np.random.default_rng(77)
    vectors, _ = made(150, dim=256)
    young = unit_rows(rng.standard_normal((1, 256)))
    shown = []
    for cosine in np.linspace(0.2, 0.5, 13):
        side = rng.standard_normal((1, 256))
        old = cosine * young + np.sqrt(1 - cosine**2) * unit_rows(side - (side @ young.T) * young)
        two = np.repeat(np.concatenate([young, old]), 4, axis=0)
        faces = unit_rows(two + 0.5 * rng.standard_normal((8, 256)) / 16).astype(np.float16)
        found = find_people(np.concatenate([vectors, faces]), SETTINGS)
        a, b = int(found.person_N[-8]), int(found.person_N[-1])
        if a == b:
            shown.append(1.0)
            continue
        this = (found.pairs.first_P == min(a, b)) & (found.pairs.second_P == max(a, b))
        shown.append(float(found.pairs.probability_P[this].sum()))
    assert shown[0] == 0.0 and max(shown) > 0.5
    assert any(0.05 <= probability < 0.5 for probability in shown)


# -- photos ------------------------------------------------------------------------------


def test_faces_of_a_photo_are_two_people() -> None:
    vectors, _ = made(40, noise=0.6, dim=512)
    rng = np.random.default_rng(0)
    strangers = unit_rows(rng.standard_normal((7, 512))).astype(np.float16)
    photo = np.array([5, 8, 5, 5, 8, 1, 2])
    pairs = photo_constraints(photo, strangers)
    assert pairs.tolist() == [[0, 2], [0, 3], [1, 4], [2, 3]]
    assert photo_constraints(np.arange(len(vectors)), vectors).shape == (0, 2)


def test_a_collage_or_a_face_found_twice_is_no_constraint() -> None:
    vectors, person = made(300, noise=0.7, dim=512)
    rows = np.flatnonzero(person == 13)[:3]
    photo = np.arange(len(person))
    photo[rows] = photo[rows[0]]  # a collage of one person
    other = int(np.flatnonzero(person == 12)[0])
    photo[other] = photo[rows[0]]  # and of a second
    assert {tuple(p) for p in photo_constraints(photo, vectors).tolist()} == {
        (min(int(r), other), max(int(r), other)) for r in rows
    }


def test_photos_keep_people_apart_who_look_alike() -> None:
    # Twins, 20 photos of both: without photos one person.
    rng = np.random.default_rng(2)
    vectors, _ = made(150, dim=256)
    twin = unit_rows(rng.standard_normal((1, 256)))
    second = unit_rows(twin + 1.1 * rng.standard_normal((1, 256)) / 16)
    both = np.repeat(np.concatenate([twin, second]), 20, axis=0)
    both = unit_rows(both + 0.9 * rng.standard_normal((40, 256)) / 16).astype(np.float16)
    faces = np.concatenate([vectors, both])
    photo = np.concatenate([np.arange(len(vectors)), np.tile(len(faces) + np.arange(20), 2)])
    plain = find_people(faces, SETTINGS).person_N[-40:]
    assert len(set(plain.tolist())) == 1
    pairs = photo_constraints(photo, faces)
    apart = find_people(faces, SETTINGS, cannot_link=pairs).person_N
    assert not ((apart[pairs[:, 0]] == apart[pairs[:, 1]]) & (apart[pairs[:, 0]] >= 0)).any()


def test_no_faces_have_no_constraints() -> None:
    none = photo_constraints(np.empty(0, np.int64), np.empty((0, 512), np.float16))
    assert none.shape == (0, 2)


@pytest.mark.parametrize("bad", [{"neighbors": 1}, {"neighbours": 9}])
def test_settings_that_are_not_allowed_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        ClusterSettings(**bad)
