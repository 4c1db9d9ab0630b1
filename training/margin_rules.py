"""The losses whose margin is fixed: what a head asks of each one, and their settings.

A head computes cosines (or plain dot products) and a log-sum-exp; a rule says what happens
to them. The rules whose margin follows the batch are in `adaptive_rules`.

Legend: B samples, C classes, D embedding.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from training import margins

SCALE = 64.0  # s of CosFace, ArcFace and all that followed them
MIN_NORM = 1e-6  # a shorter embedding has no direction: cosines of 0, and no gradient


class RuleSettings(BaseModel):
    """What every loss has."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ScaledSettings(RuleSettings):
    """What every loss on cosines has."""

    scale: float = Field(SCALE, gt=0, description="s, by which cosines become logits")


class Softmax(RuleSettings):
    """Plain softmax on W^T x + b."""

    name: Literal["softmax"] = "softmax"


class NormFace(ScaledSettings):
    """Softmax on s * c, without a margin."""

    name: Literal["normface"] = "normface"


class CosFace(ScaledSettings):
    """Softmax on s * (c - m): CosFace, AM-Softmax."""

    name: Literal["cosface"] = "cosface"
    margin: float = Field(0.4, ge=0, le=2, description="m, in cosine; 0.35 to 0.4 are usual")


class ArcFace(ScaledSettings):
    """Softmax on s * cos(theta + m)."""

    name: Literal["arcface"] = "arcface"
    margin_rad: float = Field(0.5, ge=0, le=3.14, description="m, in radians")
    gradient: Literal["exact", "detached"] = Field(
        "exact", description="detached: a target logit's gradient is s, as in arcface_torch"
    )
    past_pi: margins.PastPi = Field(
        "linear", description="what holds where theta + m > pi; wrap: as in arcface_torch"
    )


class Combined(ScaledSettings):
    """Softmax on s * (cos(m1 theta + m2) - m3)."""

    name: Literal["combined"] = "combined"
    m1: float = Field(1.0, ge=1, description="multiplies theta")
    m2_rad: float = Field(0.3, ge=0, le=3.14, description="is added to theta, in radians")
    m3: float = Field(0.2, ge=0, le=2, description="is subtracted from the cosine")
    gradient: Literal["exact", "detached"] = Field(
        "exact", description="detached: a target logit's gradient is s, as in arcface_torch"
    )
    past_pi: Literal["piecewise", "wrap"] = Field(
        "piecewise", description="what holds where m1 theta + m2 > pi; wrap: the bare cosine"
    )


class AnnealedSettings(RuleSettings):
    """The margin m theta, and how softmax gives way to it: (lambda c + psi) / (1 + lambda)."""

    m: int = Field(4, ge=1, le=8, description="multiplies theta")
    lambda_base: float = Field(1000.0, ge=0, description="lambda = max(floor, base / (1 + g t))")
    lambda_gamma: float = Field(0.12, ge=0, description="g; t counts training steps")
    lambda_floor: float = Field(5.0, ge=0, description="lambda never goes below")


class LSoftmax(AnnealedSettings):
    """Softmax on ||W|| ||x|| psi(theta)."""

    name: Literal["lsoftmax"] = "lsoftmax"


class SphereFace(AnnealedSettings):
    """Softmax on ||x|| psi(theta): A-Softmax."""

    name: Literal["sphereface"] = "sphereface"


