"""Labels that contest their faces: look-alikes come apart, one person under two names does not."""

from __future__ import annotations

from dataclasses import replace

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


def some(faces: LabelledFaces, rows: np.ndarray) -> LabelledFaces:
    return replace(faces, label_N=faces.label_N[rows], vector_N=faces.vector_N[rows])


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


def tight_beside_large(dim: int = 128) -> LabelledFaces:
    """Return labels of four faces that agree closely, each like a large label; one face leans."""
    rng = np.random.default_rng(0)

    def around(centre_D: np.ndarray, cosine: float, count: int) -> np.ndarray:
        aside = unit(rng.standard_normal((count, dim)))
        aside = unit(aside - (aside @ centre_D)[:, None] * centre_D)
        return unit(cosine * centre_D + np.sqrt(1 - cosine**2) * aside)

    centre_PD = unit(rng.standard_normal((300, dim)))
    parts = []
    for person, centre_D in enumerate(centre_PD):
        if person < 40:
            large_D = centre_PD[40 + person]
            own_D = around(large_D, LIKE, 1)[0]
            four = around(own_D, 0.88, 4)
            four[0] = unit(0.85 * own_D + 0.18 * large_D + 0.45 * around(own_D, 0.0, 1)[0])
            parts.append(four)
        else:
            parts.append(around(centre_D, 0.7, 30 if person < 80 else 10))
    label_N = np.repeat(np.arange(300), [len(part) for part in parts])
    return LabelledFaces(
        label_N=label_N,
        vector_N=np.arange(len(label_N)),
        vectors_ND=np.concatenate(parts).astype(np.float16),
        labels=300,
    )


def test_a_face_is_lost_only_to_somebody_nearer() -> None:
    """The ratio of a large label goes on rising where that of a small one has ended."""
    faces = tight_beside_large()
    found = contested(faces)
    centre_LD = np.zeros((300, 128), np.float32)
    np.add.at(centre_LD, faces.label_N, faces.vectors_ND.astype(np.float32))
    cosine_NL = faces.vectors_ND.astype(np.float32) @ unit(centre_LD).T
    own_N = cosine_NL[np.arange(len(cosine_NL)), faces.label_N]
    far_N = own_N > cosine_NL.max(axis=1, initial=-1, where=cosine_NL != own_N[:, None]) + 0.1
    assert far_N.sum() > 40
    assert not (found.lost_N & far_N).any()


@pytest.mark.parametrize("wrong", [8, 10, 14])
def test_no_label_loses_half_of_its_faces_however_often_they_are_contested(wrong: int) -> None:
    every, person_N = labelled(wrong, like=0.5)
    rows = np.flatnonzero((every.label_N % 2 == 1) | (person_N == every.label_N))
    faces = some(every, rows)
    impostors = face_impostors(faces)
    modes = find_modes(faces, find_floors(faces, impostors))
    inside_N = modes.mode_N == main_modes(modes, faces.labels)[faces.label_N]
    lost_L = np.bincount(faces.label_N[contest(faces, modes, impostors).lost_N], minlength=200)
    inside_L = np.bincount(faces.label_N[inside_N], minlength=200)
    assert (lost_L <= 0.5 * inside_L).all()


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
        assert not contested(some(faces, rows)).lost_N.any()
