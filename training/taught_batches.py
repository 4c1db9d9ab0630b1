"""The batches of a taught pool: what is learned of each picture, in an order that is a function.

Legend: N pictures of the pool, B of a batch, D dimensions, H, W pixels.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.export import HALF_RANGE
from training.face_mixes import NO_SOURCE
from training.face_windows import NOBODY
from training.keyed_random import key_of, permutation
from training.taught_pool import read_file

NO_EPOCH = -1
_ORDER = 42  # what a key is for: training.keyed_random


class TaughtBatches:
    """A pool in memory: pictures encoded, targets ready."""

    def __init__(self, folder: Path, files: int) -> None:
        """Read the first files of a pool. Raises CorruptData."""
        read = [read_file(folder, number) for number in range(files)]
        self._jpeg = [jpeg for file in read for jpeg in file.jpeg]
        self._target_ND = _unit(np.concatenate([file.embedding_PD for file in read]))
        self._source_N = np.concatenate([file.source_P for file in read])
        self._epoch = NO_EPOCH  # whose order is at hand

    def __len__(self) -> int:
        """Return N."""
        return len(self._jpeg)

    @property
    def dim(self) -> int:
        """Return D."""
        return int(self._target_ND.shape[1])

    def lean_on_people(
        self, person_F: npt.NDArray[np.int64], taught_FD: npt.NDArray[np.float32], weight: float
    ) -> None:
        """Move targets of pictures that show one named face towards that person's mean.

        ``person_F`` and ``taught_FD`` are of the faces that the pool was made of.
        """
        named_F = person_F != NOBODY
        sums = np.zeros((int(person_F.max(initial=NOBODY)) + 1, self.dim), np.float64)
        np.add.at(sums, person_F[named_F], taught_FD[named_F].astype(np.float64))
        mean_PD = _unit(sums.astype(np.float32))
        person_N = np.where(
            self._source_N == NO_SOURCE, NOBODY, person_F[np.maximum(self._source_N, 0)]
        )
        shown = person_N != NOBODY
        leaned = self._target_ND[shown] + np.float32(weight) * mean_PD[person_N[shown]]
        self._target_ND[shown] = _unit(leaned)

    def batch(self, step: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return pictures (B, 3, H, W) in [-1, 1], RGB, and targets (B, D).

        Step counts from 0; an epoch is as many whole batches as the pool has.
        """
        epoch, place = divmod(step, len(self) // size)
        if self._epoch != epoch:
            self._epoch = epoch
            self._order = permutation(key_of(seed, _ORDER, epoch), len(self))
        chosen_B = self._order[place * size : (place + 1) * size]
        return as_input(self.pictures(chosen_B)), torch.from_numpy(self._target_ND[chosen_B])

    def pictures(self, chosen_B: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Return some pictures by number, (B, H, W, 3), BGR."""
        return np.stack([_decoded(self._jpeg[n]) for n in chosen_B.tolist()])


def as_input(pixels_BHWC: npt.NDArray[np.uint8]) -> Tensor:
    """Return BGR pictures as a backbone takes them, channels last in memory."""
    rgb = torch.from_numpy(np.ascontiguousarray(pixels_BHWC[..., ::-1]))
    # A permuted view of B x H x W x C is channels last as it is.
    return rgb.permute(0, 3, 1, 2).float().sub_(HALF_RANGE).div_(HALF_RANGE)


def _decoded(jpeg: bytes) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), np.uint8)


def _unit(vectors_ND: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    lengths = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return np.asarray(vectors_ND / np.maximum(lengths, 1e-12), np.float32)
