"""How long do verification measures take, beside insightface's own arithmetic?

    python benchmarks/bench_verification.py [--pairs 6000 60000] [--faces 20000]

Made vectors (512-d), one thread. Accuracy: the peer is `calculate_roc` of insightface's
recognition/arcface_torch/eval/verification.py written out anew (every threshold of the grid
on every fold, also those of the curve that it averages); TAR with a 95 % interval of 2,000
resamples of people has no peer there. Pooling: the peer is `image2template_feature` of its
eval_ijbc.py, a search through all faces for every template. Numbers that should be equal are
compared, and a table is printed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facepipe.bootstrap import paired_difference
from facepipe.det import tars_at_fars
from facepipe.evaluate import fold_accuracy
from facepipe.grid_accuracy import folds_in_order, grid_accuracy, squared_distances
from facepipe.templates import pool

Float = NDArray[np.float64]
DIMENSIONS = 512


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds of the better of two runs, and what it returns."""
    best = float("inf")
    result = None
    for _ in range(2):
        started = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - started)
    return best, result


def peer_accuracy(distance_P: Float, same_P: NDArray[np.bool_], folds: int) -> float:
    """Return the mean accuracy as insightface computes it, curve and all."""

    def accuracy(threshold: float, rows: NDArray[np.int64]) -> tuple[float, float, float]:
        says = np.less(distance_P[rows], threshold)
        truth = same_P[rows]
        tp, fp = np.sum(says & truth), np.sum(says & ~truth)
        tn, fn = np.sum(~says & ~truth), np.sum(~says & truth)
        return tp / max(tp + fn, 1), fp / max(fp + tn, 1), (tp + tn) / len(rows)

    thresholds = np.arange(0, 4, 0.01)
    fold_P, found = folds_in_order(len(same_P), folds), []
    for fold in range(folds):
        test, train = np.flatnonzero(fold_P == fold), np.flatnonzero(fold_P != fold)
        best = int(np.argmax([accuracy(t, train)[2] for t in thresholds]))
        for threshold in thresholds:
            accuracy(threshold, test)
        found.append(accuracy(thresholds[best], test)[2])
    return float(np.mean(found))


def peer_pool(vectors_FD: Float, template_F: Any, medium_F: Any) -> Float:
    """Return template vectors as insightface computes them."""
    rows = []
    for template in np.unique(template_F):
        (own,) = np.where(template_F == template)
        media = [
            vectors_FD[own][medium_F[own] == medium].mean(axis=0)
            for medium in np.unique(medium_F[own])
        ]
        total = np.sum(media, axis=0)
        rows.append(total / np.sqrt(np.sum(total**2)))
    return np.array(rows)


def pairs_rows(pairs: int) -> list[tuple[str, float, str]]:
    """Return a line for each measure of so many pairs."""
    rng = np.random.default_rng(pairs)
    people = max(40, pairs // 8)
    same_P = np.arange(pairs) % 2 == 0
    who = rng.integers(people, size=(pairs, 2))
    who[same_P, 1] = who[same_P, 0]
    who[~same_P, 1] = (
        who[~same_P, 0] + 1 + rng.integers(people - 1, size=(~same_P).sum())
    ) % people
    centre = rng.normal(size=(people, DIMENSIONS))
    sides = [centre[who[:, n]] + rng.normal(0, 1.6, (pairs, DIMENSIONS)) for n in (0, 1)]
    one, other = (s / np.linalg.norm(s, axis=1, keepdims=True) for s in sides)
    fold_P = folds_in_order(pairs)
    distance_P, cosine_P = squared_distances(one, other), np.sum(one * other, axis=1)
    peer_s, peer = timed(lambda: peer_accuracy(distance_P, same_P, 10))
    grid_s, grid = timed(lambda: grid_accuracy(distance_P, same_P, fold_P))
    fine_s, fine = timed(lambda: fold_accuracy(cosine_P, same_P, fold_P))
    tar_s, bands = timed(lambda: tars_at_fars(cosine_P, same_P, [1e-1, 1e-2, 1e-3], who))
    gain_s, _ = timed(lambda: paired_difference(fine.right_P, grid.right_P, who))
    assert abs(grid.mean - peer) < 1e-12, (grid.mean, peer)
    low, high = bands[-1].tar[1:]
    return [
        (f"{pairs:,} pairs, accuracy: insightface's loop", peer_s, f"{peer:.5f}"),
        (f"{pairs:,} pairs, accuracy: grid_accuracy", grid_s, f"{grid.mean:.5f}, equal"),
        (f"{pairs:,} pairs, accuracy: fold_accuracy, all cuts", fine_s, f"{fine.mean:.5f}"),
        (f"{pairs:,} pairs, 3 TARs, 2,000 resamples", tar_s, f"at 1e-3 {low:.4f} to {high:.4f}"),
        (f"{pairs:,} pairs, paired difference, 2,000 resamples", gain_s, ""),
    ]


def pool_rows(faces: int) -> list[tuple[str, float, str]]:
    """Return a line for each way of pooling so many faces, ten a template."""
    rng = np.random.default_rng(faces)
    vectors = rng.normal(size=(faces, DIMENSIONS))
    template, medium = rng.integers(faces // 10, size=faces), rng.integers(4, size=faces)
    peer_s, peer = timed(lambda: peer_pool(vectors, template, medium))
    own_s, own = timed(lambda: pool(vectors, template, medium))
    apart = float(np.abs(own.unit_TD - peer).max())
    assert apart < 1e-12, apart
    return [
        (f"{faces:,} faces pooled: insightface's loop", peer_s, ""),
        (f"{faces:,} faces pooled: pool", own_s, f"{apart:.0e} apart at most"),
    ]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, nargs="+", default=[6000, 60_000])
    parser.add_argument("--faces", type=int, default=20_000)
    given = parser.parse_args()
    rows = [row for pairs in given.pairs for row in pairs_rows(pairs)] + pool_rows(given.faces)
    print(f"| {'measure':<58} | {'seconds':>8} | result |")
    print(f"|{'-' * 60}|{'-' * 10}|---|")
    for what, seconds, result in rows:
        print(f"| {what:<58} | {seconds:>8.3f} | {result} |")


if __name__ == "__main__":
    main()
