"""Whether two forms of one net answer alike.

Legend: B pictures, D dimensions.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from training.backbone import IMAGE_PX

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]

PICTURES = 8
LEAST_COSINE = 0.99999
ROUNDING = 1e-5  # of the embeddings' size: a hundred times float32's


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """How alike two forms of one net answer, at the worst of the pictures."""

    cosine: float  # of the two embeddings
    centred_cosine: float  # the same, less the mean embedding: a common part hides nothing
    difference: float  # the greatest of any dimension, over the root mean square of all

    @property
    def holds(self) -> bool:
        """Return whether both cosines are at least `LEAST_COSINE`.

        A net that tells pictures apart by less than float32 resolves, as a fresh one may,
        is only asked for the same numbers.
        """
        apart = self.centred_cosine >= LEAST_COSINE or self.difference <= ROUNDING
        return self.cosine >= LEAST_COSINE and apart


def made_crops() -> list[Pixels]:
    """Return the same made crops each time, 112 x 112 BGR: coarse and fine blocks of colour."""
    rng = np.random.default_rng(112)
    sides = [4, 7, 14, 28, 56, IMAGE_PX, 4, 28][:PICTURES]
    size = (IMAGE_PX, IMAGE_PX)
    return [
        np.asarray(
            cv2.resize(rng.integers(0, 256, (side, side, 3), dtype=np.uint8), size), np.uint8
        )
        for side in sides
    ]


def as_input(crops: list[Pixels]) -> Floats:
    """Return BGR crops as a backbone takes them: B x 3 x 112 x 112 in [-1, 1], RGB."""
    stack = np.stack(crops)[..., ::-1].astype(np.float32)
    return np.ascontiguousarray(((stack - 127.5) / 127.5).transpose(0, 3, 1, 2))


def plain_copy(net: nn.Module) -> nn.Module:
    """Return a copy on the CPU, in float32 and evaluation mode, where no TF32 blurs it."""
    return deepcopy(net).to("cpu", torch.float32).eval()


def embed(net: nn.Module, blob_BCHW: Floats) -> Floats:
    """Return B x D of a net as `plain_copy` makes it."""
    with torch.no_grad():
        return np.asarray(net(torch.from_numpy(blob_BCHW)).numpy(), np.float32)


def compare(one_BD: Floats, other_BD: Floats) -> Parity:
    """Compare two answers to the same pictures; an answer that is not finite never holds."""
    one, other = one_BD.astype(np.float64), other_BD.astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinities: their cosine becomes -1
        mean = one.mean(axis=0)
        size = max(float(np.sqrt(np.mean(one**2))), 1e-30)
        return Parity(
            cosine=_least_cosine(one, other),
            centred_cosine=_least_cosine(one - mean, other - mean),
            difference=float(np.abs(one - other).max()) / size,
        )


def _least_cosine(one_BD: NDArray[np.float64], other_BD: NDArray[np.float64]) -> float:
    lengths = np.linalg.norm(one_BD, axis=1) * np.linalg.norm(other_BD, axis=1)
    cosines = np.einsum("bd,bd->b", one_BD, other_BD) / np.maximum(lengths, 1e-30)
    return float(np.nan_to_num(cosines, nan=-1.0).min())
