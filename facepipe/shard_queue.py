"""Shards over workers: who takes the next one, and what simulated shards cost.

Legend: S shards, W workers.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]

SEED = 20_001  # of the shards' costs
DRAWN_GROUPS = 32  # measured groups that make up a simulated shard


def makespan(costs_S: Sequence[float] | Float, workers: int) -> float:
    """Return when the last of S shards is done, each taken by the first worker that is free."""
    free_W = [0.0] * min(workers, max(1, len(costs_S)))
    last = 0.0
    for cost in costs_S:
        end = free_W[0] + float(cost)
        heapq.heapreplace(free_W, end)
        last = max(last, end)
    return last


def shard_costs(
    photo_s: Sequence[float],
    photos_S: Sequence[int],
    shard_s: float,
    group_photos: float,
    shard_photos: int,
) -> Float:
    """Return seconds of shards, drawn from measured groups (seeded): more shards add to these.

    A shard is as many groups as make up a full one, but at most DRAWN_GROUPS.
    """
    groups = max(1, min(DRAWN_GROUPS, round(shard_photos / max(group_photos, 1.0))))
    values = np.asarray(photo_s, dtype=float)
    drawn = np.random.default_rng(SEED).integers(0, len(values), (len(photos_S), groups))
    return np.asarray(shard_s + np.asarray(photos_S) * values[drawn].mean(axis=1), dtype=float)
