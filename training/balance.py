"""How often a person's samples come in an epoch, where people have very different numbers.

Legend: N samples, L people.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from training.keyed_random import hashes, key_of

Int64 = npt.NDArray[np.int64]
UInt32 = npt.NDArray[np.uint32]
UInt16 = npt.NDArray[np.uint16]

_RING, _START = 11, 12  # what a hash is for


class BalanceSettings(BaseModel):
    """How evenly people share an epoch.

    A person with n samples gets a share of n ** power; 0.5 is the square-root sampling of Mahajan
    et al., "Exploring the limits of weakly supervised pretraining", ECCV 2018. The epoch stays
    about as long as it is without.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    power: float = Field(
        1.0, ge=0, le=1, description="1: every sample once; 0: every person as often"
    )
    max_repeats: int = Field(
        5, ge=1, le=1000, description="most times that a sample comes in an epoch, in the mean"
    )


class Balance:
    """How often each sample comes in each epoch: a function of (seed, epoch).

    A person's samples stand in a ring, in an order of their own. Where t of n are due, the next t
    of the ring come, and in the next epoch those after them: over n epochs every sample has come
    t times, so that none is passed over by chance.
    """

    def __init__(self, label_N: npt.NDArray[np.int32], settings: BalanceSettings, seed: int):
        """Compute everybody's share; 8 bytes a sample stay in memory."""
        self.settings, self.seed = settings, seed
        self._label_N = label_N
        self._size_L = np.bincount(label_N).astype(np.int64)
        self.due_L = due_samples(self._size_L, settings)
        self._ring_N = _ring_places(label_N, self._size_L, seed)

    @property
    def epoch_samples(self) -> int:
        """Return how many samples an epoch has; all epochs have as many."""
        return int(self.due_L.sum())

    def repeats(self, epoch: int) -> UInt16:
        """Return how often each sample comes in an epoch, (N,) uint16."""
        size_L = np.maximum(self._size_L, 1)
        always_L, extra_L = np.divmod(self.due_L, size_L)
        first_L = hashes(key_of(self.seed, _START), np.arange(len(size_L))) % size_L.astype(
            np.uint64
        )
        first_L = (first_L.astype(np.int64) + epoch % size_L * extra_L) % size_L
        label_N = self._label_N
        behind_N = (self._ring_N - first_L[label_N]) % size_L[label_N]
        repeats_N = always_L[label_N] + (behind_N < extra_L[label_N])
        return np.asarray(repeats_N, np.uint16)


def due_samples(size_L: Int64, settings: BalanceSettings) -> Int64:
    """Return how many samples of an epoch each person gets, (L,) int64; one at least.

    Numbers are scaled so that, before they are rounded and cut to ``max_repeats`` a sample, they
    add up to all samples.
    """
    if settings.power == 1:
        return size_L
    share_L = np.where(size_L > 0, np.maximum(size_L, 1).astype(np.float64) ** settings.power, 0)
    scaled_L = np.rint(share_L * (size_L.sum() / share_L.sum())).astype(np.int64)
    due_L = np.clip(scaled_L, np.minimum(size_L, 1), size_L * settings.max_repeats)
    return np.asarray(due_L, np.int64)


def _ring_places(label_N: npt.NDArray[np.int32], size_L: Int64, seed: int) -> UInt32:
    """Return the place of each sample among its person's, (N,) uint32, by hash."""
    order = np.lexsort((hashes(key_of(seed, _RING), np.arange(len(label_N))), label_N))
    start_L = np.cumsum(size_L) - size_L
    places = np.empty(len(label_N), np.uint32)
    places[order] = np.arange(len(label_N)) - start_L[label_N[order]]
    return places
