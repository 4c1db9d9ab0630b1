"""The losses as heads take them, and small batches with a hard sample for each branch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.heads import Head, HeadSettings

CLASSES, DIM = 7, 6
LABELS = [0, 3, -1, 6, 3, 5]
WEIGHTS = [1.0, 0.5, 2.0, 0.0, 1.5, 1.0]
MARGINS: dict[str, dict[str, Any]] = {
    "softmax": {},
    "normface": {},
    "cosface": {},
    "arcface": {},
    "arcface detached": {"name": "arcface", "gradient": "detached"},
    "combined": {"m1": 1.2},
    "lsoftmax": {},
    "sphereface": {},
    "dynamic": {},
    "adaface": {},
    "magface": {},
    "curricularface": {},
    "elasticface": {},
}
BY_COSINE = [name for name in MARGINS if name not in {"softmax", "lsoftmax"}]


def settings(name: str, **more: Any) -> HeadSettings:
    """Return a head's settings for one of MARGINS."""
    return HeadSettings.model_validate({"margin": {"name": name, **MARGINS[name]}, **more})


def batch(seed: int = 0, rows: int = len(LABELS), dim: int = DIM) -> Tensor:
    """Return embeddings (B, D), float64, with norms between about 4 and 40."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(rows, dim))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return torch.from_numpy(directions * rng.uniform(4, 40, size=(rows, 1)))


def spread_centres(head: Head, seed: int = 1, near: Tensor | None = None) -> None:
    """Give a head centres of other lengths than the first ones; one opposite to row 1 of a batch.

    So a batch has easy, hard and hopeless samples: the last are past theta + m = pi.
    """
    rng = np.random.default_rng(seed)
    values = torch.from_numpy(rng.normal(size=(head.num_classes, *head.centres.shape[1:])))
    if near is not None:
        values[3, :, :DIM] = -near[1] / near[1].norm() + 0.05 * values[3, :, :DIM]
        values[0, :, :DIM] = near[0] / near[0].norm() + 0.1 * values[0, :, :DIM]
    with torch.no_grad():
        head.centres.copy_(values[head.first : head.last])
