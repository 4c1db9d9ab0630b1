"""Distillation: a student learns a teacher's embeddings, and how they lie to each other.

Four losses, each with a weight: one on the embeddings themselves, three on relations within the
batch, which no change of coordinates alters, so that the student's dimensions may be fewer.
All are computed in float32 (float64 where the student's embeddings are), on unit embeddings:
faces are told apart by angles alone. Over ranks each rank compares within its own batch.

Legend: B samples, D dimensions of the student, T of the teacher; A samples whose angles count.
"""

from __future__ import annotations

from typing import Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from training.margin_rules import MIN_NORM
from training.metric_losses import distances, unit
from training.teacher import AnyTeacher, Teacher, open_teacher

HUBER_DELTA = 1.0  # where RKD's Huber loss turns from a square into a line: arXiv:1904.05068
MAP_SEED = 0  # the first map is the same on all ranks, and takes nothing from torch's generator


class DistillSettings(BaseModel):
    """From whom, and what of it.

    The defaults are a first try's: 1 - cosine and twice the squared difference of the similarities
    brought a net of 1.75 M parameters from nothing to 97 % on unseen people of LFW in half an hour
    of two cores.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    teacher: AnyTeacher
    embedding: float = Field(1.0, ge=0, description="weight of 1 - cosine")
    similarity: float = Field(2.0, ge=0, description="weight of similarities within the batch")
    distance: float = Field(0.0, ge=0, description="weight of RKD's distances; 1 in its code")
    angle: float = Field(0.0, ge=0, description="weight of RKD's angles; 2 in its code")
    angle_samples: int = Field(
        64, ge=3, description="A, the first of a batch; the angles are A x A x A numbers"
    )

    @model_validator(mode="after")
    def _has_a_loss(self) -> Self:
        """Refuse weights that leave nothing to learn."""
        if not self.embedding + self.similarity + self.distance + self.angle > 0:
            raise ValueError("a weight of distillation must be above 0: set embedding to 1")
        return self


def embedding_losses(own_BT: Tensor, taught_BT: Tensor) -> Tensor:
    """Return |u - v|^2 / 2 = 1 - cos(u, v) of unit vectors (B,).

    Romero et al., "FitNets", arXiv:1412.6550, eq. 3, on the embedding and its direction alone.
    """
    # Differences: 1 - cos has no digit left where the two nearly agree.
    return 0.5 * ((own_BT - taught_BT) ** 2).sum(dim=1)


def similarity_losses(own_BD: Tensor, taught_BT: Tensor) -> Tensor:
    """Return (u_i . u_j - v_i . v_j)^2 for all pairs of unit vectors (B, B).

    Tung and Mori, "Similarity-preserving knowledge distillation", arXiv:1907.09682, section 3: the
    squared difference of two Gram matrices. Here their entries are cosines, whose thresholds
    recognition hangs on; the paper makes each row of unit length instead.
    """
    return (own_BD @ own_BD.T - taught_BT @ taught_BT.T) ** 2


def distance_losses(own_BD: Tensor, taught_BT: Tensor, weights_BB: Tensor) -> Tensor:
    """Return huber(|u_i - u_j| / mu, |v_i - v_j| / mu') for all pairs (B, B).

    Park et al., "Relational knowledge distillation", arXiv:1904.05068, section 3.2.1; mu is the
    (weighted) mean distance of the batch, of the student and of the teacher.
    """
    return _huber(relative_distances(own_BD, weights_BB), relative_distances(taught_BT, weights_BB))


def relative_distances(vectors_BD: Tensor, weights_BB: Tensor) -> Tensor:
    """Return distances over their (weighted) mean (B, B)."""
    distances_BB = distances(vectors_BD, vectors_BD)
    return distances_BB / weighted_mean(distances_BB, weights_BB).clamp(min=MIN_NORM)


def angle_losses(own_AD: Tensor, taught_AT: Tensor) -> Tensor:
    """Return huber(cos u_i u_j u_k, cos v_i v_j v_k), the angles at j, as (A, A, A) of j, i, k.

    Park et al., section 3.2.2.
    """
    return _huber(corner_cosines(own_AD), corner_cosines(taught_AT))


def corner_cosines(vectors_AD: Tensor) -> Tensor:
    """Return the products of the unit vectors from j to i and from j to k (A, A, A)."""
    away_AAD = vectors_AD[None] - vectors_AD[:, None]
    sides_AAD = unit(away_AAD.flatten(0, 1)).view(away_AAD.shape)
    return sides_AAD @ sides_AAD.transpose(1, 2)


def _huber(own: Tensor, taught: Tensor) -> Tensor:
    return F.smooth_l1_loss(own, taught, reduction="none", beta=HUBER_DELTA)


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return sum(w x) / sum(w), and 0 where all weights are 0."""
    total = weights.sum()
    return (values * weights).sum() / torch.where(total > 0, total, 1.0)


def pair_weights(weights_B: Tensor) -> Tensor:
    """Return w_i w_j, and 0 for a sample with itself (B, B)."""
    return (weights_B[:, None] * weights_B[None]).fill_diagonal_(0.0)


def triple_weights(weights_A: Tensor) -> Tensor:
    """Return w_j w_i w_k, and 0 unless all three are different (A, A, A)."""
    pairs_AA = pair_weights(weights_A)
    apart_AA = 1.0 - torch.eye(len(weights_A), dtype=weights_A.dtype, device=weights_A.device)
    return pairs_AA[:, :, None] * weights_A * apart_AA[:, None] * apart_AA


class Distillation(nn.Module):
    """The loss of a student beside its teacher.

    Its one parameter, ``map`` (T, D), is FitNets' regressor, which only 1 - cosine needs, and only
    where D is not T; there is none otherwise. The teacher is no part of the state.
    """

    map: nn.Parameter | None

    def __init__(self, settings: DistillSettings, dim: int, teacher: Teacher | None = None) -> None:
        """Open the teacher of the settings, or take one, for a student of D = ``dim``."""
        super().__init__()
        self.settings = settings
        self.teacher = open_teacher(settings.teacher) if teacher is None else teacher
        first_map = None
        if settings.embedding > 0 and dim != self.teacher.dim:
            source = torch.Generator().manual_seed(MAP_SEED)
            drawn_TD = torch.randn(self.teacher.dim, dim, generator=source)
            first_map = nn.Parameter(drawn_TD / dim**0.5)  # lengths stay as they are in the mean
        self.register_parameter("map", first_map)

    def forward(
        self, embeddings_BD: Tensor, images_BCHW: Tensor, weights_B: Tensor | None = None
    ) -> Tensor:
        """Return the weighted sum of the losses, each a (weighted) mean, a scalar.

        ``embeddings_BD`` are the student's for ``images_BCHW``, of any floating dtype, not
        normalised; the weight of a pair or of three is the product of theirs, and a sample
        without a crop has weight 0.
        """
        with torch.autocast(embeddings_BD.device.type, enabled=False):
            own_BD = unit(embeddings_BD)
            taught_BT = unit(self.teacher.embed(images_BCHW).detach().to(own_BD.dtype))
            if weights_B is None:
                weights_B = torch.ones_like(own_BD[:, 0])
            return self._loss(own_BD, taught_BT, weights_B.to(own_BD.dtype))

    def _loss(self, own_BD: Tensor, taught_BT: Tensor, weights_B: Tensor) -> Tensor:
        settings, pairs_BB = self.settings, pair_weights(weights_B)
        loss = 0.0 * own_BD.sum()  # a gradient of 0, where no pair is left
        if settings.embedding > 0:
            losses_B = embedding_losses(self._mapped(own_BD), taught_BT)
            loss = loss + settings.embedding * weighted_mean(losses_B, weights_B)
        if settings.similarity > 0:
            losses_BB = similarity_losses(own_BD, taught_BT)
            loss = loss + settings.similarity * weighted_mean(losses_BB, pairs_BB)
        if settings.distance > 0:
            losses_BB = distance_losses(own_BD, taught_BT, pairs_BB)
            loss = loss + settings.distance * weighted_mean(losses_BB, pairs_BB)
        if settings.angle > 0:
            first = slice(settings.angle_samples)
            losses_AAA = angle_losses(own_BD[first], taught_BT[first])
            triples_AAA = triple_weights(weights_B[first])
            loss = loss + settings.angle * weighted_mean(losses_AAA, triples_AAA)
        return loss

    def _mapped(self, own_BD: Tensor) -> Tensor:
        """Return the student's embeddings in the teacher's dimensions, of length 1."""
        if self.map is None:
            return own_BD
        return unit(F.linear(own_BD, self.map.to(own_BD.dtype)))
