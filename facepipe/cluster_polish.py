"""Faces moved to the person they are nearest to, once people have centres.

Legend: N faces, G groups of two faces or more, C candidates (a face and a group), B a block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from facepipe.centres import VectorRows
from facepipe.cluster_merge import several
from facepipe.cluster_model import PersonModel
from facepipe.knn_graph import KnnGraph
from facepipe.neighbors import unit_rows

Float = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

CANDIDATES = 4  # groups, most of a face's neighbours in them, that it is tried with
BLOCK_ROWS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """The groups of two faces or more, and how near each face is to the others of its own."""

    place_N: Int64  # of each face's group among them, -1 for a face alone
    names_G: Int64
    size_G: Int64
    centres_GD: Float32  # unit
    cosine_N: Float  # to the mean of the other faces of its group; 0 where alone
    others_N: Float  # how many those are


@dataclass(frozen=True, slots=True, kw_only=True)
class Fits:
    """How well each face fits its group and the best other one, as log odds against alone."""

    own_N: Float  # 0 where alone
    best_N: Int64  # place of the best other group, -1 for none
    best_odds_N: Float
    all_N: Float  # log of the sum of all odds, those of being alone (1) among them


def shared_groups(vectors: VectorRows, group_N: Int64) -> Shared:
    """Measure the groups of two faces or more."""
    faces, names_G = several(vectors, group_N)
    near = faces.leave_one_out(np.ones(len(faces.label_N)))
    total = len(group_N)
    place_N, cosine_N, others_N = np.full(total, -1), np.zeros(total), np.zeros(total)
    place_N[faces.vector_N] = faces.label_N
    cosine_N[faces.vector_N] = near.cosine_N
    others_N[faces.vector_N] = near.others_N
    return Shared(
        place_N=place_N,
        names_G=names_G,
        size_G=faces.size_L,
        centres_GD=unit_rows(near.sums_LD),
        cosine_N=cosine_N,
        others_N=others_N,
    )


def fits(vectors: VectorRows, graph: KnnGraph, shared: Shared, model: PersonModel) -> Fits:
    """Compare each face with its own group and with those its neighbours are in."""
    total = len(shared.place_N)
    grouped_N = shared.place_N >= 0
    own_N = np.zeros(total)
    own_N[grouped_N] = model.log_odds(shared.cosine_N[grouped_N], 1.0, shared.others_N[grouped_N])
    best_N, best_odds_N = np.full(total, -1), np.full(total, -np.inf)
    all_N = np.where(grouped_N, np.logaddexp(0.0, own_N), 0.0)
    all_N = np.logaddexp(all_N, _single_odds(graph, shared, model))
    for start in range(0, total, BLOCK_ROWS):
        rows = np.arange(start, min(start + BLOCK_ROWS, total))
        face_C, place_C = _candidates(graph, shared, rows)
        unit_BD = unit_rows(vectors[rows])
        cosine_C = np.einsum("cd,cd->c", unit_BD[face_C - start], shared.centres_GD[place_C])
        odds_C = model.log_odds(cosine_C, 1.0, shared.size_G[place_C])
        order = np.lexsort((place_C, -odds_C, face_C))
        first = order[np.flatnonzero(np.diff(face_C[order], prepend=-1))]
        best_N[face_C[first]], best_odds_N[face_C[first]] = place_C[first], odds_C[first]
        np.logaddexp.at(all_N, face_C, odds_C)
    return Fits(own_N=own_N, best_N=best_N, best_odds_N=best_odds_N, all_N=all_N)


def _single_odds(graph: KnnGraph, shared: Shared, model: PersonModel) -> Float:
    """Return the log odds that a face is the person of the nearest face that is alone."""
    alone_NK = (graph.rows_NK >= 0) & (shared.place_N[graph.rows_NK] < 0)
    nearest_N = np.where(alone_NK, graph.cosine_NK, -1.0).max(axis=1, initial=-1.0)
    return model.log_odds(nearest_N, 1.0, 1.0)


def _candidates(graph: KnnGraph, shared: Shared, rows: Int64) -> tuple[Int64, Int64]:
    """Return faces and the other groups that most of their neighbours are in."""
    groups = len(shared.names_G)
    neighbours_BK = graph.rows_NK[rows]
    place_BK = np.where(neighbours_BK >= 0, shared.place_N[neighbours_BK], -1)
    there_BK = (place_BK >= 0) & (place_BK != shared.place_N[rows, None])
    face_E = np.repeat(rows, there_BK.sum(axis=1))
    key_C, votes_C = np.unique(face_E * groups + place_BK[there_BK], return_counts=True)
    face_C = key_C // max(groups, 1)
    order = np.lexsort((key_C, -votes_C, face_C))
    rank = np.arange(len(face_C)) - np.searchsorted(face_C, face_C)  # face_C is sorted
    kept = order[rank < CANDIDATES]
    return face_C[kept], key_C[kept] % max(groups, 1)


def move(
    group_N: Int64,
    shared: Shared,
    fit: Fits,
    pinned_N: npt.NDArray[np.bool_],
    apart_E: tuple[Int64, Int64],
) -> tuple[Int64, int]:
    """Return the groups after each face went where it fits best, and how many went.

    pinned_N: faces that stay. apart_E: pairs of faces that are never brought together; where
    both would move into one group, the one that fits less stays.
    """
    total = len(group_N)
    odds_N = np.where(fit.best_N >= 0, fit.best_odds_N, -np.inf)
    joins_N = (odds_N > fit.own_N) & (odds_N > 0) & ~pinned_N
    leaves_N = ~joins_N & (fit.own_N < 0) & ~pinned_N
    moved_N = group_N.copy()
    moved_N[joins_N] = shared.names_G[fit.best_N[joins_N]]
    moved_N[leaves_N] = total + np.flatnonzero(leaves_N)
    first_E, second_E = apart_E
    while len(first_E):
        clash_E = (moved_N[first_E] == moved_N[second_E]) & (joins_N[first_E] | joins_N[second_E])
        if not clash_E.any():
            break
        a, b = first_E[clash_E], second_E[clash_E]
        back = np.where(joins_N[a] & (~joins_N[b] | (odds_N[a] < odds_N[b])), a, b)
        moved_N[back] = group_N[back]
        joins_N[back] = False
    return moved_N, int(np.count_nonzero(moved_N != group_N))
