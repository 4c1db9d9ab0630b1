"""Other ways to find wrong labels: each with its own rule, at its best setting where it has one.

"Best" is found with the truth, which nobody has in practice: the peers get the benefit.
cleanlab, scikit-learn and infomap are imported where they are used and are no dependency.

Legend: N faces, L labels, D dimensions, K neighbours.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from bench_labels import Answer, f1
from noisy_labels import NoisySet, unit

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

CUT_75_DEG = 0.2588  # cos 75 deg (Deng et al. 2020, sub-center ArcFace)
SUBCENTERS = 3
SHARES = np.linspace(0.02, 0.98, 49)
NEIGHBOURS = (10, 20, 40, 80)
EDGE_COSINES = (0.25, 0.35, 0.45, 0.5, 0.58)  # .58: face-cluster-by-infomap
SOFTMAX_SCALES = (8.0, 16.0, 32.0, 64.0)  # 64: ArcFace's own
BLOCK_ROWS = 2048


def class_mean(noisy: NoisySet) -> Answer:
    """Drop faces further than 75 degrees from the mean of their label."""
    vectors_ND = unit(noisy.vectors_ND.astype(np.float32))
    centres_LD = _means(vectors_ND, noisy.label_N, len(noisy.owner_L))
    cosine_N = np.einsum("nd,nd->n", vectors_ND, centres_LD[noisy.label_N])
    return Answer(flagged_N=cosine_N < CUT_75_DEG, clean_N=cosine_N.astype(np.float64))


def subcenters(noisy: NoisySet) -> Answer:
    """Drop faces further than 75 degrees from the dominant of three sub-centres (k-means)."""
    vectors_ND = unit(noisy.vectors_ND.astype(np.float32))
    cosine_N = np.zeros(len(vectors_ND))
    for rows in _by_label(noisy.label_N):
        own = vectors_ND[rows]
        centres = _spread(own, min(SUBCENTERS, len(own)))
        for _ in range(10):
            nearest = (own @ centres.T).argmax(axis=1)
            sums = [own[nearest == c].sum(axis=0) for c in range(len(centres))]
            centres = unit(
                np.stack([s if s.any() else c for s, c in zip(sums, centres, strict=True)])
            )
        dominant = np.bincount(nearest, minlength=len(centres)).argmax()
        cosine_N[rows] = own @ centres[dominant]
    return Answer(flagged_N=cosine_N < CUT_75_DEG, clean_N=cosine_N)


def cleanlab_best(noisy: NoisySet) -> Answer:
    """Return the best of cleanlab's filters over softmax scales of centre cosines."""
    from cleanlab.filter import find_label_issues

    vectors_ND = unit(noisy.vectors_ND.astype(np.float32))
    kept = np.bincount(noisy.label_N, minlength=len(noisy.owner_L)) > 0
    label_N = (np.cumsum(kept) - 1)[noisy.label_N]
    centres_LD = _means(vectors_ND, label_N, int(kept.sum()))
    cosine_NL = vectors_ND @ centres_LD.T
    best = Answer(flagged_N=np.zeros(len(label_N), dtype=bool))
    for scale in SOFTMAX_SCALES:
        odds_NL = np.exp(scale * (cosine_NL - cosine_NL.max(axis=1, keepdims=True)))
        odds_NL /= odds_NL.sum(axis=1, keepdims=True)
        for rule in ("prune_by_noise_rate", "both", "confident_learning", "low_self_confidence"):
            flagged_N = find_label_issues(label_N, odds_NL, filter_by=rule, n_jobs=1)
            best = _better(noisy, best, Answer(flagged_N=np.asarray(flagged_N)))
    return best


