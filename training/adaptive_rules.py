"""The losses whose margin follows the sample or the batch, and their settings.

Legend: B samples.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from training import margins
from training.margin_rules import MarginRule, ScaledSettings, SteppedRule


class Dynamic(ScaledSettings):
    """Softmax on s * (c - m exp(1 - c) / lambda): a larger margin for a harder sample."""

    name: Literal["dynamic"] = "dynamic"
    margin: float = Field(0.2, ge=0, description="m, in cosine; 0.2 in the paper, on speakers")
    hardness: float = Field(2.0, gt=0, description="lambda; 2 in the paper")


class AdaFace(ScaledSettings):
    """Margins by picture quality, which the norm of the embedding stands for."""

    name: Literal["adaface"] = "adaface"
    margin: float = Field(0.4, ge=0, description="m, in radians and in cosine")
    concentration: float = Field(0.333, ge=0, description="h")
    ema: float = Field(0.01, ge=0, le=1, description="weight of a batch in the norm statistics")


class MagFace(ScaledSettings):
    """A margin that grows with the norm, and a penalty that pulls norms up."""

    name: Literal["magface"] = "magface"
    norm_range: tuple[float, float] = Field((10.0, 110.0), description="l_a, u_a")
    margin_range_rad: tuple[float, float] = Field((0.45, 0.8), description="l_m, u_m")
    penalty: float = Field(35.0, ge=0, description="lambda_g")
    past_pi: margins.PastPi = "linear"


class CurricularFace(ScaledSettings):
    """ArcFace whose hard negatives count more as training goes on."""

    name: Literal["curricularface"] = "curricularface"
    margin_rad: float = Field(0.5, ge=0, le=3.14, description="m, in radians")
    ema: float = Field(0.01, ge=0, le=1, description="weight of a batch in t")


class ElasticFace(ScaledSettings):
    """ArcFace or CosFace with margins drawn anew for every sample."""

    name: Literal["elasticface"] = "elasticface"
    kind: Literal["arc", "cos"] = "arc"
    margin: float = Field(0.5, ge=0, description="mean: 0.5 rad (arc), 0.35 (cos)")
    std: float = Field(0.0125, ge=0, description="standard deviation")
    seed: int = Field(0, ge=0, description="of the draws, which depend on it and the step alone")


def _move(average: Tensor, value: Tensor, share: float, known: Tensor) -> None:
    """Move a running average by a share of the way to a value, where that is known, in place."""
    average += torch.where(known, (value.to(average) - average) * share, 0.0)


class DynamicRule(MarginRule):
    """z_y = s (c - m exp(1 - c) / lambda)."""

    def __init__(self, settings: Dynamic) -> None:
        """Keep the margin."""
        super().__init__(settings.scale)
        self.margin, self.hardness = settings.margin, settings.hardness

    def target(self, dots_B: Tensor, norms_B: Tensor, centre_norms_B: Tensor) -> Tensor:
        """Return c - m_i."""
        return margins.dynamic(dots_B, self.margin, self.hardness)


class AdaFaceRule(MarginRule):
    """z_y = s (cos(theta - m z) - (m + m z)), z from running statistics of the norms."""

    norm_mean: Tensor
    norm_std: Tensor

    def __init__(self, settings: AdaFace) -> None:
        """Start from the statistics that AdaFace's code starts from."""
        super().__init__(settings.scale)
        self.margin, self.concentration = settings.margin, settings.concentration
        self.ema = settings.ema
        self.register_buffer("norm_mean", torch.tensor(20.0))
        self.register_buffer("norm_std", torch.tensor(100.0))

    def observe(self, dots_B: Tensor, norms_B: Tensor, valid_B: Tensor) -> None:
        """Move the statistics by the batch's; one sample has no deviation, and moves none."""
        norms = margins.widen(norms_B).clamp(*margins.ADAFACE_NORM_RANGE)
        count = valid_B.sum()
        mean = (norms * valid_B).sum() / count.clamp(min=1)
        squares = ((norms - mean) ** 2 * valid_B).sum()
        std = (squares / (count - 1).clamp(min=1)).sqrt()
        _move(self.norm_mean, mean, self.ema, count > 0)
        _move(self.norm_std, std, self.ema, count > 1)

    def target(self, dots_B: Tensor, norms_B: Tensor, centre_norms_B: Tensor) -> Tensor:
        """Return AdaFace's phi."""
        quality = margins.adaface_quality(
            norms_B, self.norm_mean, self.norm_std, self.concentration
        )
        return margins.adaface(dots_B, quality, self.margin)


class MagFaceRule(MarginRule):
    """z_y = s cos(theta + m(||x||)), and lambda_g g(||x||) is added to the loss."""

    def __init__(self, settings: MagFace) -> None:
        """Keep the ranges."""
        super().__init__(settings.scale)
        self.norm_range, self.margin_range_rad = settings.norm_range, settings.margin_range_rad
        self.weight, self.past_pi = settings.penalty, settings.past_pi

    def target(self, dots_B: Tensor, norms_B: Tensor, centre_norms_B: Tensor) -> Tensor:
        """Return cos(theta + m(||x||)); its gradient reaches the norm too."""
        margin_rad = margins.magface_margin(norms_B, self.norm_range, self.margin_range_rad)
        return margins.arcface(dots_B, margin_rad, self.past_pi)

    def penalty(self, norms_B: Tensor) -> Tensor:
        """Return lambda_g g(||x||)."""
        return self.weight * margins.magface_penalty(norms_B, self.norm_range)


class CurricularFaceRule(MarginRule):
    """z_y = s cos(theta + m), z_j = s c_j (t + c_j) for hard negatives."""

    t: Tensor

    def __init__(self, settings: CurricularFace) -> None:
        """Start with t = 0: hard negatives count less at first."""
        super().__init__(settings.scale)
        self.margin_rad, self.ema = settings.margin_rad, settings.ema
        self.register_buffer("t", torch.tensor(0.0))

    def observe(self, dots_B: Tensor, norms_B: Tensor, valid_B: Tensor) -> None:
        """Move t towards the batch's mean target cosine."""
        count = valid_B.sum()
        mean = (margins.widen(dots_B) * valid_B).sum() / count.clamp(min=1)
        _move(self.t, mean, self.ema, count > 0)

    def target(self, dots_B: Tensor, norms_B: Tensor, centre_norms_B: Tensor) -> Tensor:
        """Return cos(theta + m)."""
        return margins.arcface(dots_B, self.margin_rad, "linear")

    def hard(self, dots_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return cos(theta_y + m), above which a negative is hard, and t."""
        # A copy: another batch may move t before this one's backward.
        return margins.curricular_threshold(dots_B, self.margin_rad), self.t.clone()


class ElasticFaceRule(SteppedRule):
    """z_y = s cos(theta + m_i) or s (c - m_i), m_i ~ N(m, std^2); m itself in evaluation."""

    def __init__(self, settings: ElasticFace) -> None:
        """Keep the distribution."""
        super().__init__(settings.scale)
        self.kind, self.margin, self.std = settings.kind, settings.margin, settings.std
        self.seed = settings.seed

    def target(self, dots_B: Tensor, norms_B: Tensor, centre_norms_B: Tensor) -> Tensor:
        """Return phi with this step's margins."""
        margin: float | Tensor = self.margin
        if self.training:
            margin = margins.elastic_margins(
                len(dots_B), self.margin, self.std, self.seed, self.steps
            ).to(device=dots_B.device, dtype=margins.widen(dots_B).dtype, non_blocking=True)
        if self.kind == "cos":
            return margins.cosface(dots_B, margin)
        return margins.arcface(dots_B, margin, "linear")
