"""People found among faces without a label: groups of faces that are one person.

    neighbours  each face's nearest other faces (facepipe.knn_graph)
    merge       groups whose centres are more alike than strangers' are joined, the surest first
                (facepipe.cluster_merge)
    fit         how alike one person's faces are, and strangers, as the groups found show it
                (facepipe.cluster_model)
    move        each face goes to the person it fits best, or stays alone (facepipe.cluster_polish)

and from merge on again until hardly a face moves. No threshold is set: all of them follow from
the vectors. Nothing in it is random, and ties are broken by the order of the faces.

Legend: N faces, D dimensions, P pairs, E pairs of faces.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from facepipe.centres import VectorRows
from facepipe.cluster_merge import Groups, linked, merge
from facepipe.cluster_model import PersonModel, first_model, fitted_model
from facepipe.cluster_polish import Shared, fits, move, shared_groups
from facepipe.knn_graph import KnnGraph, knn_graph
from facepipe.mixture import logistic
from facepipe.neighbors import unit_rows
from facepipe.threshold import Strangers

Float = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

MAX_ROUNDS = 8
SETTLED_SHARE = 1e-3  # of faces that move in a round: what is left is doubtful either way
AMBIGUOUS = 0.05  # probability from which two people are shown as perhaps one
# Pairs of strangers expected over it in all photos of the data: two faces more alike are one.
EVER_PAIRS = 0.01
PAIR_ROWS = 4096


class ClusterSettings(BaseModel):
    """How people are looked for; what makes a person follows from the data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    neighbors: int = Field(
        24, ge=2, le=1024, description="nearest faces of each face that people are looked for in"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonPairs:
    """Pairs of people who may be one person; first < second, sorted."""

    first_P: Int64
    second_P: Int64
    probability_P: Float  # that they are one
    cosine_P: Float  # of their centres
    apart_P: npt.NDArray[np.bool_]  # not joined because faces of theirs are to stay apart


@dataclass(frozen=True, slots=True, kw_only=True)
class People:
    """Who each face is, without a name."""

    person_N: Int64  # 0.. in the order of their first faces; -1: nobody else's face, alone
    confidence_N: Float  # probability that the face belongs there
    cosine_N: Float  # to the mean of the other faces of its person; 0 where alone
    pairs: PersonPairs
    model: PersonModel
    recall: float  # share of true nearest neighbours that were looked at


def find_people(
    vectors: VectorRows,
    settings: ClusterSettings,
    *,
    cannot_link: Int64 | None = None,
    must_link: Int64 | None = None,
    threads: int = 1,
) -> People:
    """Find out which faces are one person.

    vectors: (N, D) unit rows, float16 or float32, read a block at a time; all zeros for a face
    that has none. cannot_link, must_link: (E, 2) rows of two faces each that are two people, and
    one. Where both are said of two faces, directly or over others, they are one. threads: for
    the neighbours; any number gives the same people.
    """
    group_N, pinned_N = _said(vectors.shape[0], _checked(must_link, vectors.shape[0]))
    apart = _checked(cannot_link, vectors.shape[0])
    apart = apart[group_N[apart[:, 0]] != group_N[apart[:, 1]]]
    apart_E = (apart[:, 0], apart[:, 1])
    graph = knn_graph(vectors, settings.neighbors, threads=threads)
    model = first = first_model(vectors)
    for _ in range(MAX_ROUNDS):
        groups = Groups(vectors, group_N)
        changes = merge(groups, graph, model, apart_E)
        shared = shared_groups(vectors, groups.group_N)
        model = _fitted(first, vectors, groups.group_N, shared)
        fit = fits(vectors, graph, shared, model)
        group_N, moves = move(groups.group_N, shared, fit, pinned_N, apart_E)
        if changes + moves <= SETTLED_SHARE * len(group_N):
            break
    return _people(first, vectors, graph, group_N, apart_E)


def _checked(pairs: Int64 | None, faces: int) -> Int64:
    if pairs is None or not len(pairs):
        return np.empty((0, 2), np.int64)
    pairs = np.asarray(pairs, np.int64)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.min() < 0 or pairs.max() >= faces:
        raise ValueError(f"links are pairs of rows 0..{faces - 1}, as an (E, 2) array")
    return pairs


def _said(faces: int, must_link: Int64) -> tuple[Int64, npt.NDArray[np.bool_]]:
    """Return the groups that were said to be one person, and which faces that is about."""
    group_N = np.arange(faces)
    for a, b in must_link.tolist():
        while group_N[a] != a:
            a = group_N[a]
        while group_N[b] != b:
            b = group_N[b]
        group_N[max(a, b)] = min(a, b)
    while (group_N[group_N] != group_N).any():
        group_N = group_N[group_N]
    pinned_N = np.zeros(faces, np.bool_)
    pinned_N[must_link.ravel()] = True
    return group_N, pinned_N


def _fitted(first: PersonModel, vectors: VectorRows, group_N: Int64, shared: Shared) -> PersonModel:
    grouped_N = shared.place_N >= 0
    cosine_M, others_M = shared.cosine_N[grouped_N], shared.others_N[grouped_N]
    return fitted_model(first, vectors, group_N, cosine_M, others_M)


def _people(
    first: PersonModel,
    vectors: VectorRows,
    graph: KnnGraph,
    group_N: Int64,
    apart_E: tuple[Int64, Int64],
) -> People:
    """Number the groups of two faces or more as people, and say how sure that is."""
    groups = Groups(vectors, group_N)  # names them after their first faces
    shared = shared_groups(vectors, groups.group_N)
    model = _fitted(first, vectors, groups.group_N, shared)
    fit = fits(vectors, graph, shared, model)
    return People(
        person_N=shared.place_N,
        confidence_N=np.exp(fit.own_N - fit.all_N),
        cosine_N=shared.cosine_N,
        pairs=_ambiguous(graph, shared, model, apart_E),
        model=model,
        recall=graph.recall,
    )


def _ambiguous(
    graph: KnnGraph, shared: Shared, model: PersonModel, apart_E: tuple[Int64, Int64]
) -> PersonPairs:
    place_N, people = shared.place_N, len(shared.names_G)
    # A face that is alone is a group of its own here, with a number above all people's.
    group_N = np.where(place_N >= 0, place_N, people + np.arange(len(place_N)))
    first_P, second_P = linked(group_N, graph)
    both = second_P < people
    first_P, second_P = first_P[both], second_P[both]
    cosine_P = np.empty(len(first_P))
    for start in range(0, len(first_P), PAIR_ROWS):
        block = slice(start, start + PAIR_ROWS)
        cosine_P[block] = np.einsum(
            "pd,pd->p", shared.centres_GD[first_P[block]], shared.centres_GD[second_P[block]]
        )
    odds_P = model.log_odds(cosine_P, shared.size_G[first_P], shared.size_G[second_P])
    shown = np.flatnonzero(odds_P > math.log(AMBIGUOUS / (1 - AMBIGUOUS)))
    first_P, second_P = first_P[shown], second_P[shown]
    a_E, b_E = group_N[apart_E[0]], group_N[apart_E[1]]
    apart_keys = np.minimum(a_E, b_E) * people + np.maximum(a_E, b_E)
    apart_keys = apart_keys[np.maximum(a_E, b_E) < people]
    return PersonPairs(
        first_P=first_P,
        second_P=second_P,
        probability_P=logistic(odds_P[shown]),
        cosine_P=cosine_P[shown],
        apart_P=np.isin(first_P * people + second_P, apart_keys),
    )


def photo_constraints(photo_N: Int64, vectors: VectorRows) -> Int64:
    """Return the pairs of rows that one photo shows as two people, (P, 2), sorted.

    photo_N: the photo of each face, any integers. Two faces of a photo are two people, except in
    a collage, a mirror, or where one face was detected twice: two that are more alike than any
    two strangers of so many pairs can be expected to be are left out.
    """
    order = np.argsort(photo_N, kind="stable")
    sorted_N = photo_N[order]
    found = [np.empty((0, 2), np.int64)]
    for step in range(1, len(order)):
        same = np.flatnonzero(sorted_N[step:] == sorted_N[:-step])
        if not len(same):
            break
        found.append(np.stack([order[same], order[same + step]], axis=1))
    pairs = np.concatenate(found)
    if not len(pairs):
        return pairs
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]  # of equal photos rows rise
    model = first_model(vectors)
    strangers = Strangers(model.stranger_mean, model.stranger_std)
    limit = strangers.threshold(EVER_PAIRS / len(pairs))
    alike = np.empty(len(pairs), np.bool_)
    for start in range(0, len(pairs), PAIR_ROWS):
        block = pairs[start : start + PAIR_ROWS]
        cosine = np.einsum(
            "pd,pd->p", unit_rows(vectors[block[:, 0]]), unit_rows(vectors[block[:, 1]])
        )
        alike[start : start + PAIR_ROWS] = cosine > limit
    return pairs[~alike]
