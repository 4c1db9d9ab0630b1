"""Labels that contest their faces: look-alikes come apart, one person under two names does not."""

from __future__ import annotations

import numpy as np
import pytest

from facepipe.centres import LabelledFaces, face_impostors
from facepipe.contest import Contested, contest
from facepipe.identities import find_floors, identify
from facepipe.modes import find_modes, main_modes

DIM, OWN = 64, 12  # faces of each person
LIKE, FACE = 0.55, 0.68  # cosine of a person to the one before, and of a face to its person


def unit(x: np.ndarray) -> np.ndarray:
    out: np.ndarray = x / np.linalg.norm(x, axis=-1, keepdims=True)
    return out


def people(count: int, like: float, rng: np.random.Generator) -> np.ndarray:
    """Return unit centres in pairs: each second one is like the one before."""
    centre_PD = unit(rng.standard_normal((count, DIM)))
    aside = centre_PD[1::2]
    aside = unit(aside - (aside * centre_PD[::2]).sum(1, keepdims=True) * centre_PD[::2])
    centre_PD[1::2] = like * centre_PD[::2] + np.sqrt(1 - like**2) * aside
    return centre_PD


def labelled(
    wrong: int, *, like: float = LIKE, twice: bool = False, threads: int = 1
) -> tuple[LabelledFaces, np.ndarray]:
    """Return faces and their people; each label has so many faces of the other one of its pair.

    twice: the two of a pair are one person under two labels.
    """
    rng = np.random.default_rng(3)
    label_N = np.repeat(np.arange(200), OWN + wrong)
    person_N = np.where(np.arange(len(label_N)) % (OWN + wrong) < OWN, label_N, label_N ^ 1)
    if twice:
        person_N = person_N // 2 * 2
    aside_ND = unit(rng.standard_normal((len(label_N), DIM)))
    centre_PD = people(200, like, rng)
    vectors_ND = unit(FACE * centre_PD[person_N] + np.sqrt(1 - FACE**2) * aside_ND)
    faces = LabelledFaces(
        label_N=label_N,
        vector_N=np.arange(len(label_N)),
        vectors_ND=vectors_ND.astype(np.float16),
        labels=200,
        threads=threads,
    )
    return faces, person_N


def contested(faces: LabelledFaces) -> Contested:
    impostors = face_impostors(faces)
    return contest(faces, find_modes(faces, find_floors(faces, impostors)), impostors)


def test_faces_of_a_look_alike_are_lost_and_others_kept() -> None:
    faces, person_N = labelled(4)
    impostors = face_impostors(faces)
    modes = find_modes(faces, find_floors(faces, impostors))
    main_N = main_modes(modes, faces.labels)[faces.label_N]
    wrong_N = (person_N != faces.label_N) & (modes.mode_N == main_N)
    assert wrong_N.sum() > 300  # they pass for faces of their label's person
    found = contest(faces, modes, impostors)
    assert (found.lost_N & wrong_N).sum() > 0.7 * wrong_N.sum()
    assert (found.lost_N & ~wrong_N).sum() < 0.05 * (~wrong_N).sum()
    assert not (found.lost_N & (modes.mode_N != main_N)).any()
    np.testing.assert_array_equal(found.modes.mode_N[~found.lost_N], modes.mode_N[~found.lost_N])
    lost = np.flatnonzero(found.lost_N)
    new_L = found.modes.label_M[found.modes.mode_N[lost]]
    np.testing.assert_array_equal(new_L, faces.label_N[lost])
    assert found.modes.mode_N[lost].min() == len(modes.label_M)
    assert len(found.modes.label_M) == len(modes.label_M) + len(np.unique(faces.label_N[lost]))


def test_one_person_under_two_labels_loses_nothing() -> None:
    for wrong in (0, 4):
        faces, _ = labelled(wrong, twice=True)
        assert contested(faces).lost_N.mean() < 0.01


def test_where_nobody_is_wrong_hardly_a_face_is_lost() -> None:
    for like in (0.0, LIKE):
        faces, _ = labelled(0, like=like)
        assert contested(faces).lost_N.mean() < 0.02


def test_people_are_told_apart_in_the_end() -> None:
    faces, person_N = labelled(4)
    found = identify(faces)
    right_N = person_N == faces.label_N
    kept_N = found.judged.right_N >= 0.5
    assert kept_N[right_N].mean() > 0.95
    assert kept_N[~right_N].mean() < 0.2
    assert len(np.unique(found.owners.person_L)) > 190  # and not one of each pair


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_nothing(threads: int) -> None:
    one, many = contested(labelled(4)[0]), contested(labelled(4, threads=threads)[0])
    np.testing.assert_array_equal(one.lost_N, many.lost_N)
    np.testing.assert_array_equal(one.modes.mode_N, many.modes.mode_N)
    np.testing.assert_array_equal(one.modes.label_M, many.modes.label_M)


def test_no_faces_and_labels_of_one() -> None:
    faces, _ = labelled(0)
    for rows in (np.arange(0), np.arange(0, len(faces.label_N), OWN)):
        few = LabelledFaces(
            label_N=faces.label_N[rows],
            vector_N=faces.vector_N[rows],
            vectors_ND=faces.vectors_ND,
            labels=faces.labels,
        )
        assert not contested(few).lost_N.any()
