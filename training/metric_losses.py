"""Losses on pairs and triplets of a batch, and the center loss.

They need no class centres to learn, so that they train on any number of identities, but a
batch must hold several faces of a person. Over ranks, pairs are made of the batches of all.

Legend: B samples, D embedding, P pairs, T triplets, C classes.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from training import margins
from training.margin_rules import MIN_NORM, weighted_mean
from training.shard_group import ALONE, ShardGroup

Mining = Literal["all", "semihard", "hard"]
Triplets = tuple[Tensor, Tensor, Tensor]  # anchors, positives, negatives: places in the batch


class MetricLossSettings(BaseModel):
    """What every loss on pairs or triplets has."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Contrastive(MetricLossSettings):
    """Pulls pairs of one person together, pushes others a margin apart."""

    name: Literal["contrastive"] = "contrastive"
    margin: float = Field(1.0, gt=0, description="between unit embeddings, at most 2")


class Triplet(MetricLossSettings):
    """An anchor is nearer to its positive than to its negative, by a margin."""

    name: Literal["triplet"] = "triplet"
    margin: float = Field(0.2, ge=0, description="between squared distances of unit embeddings")
    mining: Mining = "semihard"


class AngularTriplet(MetricLossSettings):
    """The triplet loss on angles."""

    name: Literal["angular_triplet"] = "angular_triplet"
    margin_rad: float = Field(0.2, ge=0, description="between angles, in radians")
    mining: Mining = "semihard"


class Angular(MetricLossSettings):
    """The angle at the negative of a triplet's triangle is below a bound."""

    name: Literal["angular"] = "angular"
    bound_deg: float = Field(45.0, gt=0, lt=90, description="alpha, in degrees; 36 to 55")
    mining: Mining = "hard"


AnyMetricLoss = Annotated[
    Contrastive | Triplet | AngularTriplet | Angular, Field(discriminator="name")
]


class CenterLossSettings(MetricLossSettings):
    """Pulls embeddings to running class means; goes with a softmax loss."""

    weight: float = Field(0.003, ge=0, description="lambda, of this loss beside softmax")
    rate: float = Field(0.5, gt=0, le=1, description="alpha, of the centres' update")


def unit(embeddings_BD: Tensor) -> Tensor:
    """Return embeddings of length 1, float32 or float64; one of no length stays 0."""
    wide_BD = margins.widen(embeddings_BD)
    norms_B1 = torch.linalg.vector_norm(wide_BD, dim=1, keepdim=True)
    known_B1 = norms_B1 >= MIN_NORM
    return torch.where(known_B1, wide_BD / torch.where(known_B1, norms_B1, 1.0), 0.0)


def distances(left_BD: Tensor, right_BD: Tensor) -> Tensor:
    """Return Euclidean distances (B, B), with gradient 0 between equal vectors."""
    # Differences, not |a|^2 + |b|^2 - 2ab, which has no digit left for near duplicates.
    return torch.cdist(left_BD, right_BD, compute_mode="donot_use_mm_for_euclid_dist")