class MarginRule(nn.Module):
    """What a head asks of a loss. This one is NormFace (arXiv:1704.06369, eq. 5): s * c."""

    unit_embeddings = True  # logits are made of x / ||x||, the scale brings ||x|| back if need be
    unit_centres = True  # and of W / ||W||: dot products are cosines
    bias = False  # the last column of the centres is a bias

    def __init__(self, scale: float = SCALE) -> None:
        """Keep the scale."""
        super().__init__()
        self.fixed_scale = scale

    def vectors(self, embeddings_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is multiplied with the centres, and the norms of the embeddings (B,)."""
        norms_B = torch.linalg.vector_norm(embeddings_BD, dim=1)
        if self.bias:
            ones = torch.ones_like(embeddings_BD[:, :1])
            return torch.cat([embeddings_BD, ones], dim=1), norms_B
        if self.unit_embeddings:
            known_B1 = norms_B[:, None] >= MIN_NORM
            units_BD = embeddings_BD / torch.where(known_B1, norms_B[:, None], 1.0)
            return torch.where(known_B1, units_BD, 0.0), norms_B
        return embeddings_BD, norms_B

    def scale(self, norms_B: Tensor) -> Tensor:
        """Return what each sample's cosines are multiplied with (B,)."""
        return torch.full_like(norms_B, self.fixed_scale)

    def observe(self, dots_B: Tensor, norms_B: Tensor, valid_B: Tensor) -> None:
        """Take note of a training batch, before its loss; all ranks see the same one."""

    def target(self, dots_B: Tensor, norms_B: Tensor, centre_norms_B: Tensor) -> Tensor:
        """Return phi (B,) for the products with the target centres, before the scale."""
        return margins.widen(dots_B)

    def hard(self, dots_B: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return (threshold_B, t) where negatives above a threshold become c (t + c)."""
        return None

    def penalty(self, norms_B: Tensor) -> Tensor | None:
        """Return what is added to each sample's loss (B,), if anything is."""
        return None


class SoftmaxRule(MarginRule):
    """z = W^T x + b."""

    unit_embeddings = False
    unit_centres = False
    bias = True

    def __init__(self) -> None:
        """Take a scale of 1."""
        super().__init__(scale=1.0)


class CosFaceRule(MarginRule):
    """z_y = s (c - m)."""

    def __init__(self, settings: CosFace) -> None:
        """Keep the margin."""
        super().__init__(settings.scale)
        self.margin = settings.margin

    def target(self, dots_B: Tensor, norms_B: Tensor, centre_norms_B: Tensor) -> Tensor:
        """Return c - m."""
        return margins.cosface(dots_B, self.margin)


class CombinedRule(MarginRule):
    """z_y = s (cos(m1 theta + m2) - m3); ArcFace with m1 = 1, m3 = 0."""

    def __init__(self, settings: ArcFace | Combined) -> None:
        """Keep the margins."""
        super().__init__(settings.scale)
        if isinstance(settings, ArcFace):
            self.m1, self.m2_rad, self.m3 = 1.0, settings.margin_rad, 0.0
        else:
            self.m1, self.m2_rad, self.m3 = settings.m1, settings.m2_rad, settings.m3
        self.past_pi: margins.PastPi = settings.past_pi
        self.detached = settings.gradient == "detached"

    def target(self, dots_B: Tensor, norms_B: Tensor, centre_norms_B: Tensor) -> Tensor:
        """Return cos(m1 theta + m2) - m3."""
        phi = margins.combined(dots_B, self.m1, self.m2_rad, self.m3, self.past_pi)
        return margins.straight_through(dots_B, phi) if self.detached else phi


class SteppedRule(MarginRule):
    """A rule that depends on the number of training batches seen, which the state holds.

    A Python number, not a buffer: reading a buffer back would stall a GPU in every step.
    """

    def __init__(self, scale: float = SCALE) -> None:
        """Start at step 0."""
        super().__init__(scale)
        self.steps = 0

    def get_extra_state(self) -> Tensor:
        """Return the number of steps, for the state dict."""
        return torch.tensor(self.steps)

    def set_extra_state(self, state: Tensor) -> None:
        """Continue at a step."""
        self.steps = int(state)

    def observe(self, dots_B: Tensor, norms_B: Tensor, valid_B: Tensor) -> None:
        """Count the step."""
        self.steps += 1


class AnnealedRule(SteppedRule):
    """z_y = ||x|| (lambda c + psi(theta)) / (1 + lambda), times ||W|| for L-Softmax."""

    def __init__(self, settings: SphereFace | LSoftmax) -> None:
        """Keep m and lambda's course."""
        super().__init__()
        self.m = settings.m
        self.lambda_base, self.lambda_gamma = settings.lambda_base, settings.lambda_gamma
        self.lambda_floor = settings.lambda_floor
        self.unit_centres = isinstance(settings, SphereFace)

    @property
    def lam(self) -> float:
        """Return lambda at the present step."""
        return margins.sphereface_lambda(
            self.steps, self.lambda_base, self.lambda_gamma, self.lambda_floor
        )

    def scale(self, norms_B: Tensor) -> Tensor:
        """Return ||x||."""
        return norms_B

    def target(self, dots_B: Tensor, norms_B: Tensor, centre_norms_B: Tensor) -> Tensor:
        """Return the annealed psi; dots are ||W|| c for L-Softmax."""
        if self.unit_centres:
            psi = margins.sphereface_psi(dots_B, self.m)
        else:
            # A row without a label has no centre; its loss counts nothing.
            lengths = centre_norms_B.clamp(min=MIN_NORM)
            psi = lengths * margins.sphereface_psi(dots_B / lengths, self.m)
        return margins.annealed(dots_B, psi, self.lam)


def weighted_mean(losses_B: Tensor, labels_B: Tensor, weights_B: Tensor | None) -> Tensor:
    """Return sum(w l) / sum(w) over rows whose label is not -1; 0 where there are none."""
    weights = (labels_B != -1).to(losses_B.dtype)
    if weights_B is not None:
        weights = weights * weights_B.to(losses_B.dtype)
    total = weights.sum()
    # where, not a product alone: a NaN in a row that does not count must not count.
    kept = torch.where(weights > 0, losses_B, 0.0) * weights
    return kept.sum() / torch.where(total > 0, total, 1.0)


def smoothed(
    losses_B: Tensor, targets_B: Tensor, sums_B: Tensor, classes: Tensor | int, smoothing: float
) -> Tensor:
    """Return cross-entropies with label smoothing, from those without.

    arXiv:1512.00567, section 7: a share eps of the label is spread over all classes, so that
    the loss is lse - (1 - eps) z_y - eps / C sum_j z_j. ``targets_B`` holds z_y and ``sums_B``
    the sum over all classes.
    """
    return losses_B + smoothing * (targets_B - sums_B / classes)


def cross_entropies(logits_BC: Tensor, labels_B: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return each row's cross-entropy (B,), 0 where the label is -1; see `smoothed`."""
    return F.cross_entropy(
        margins.widen(logits_BC),
        labels_B,
        ignore_index=-1,
        reduction="none",
        label_smoothing=smoothing,
    )
