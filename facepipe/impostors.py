"""How near faces come to what is not theirs, measured on the data at hand.

Legend: N cosines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# Cosines of different people's faces on LFW: mean 0.017, spread 0.067 with a 512-d ArcFace
# model, 0.10 with a 128-d one; and what this knowledge is worth, in pairs of labels.
PRIOR_IMPOSTOR_MEAN, PRIOR_IMPOSTOR_STD, PRIOR_STD_ROOT_DIM = 0.02, 0.067, 1.12
PRIOR_LABEL_PAIRS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Impostors:
    """Cosines of faces to what is not theirs, as measured on the data at hand."""

    mean: float
    std: float
    quantiles: tuple[tuple[float, float], ...]  # (share of them below, cosine)


def impostors(cosine_N: npt.NDArray[np.float32], labels: int, dim: int) -> Impostors:
    """Summarise impostor cosines by their middle, which a split identity does not move.

    Two labels of one person, or wrong labels, put a few genuine cosines among them: the
    median and the 16th percentile ignore those. With few labels that does not hold, and
    what ArcFace models do on LFW counts as PRIOR_LABEL_PAIRS pairs of labels.
    """
    label_pairs = labels * (labels - 1) / 2 if len(cosine_N) else 0.0
    prior_std = max(PRIOR_IMPOSTOR_STD, PRIOR_STD_ROOT_DIM / math.sqrt(dim))
    trust = label_pairs / (label_pairs + PRIOR_LABEL_PAIRS)
    shares = (0.001, 0.01, 0.16, 0.5, 0.84, 0.99, 0.999, 0.9999)
    values = np.quantile(cosine_N.astype(np.float64), shares) if len(cosine_N) else np.zeros(8)
    mean = trust * float(values[3]) + (1 - trust) * PRIOR_IMPOSTOR_MEAN
    spread = float(values[3] - values[2])
    std = math.sqrt(trust * spread**2 + (1 - trust) * prior_std**2)
    measured = zip(shares, values.tolist(), strict=True) if len(cosine_N) else ()
    return Impostors(mean=mean, std=std, quantiles=tuple(measured))