def same_person(labels_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return which pairs are of one person, and which of two (B, B); -1 is in neither."""
    known_BB = (labels_B != -1)[:, None] & (labels_B != -1)[None]
    same_BB = labels_B[:, None] == labels_B[None]
    self_BB = torch.eye(len(labels_B), dtype=torch.bool, device=labels_B.device)
    return same_BB & known_BB & ~self_BB, ~same_BB & known_BB


def mined(distances_BB: Tensor, labels_B: Tensor, mining: Mining, margin: float) -> Triplets:
    """Return triplets as places of anchor, positive and negative, (T,) each, in their order.

    "all": those with d(a, p) - d(a, n) + margin > 0 (batch all of arXiv:1703.07737, without
    the zeros; it looks at B^3 triplets). "semihard": for every (a, p) the nearest negative
    beyond p, or where there is none the farthest one (arXiv:1503.03832, section 3.2). "hard":
    for every anchor the farthest positive and the nearest negative (batch hard). Of equal
    distances the first place counts.
    """
    d = distances_BB.detach()
    positive_BB, negative_BB = same_person(labels_B)
    if mining == "all":
        violation_BBB = d[:, :, None] - d[:, None, :] + margin
        chosen_BBB = positive_BB[:, :, None] & negative_BB[:, None, :] & (violation_BBB > 0)
        anchors, positives, negatives = chosen_BBB.nonzero(as_tuple=True)
        return anchors, positives, negatives
    nearest_B = d.masked_fill(~negative_BB, torch.inf).argmin(dim=1)
    usable_B = positive_BB.any(dim=1) & negative_BB.any(dim=1)
    if mining == "hard":
        farthest_B = d.masked_fill(~positive_BB, -torch.inf).argmax(dim=1)
        anchors = usable_B.nonzero()[:, 0]
        return anchors, farthest_B[anchors], nearest_B[anchors]
    anchors, positives = (positive_BB & usable_B[:, None]).nonzero(as_tuple=True)
    of_anchor_PB, allowed_PB = d[anchors], negative_BB[anchors]
    beyond_PB = allowed_PB & (of_anchor_PB > d[anchors, positives][:, None])
    next_P = of_anchor_PB.masked_fill(~beyond_PB, torch.inf).argmin(dim=1)
    last_P = of_anchor_PB.masked_fill(~allowed_PB, -torch.inf).argmax(dim=1)
    return anchors, positives, torch.where(beyond_PB.any(dim=1), next_P, last_P)


def contrastive_losses(distances_P: Tensor, same_P: Tensor, margin: float) -> Tensor:
    """Return d^2 / 2 for pairs of one person, max(0, m - d)^2 / 2 for others (P,).

    Hadsell et al., "Dimensionality Reduction by Learning an Invariant Mapping", CVPR 2006, eq. 4.
    """
    apart_P = (margin - distances_P).clamp(min=0)
    return 0.5 * torch.where(same_P, distances_P, apart_P) ** 2


def triplet_losses(distances_BB: Tensor, triplets: Triplets, margin: float) -> Tensor:
    """Return max(0, d(a, p) - d(a, n) + m) (T,).

    FaceNet (arXiv:1503.03832, eq. 2) with squared distances; on angles the angular triplet loss.
    """
    anchors, positives, negatives = triplets
    gap_T = distances_BB[anchors, positives] - distances_BB[anchors, negatives]
    return (gap_T + margin).clamp(min=0)


def angular_losses(vectors_BD: Tensor, triplets: Triplets, bound_rad: float) -> Tensor:
    """Return max(0, |a - p|^2 - 4 tan^2(alpha) |n - (a + p) / 2|^2) (T,).

    Wang et al., "Deep Metric Learning with Angular Loss", arXiv:1708.01682, eq. 6.
    """
    anchors_TD, positives_TD, negatives_TD = (vectors_BD[places] for places in triplets)
    apart_T = ((anchors_TD - positives_TD) ** 2).sum(dim=1)
    height_TD = negatives_TD - (anchors_TD + positives_TD) / 2
    slope = 4 * math.tan(bound_rad) ** 2
    return (apart_T - slope * (height_TD**2).sum(dim=1)).clamp(min=0)


class MetricLoss(nn.Module):
    """A loss on the pairs or triplets of a batch; it has no parameters."""

    def __init__(self, settings: AnyMetricLoss, group: ShardGroup = ALONE) -> None:
        """Keep the settings, and the ranks whose batches are looked at together."""
        super().__init__()
        self.settings, self.group = settings, group

    def forward(
        self, embeddings_BD: Tensor, labels_B: Tensor, weights_B: Tensor | None = None
    ) -> Tensor:
        """Return the (weighted) mean over the pairs or triplets mined, 0 where there are none.

        Rows whose label is -1 are in none; a pair's or triplet's weight is the product of
        its samples'. Over ranks the gradients are as `FusedHead.forward` says.
        """
        with torch.autocast(embeddings_BD.device.type, enabled=False):
            group = self.group
            embeddings_BD = group.shared(group.gather(margins.widen(embeddings_BD)))
            labels_B = group.gather_plain(labels_B)
            losses, samples = self._losses(unit(embeddings_BD), labels_B)
            weights = torch.ones_like(losses)
            if weights_B is not None:
                weights_B = group.gather_plain(weights_B).to(losses.dtype)
                for places in samples:
                    weights = weights * weights_B[places]
            # The sum of nothing has no gradient; 0 times the embeddings has one, of 0.
            total = (losses * weights).sum() + 0.0 * embeddings_BD.sum()
            return total / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)

    def _losses(self, vectors_BD: Tensor, labels_B: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the loss of each pair or triplet, and the samples it is made of."""
        settings = self.settings
        if isinstance(settings, Contrastive):
            same_BB, other_BB = same_person(labels_B)
            pairs = (same_BB | other_BB).triu(diagonal=1).nonzero(as_tuple=True)
            distances_P = distances(vectors_BD, vectors_BD)[pairs]
            return contrastive_losses(distances_P, same_BB[pairs], settings.margin), pairs
        if isinstance(settings, AngularTriplet):
            angles_BB = margins.angle(vectors_BD @ vectors_BD.T)
            triplets = mined(angles_BB, labels_B, settings.mining, settings.margin_rad)
            return triplet_losses(angles_BB, triplets, settings.margin_rad), triplets
        squared_BB = distances(vectors_BD, vectors_BD) ** 2
        if isinstance(settings, Triplet):
            triplets = mined(squared_BB, labels_B, settings.mining, settings.margin)
            return triplet_losses(squared_BB, triplets, settings.margin), triplets
        # Its own condition is no difference of distances: "all" takes every triplet.
        triplets = mined(squared_BB, labels_B, settings.mining, torch.inf)
        bound_rad = math.radians(settings.bound_deg)
        return angular_losses(vectors_BD, triplets, bound_rad), triplets


class CenterLoss(nn.Module):
    """lambda / 2 |x - c_y|^2, with centres that follow their classes' embeddings.

    Wen et al., "A Discriminative Feature Learning Approach for Deep Face Recognition", ECCV
    2016, eq. 2, as a mean over the batch; the centres are no parameters but move by eq. 4.
    """

    centres: Tensor

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        settings: CenterLossSettings,
        group: ShardGroup = ALONE,
    ) -> None:
        """Begin with centres of 0, as the paper's code does. Every rank holds all of them."""
        super().__init__()
        self.settings, self.group = settings, group
        self.register_buffer("centres", torch.zeros(num_classes, embedding_dim))

    def forward(
        self, embeddings_BD: Tensor, labels_B: Tensor, weights_B: Tensor | None = None
    ) -> Tensor:
        """Return the (weighted) mean over rows whose label is not -1, then move the centres.

        They move in training mode alone. Over ranks the gradients are as `FusedHead.forward`
        says.
        """
        with torch.autocast(embeddings_BD.device.type, enabled=False):
            group = self.group
            embeddings_BD = group.shared(group.gather(margins.widen(embeddings_BD)))
            labels_B = group.gather_plain(labels_B)
            weights_B = None if weights_B is None else group.gather_plain(weights_B)
            away_BD = embeddings_BD - self.centres[labels_B.clamp(min=0)]
            losses_B = self.settings.weight / 2 * (away_BD**2).sum(dim=1)
            if self.training:
                self._move(away_BD.detach(), labels_B)
            return weighted_mean(losses_B, labels_B, weights_B)

    def _move(self, away_BD: Tensor, labels_B: Tensor) -> None:
        """Move each class's centre by alpha times the sum of x - c over 1 + their count."""
        known_B = labels_B != -1
        away_BD, labels_B = away_BD[known_B], labels_B[known_B]
        # A product, and rows written alike: one order of adding, on a GPU too.
        members_BB = (labels_B[:, None] == labels_B[None]).to(away_BD.dtype)
        step_BD = members_BB @ away_BD / (1 + members_BB.sum(dim=1, keepdim=True))
        self.centres[labels_B] = self.centres[labels_B] + self.settings.rate * step_BD
