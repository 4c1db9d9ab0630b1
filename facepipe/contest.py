"""Faces of a label that are nearer to the person of another label than to its own.

Where the wrong faces of a label are all of one look-alike, they and the right ones are one group as
far as the label can tell: what they have in common is its centre. The look-alike's own label says
more. Its centre is mixed in the same way, and yet nearer to the look-alike's faces than this one.

So the first groups of all labels contest their faces, as the clusters of k-means do (Lloyd 1982),
but only with the RIVALS nearest to each, and only between two people: two labels of one person are
as near to each other as their faces allow, and neither takes from the other.

Legend: N faces (rows sorted by label), L labels, D dimensions, R rivals.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from facepipe.centres import Float, Float32, Int64, LabelledFaces
from facepipe.impostors import Impostors
from facepipe.mixture import CosineMixture
from facepipe.modes import Modes, main_modes
from facepipe.near_centres import NearCentres
from facepipe.neighbors import unit_rows
from facepipe.people import People, cosines, gather
from facepipe.posterior import fit_faces

Bool = npt.NDArray[np.bool_]

ROUNDS = 3  # more change nothing
RIVALS = 4  # labels nearest to each
RIVAL_STDS = 2  # of two faces of strangers: what is not as near as this wins no face
SAME_STDS = 4.0  # centres of one person, of the spread of faces (Student's t: one in 200)
MIN_FACES = 1.5  # that a centre is worth
MOST_LOST = 0.5  # a label that would lose as many is left as it is: whose it is, is seen later


@dataclass(frozen=True, slots=True, kw_only=True)
class Contested:
    """Modes after a contest, and which faces their labels' first ones have lost."""

    modes: Modes
    lost_N: Bool


def contest(faces: LabelledFaces, modes: Modes, impostors: Impostors) -> Contested:
    """Take faces from the first mode of their label that are nearer to another label's.

    What a label loses is its last mode; who that is, is found with all others (`facepipe.merges`).
    """
    main_N = main_modes(modes, faces.labels)[faces.label_N]
    inside_N = (modes.mode_N == main_N) & (main_N >= 0)
    lost_N = np.zeros(len(inside_N), dtype=bool)
    most_L = MOST_LOST * np.bincount(faces.label_N[inside_N], minlength=faces.labels)
    for _ in range(ROUNDS):
        fit = replace(modes, mode_N=np.where(lost_N, -1, modes.mode_N))
        now_N = _lost(faces, fit, inside_N & ~lost_N, impostors)
        lost_L = np.bincount(faces.label_N[lost_N | now_N], minlength=faces.labels)
        now_N &= (lost_L < most_L)[faces.label_N]
        if not now_N.any():
            break
        lost_N |= now_N
    labels, place_N = np.unique(faces.label_N[lost_N], return_inverse=True)
    mode_N = modes.mode_N.copy()
    mode_N[lost_N] = len(modes.label_M) + place_N
    label_M = np.concatenate([modes.label_M, labels])
    return Contested(modes=replace(modes, mode_N=mode_N, label_M=label_M), lost_N=lost_N)


def _lost(faces: LabelledFaces, modes: Modes, inside_N: Bool, impostors: Impostors) -> Bool:
    """Return which faces inside of their label's first mode another one takes."""
    own_N = np.where(inside_N, faces.label_N, -1)
    people = _by_label(gather(faces, own_N, modes.weight_N), faces.labels)
    cosine_N, others_N = cosines(faces, people, own_N)
    main_N = main_modes(modes, faces.labels)[faces.label_N]
    mixture = fit_faces(faces, modes.mode_N, main_N, cosine_N, others_N, impostors)
    centres_LD = unit_rows(people.sums_PD)
    rival_LR = _rivals(centres_LD, people.size_P, mixture, impostors, faces.threads)
    asked = np.flatnonzero(inside_N & (others_N > 0) & (rival_LR[faces.label_N] >= 0).any(axis=1))
    lost_N = np.zeros(len(inside_N), dtype=bool)

    def look(rows: Int64, vectors_BD: Float32) -> Bool:
        own_B = mixture.log_ratio(cosine_N[rows], others_N[rows])
        taken_B = np.zeros(len(rows), dtype=bool)
        for rival_L in rival_LR.T:
            rival_B = rival_L[faces.label_N[rows]]
            cosine_B = np.einsum("bd,bd->b", vectors_BD, centres_LD[rival_B])
            size_B = np.maximum(people.size_P[rival_B], 1.0)
            # The ratio ends at its centre's mean: beyond it the cosines themselves decide.
            nearer_B = (rival_B >= 0) & (cosine_B > cosine_N[rows])
            taken_B |= nearer_B & (mixture.log_ratio(cosine_B, size_B) > own_B)
        return taken_B

    for rows, taken_B in faces.each_block(look, asked):
        lost_N[rows] = taken_B
    return lost_N


def _by_label(people: People, labels: int) -> People:
    """Return the same with a row for the last labels, too, which may have no face in it."""
    more = labels - people.total
    return replace(
        people,
        sums_PD=np.pad(people.sums_PD, ((0, more), (0, 0))),
        weight_P=np.pad(people.weight_P, (0, more)),
        square_P=np.pad(people.square_P, (0, more)),
    )


def _rivals(
    centres_LD: Float32, size_L: Float, mixture: CosineMixture, impostors: Impostors, threads: int
) -> Int64:
    """Return the labels nearest to each that are of somebody else (L x R), -1 where fewer."""
    rival_LR = np.full((len(size_L), RIVALS), -1)
    some = np.flatnonzero(size_L > MIN_FACES)
    near_SK = NearCentres(centres_LD[some], len(some), threads).find(centres_LD[some], RIVALS + 1)
    least = impostors.mean + RIVAL_STDS * impostors.std
    for place_S in near_SK.T:
        other_S = some[place_S]
        cosine_S = np.einsum("sd,sd->s", centres_LD[some], centres_LD[other_S])
        one_S, two_S = size_L[some], size_L[other_S]
        both_S = mixture.genuine_mean(one_S) * mixture.genuine_mean(two_S)
        same_S = both_S / mixture.pair_cosine
        same_S -= SAME_STDS * mixture.face_std * np.sqrt(1 / one_S + 1 / two_S)
        good_S = (other_S != some) & (cosine_S >= least) & (cosine_S < same_S)
        free_S = (rival_LR[some] < 0).argmax(axis=1)
        rows = np.flatnonzero(good_S & (rival_LR[some, -1] < 0))
        rival_LR[some[rows], free_S[rows]] = other_S[rows]
    return rival_LR