def neighbour_votes(noisy: NoisySet) -> Answer:
    """Drop faces of whose neighbours too few have their label; best number and share."""
    near_NK, _ = _neighbours(noisy, max(NEIGHBOURS))
    best = Answer(flagged_N=np.zeros(len(noisy.label_N), dtype=bool))
    for count in NEIGHBOURS:
        share_N = (noisy.label_N[near_NK[:, :count]] == noisy.label_N[:, None]).mean(axis=1)
        for cut in SHARES:
            best = _better(noisy, best, Answer(flagged_N=share_N < cut, clean_N=share_N))
    return best


def infomap_dominant(noisy: NoisySet) -> Answer:
    """Keep the largest community of each label, found by Infomap on the kNN graph; best cut."""
    from infomap import Infomap

    near_NK, cosine_NK = _neighbours(noisy, 50)
    best = Answer(flagged_N=np.zeros(len(noisy.label_N), dtype=bool))
    for cut in EDGE_COSINES:
        graph = Infomap("--two-level --directed --silent --seed 1")
        row, place = np.nonzero(cosine_NK >= cut)
        ends = zip(row.tolist(), near_NK[row, place].tolist(), strict=True)
        weights = cosine_NK[row, place].tolist()
        graph.add_nodes(range(len(noisy.label_N)))
        graph.add_links([(a, b, w) for (a, b), w in zip(ends, weights, strict=True)])
        graph.run()
        modules = graph.get_modules()
        community_N = np.array([modules[n] for n in range(len(noisy.label_N))])
        flagged_N = np.ones(len(noisy.label_N), dtype=bool)
        for rows in _by_label(noisy.label_N):
            found, count = np.unique(community_N[rows], return_counts=True)
            flagged_N[rows[community_N[rows] == found[count.argmax()]]] = False
        best = _better(noisy, best, Answer(flagged_N=flagged_N))
    return best


def _better(noisy: NoisySet, one: Answer, other: Answer) -> Answer:
    wrong_N = noisy.wrong_N
    return max(one, other, key=lambda a: f1(wrong_N, a.flagged_N))


def _by_label(label_N: Int64) -> list[Int64]:
    order = np.argsort(label_N, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(label_N[order])) + 1)


def _means(vectors_ND: Float32, label_N: Int64, labels: int) -> Float32:
    sums_LD = np.zeros((labels, vectors_ND.shape[1]), np.float32)
    np.add.at(sums_LD, label_N, vectors_ND)
    return sums_LD / np.maximum(np.linalg.norm(sums_LD, axis=1, keepdims=True), 1e-9)


def _spread(own_ND: Float32, count: int) -> Float32:
    """Return first centres: the face nearest to all, then each time the furthest from those."""
    chosen = [int((own_ND @ own_ND.sum(axis=0)).argmax())]
    while len(chosen) < count:
        chosen.append(int((own_ND @ own_ND[chosen].T).max(axis=1).argmin()))
    return own_ND[chosen]


def _neighbours(noisy: NoisySet, count: int) -> tuple[Int64, Float32]:
    """Return the exact nearest other faces and their cosines, falling."""
    vectors_ND = unit(noisy.vectors_ND.astype(np.float32))
    near_NK = np.empty((len(vectors_ND), count), np.int64)
    cosine_NK = np.empty((len(vectors_ND), count), np.float32)
    for start in range(0, len(vectors_ND), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        cosine_BN = vectors_ND[block] @ vectors_ND.T
        rows = np.arange(len(cosine_BN))
        cosine_BN[rows, start + rows] = -2.0
        top = np.argpartition(-cosine_BN, count, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(cosine_BN, top, axis=1), axis=1, kind="stable")
        near_NK[block] = np.take_along_axis(top, order, axis=1)
        cosine_NK[block] = np.take_along_axis(cosine_BN, near_NK[block], axis=1)
    return near_NK, cosine_NK


PEERS: dict[str, Callable[[NoisySet], Answer]] = {
    "class mean at 75 deg": class_mean,
    "sub-centres at 75 deg": subcenters,
    "cleanlab, best filter": cleanlab_best,
    "kNN share, best cut": neighbour_votes,
    "Infomap, best cut": infomap_dominant,
}
