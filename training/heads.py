"""Heads: class centres and a loss on the embeddings' cosines with them.

This one builds the whole batch x classes matrix, for thousands of classes and as the
reference of `fused_head`, which never does, and `partial_fc`, which spreads the centres over
ranks. The three have the same parameters, states and losses.

Legend: B samples, C classes, K sub-centres of a class, D embedding.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from facepipe.errors import ConfigError
from training import adaptive_rules as adaptive
from training import margin_rules as fixed
from training import margins

INIT_STD = 0.01  # of the centres' entries, as in arcface_torch
INIT_BLOCK_CLASSES = 4096  # drawn with a seed of their own, so that any shard draws the same

MarginSettings = Annotated[
    fixed.Softmax
    | fixed.NormFace
    | fixed.CosFace
    | fixed.ArcFace
    | fixed.Combined
    | fixed.LSoftmax
    | fixed.SphereFace
    | adaptive.Dynamic
    | adaptive.AdaFace
    | adaptive.MagFace
    | adaptive.CurricularFace
    | adaptive.ElasticFace,
    Field(discriminator="name"),
]


class HeadSettings(BaseModel):
    """The loss of a run, and how it is computed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    margin: MarginSettings = fixed.ArcFace()
    sub_centers: int = Field(1, ge=1, description="centres a class; 3 in sub-center ArcFace")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="0.1 is usual")
    sample_rate: float = Field(
        1.0, gt=0, le=1, description="share of the negative classes in a step (PartialFC)"
    )
    gemm_dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the large products in fused heads; margins stay float32"
    )
    chunk_bytes: int | None = Field(
        None,
        ge=1,
        description="of the largest batch x classes piece of a fused head; by default 2 MiB on "
        "a CPU (its cache), 64 MiB on a GPU (few launches)",
    )
    seed: int = Field(0, ge=0, description="of the first centres and the sampled classes")


def build_rule(settings: HeadSettings) -> fixed.MarginRule:
    """Return the rule of a loss. Raises ConfigError where it allows no sub-centres."""
    loss = settings.margin
    if settings.sub_centers > 1 and isinstance(loss, fixed.Softmax | fixed.LSoftmax):
        raise ConfigError(
            f"head.sub_centers = {settings.sub_centers} with head.margin.name = {loss.name}: "
            "sub-centres are chosen by cosine; take a loss on cosines, such as arcface, or 1"
        )
    match loss:
        case fixed.Softmax():
            return fixed.SoftmaxRule()
        case fixed.NormFace():
            return fixed.MarginRule(loss.scale)
        case fixed.CosFace():
            return fixed.CosFaceRule(loss)
        case fixed.ArcFace() | fixed.Combined():
            return fixed.CombinedRule(loss)
        case fixed.SphereFace() | fixed.LSoftmax():
            return fixed.AnnealedRule(loss)
        case adaptive.Dynamic():
            return adaptive.DynamicRule(loss)
        case adaptive.AdaFace():
            return adaptive.AdaFaceRule(loss)
        case adaptive.MagFace():
            return adaptive.MagFaceRule(loss)
        case adaptive.CurricularFace():
            return adaptive.CurricularFaceRule(loss)
        case adaptive.ElasticFace():
            return adaptive.ElasticFaceRule(loss)


def first_centres(first: int, last: int, sub_centers: int, dim: int, seed: int) -> Tensor:
    """Return the first centres of classes first..last-1, N(0, 0.01^2), float32 (C, K, D).

    A class gets the same ones whatever range it is drawn in.
    """
    centres = torch.empty(last - first, sub_centers, dim)
    source = torch.Generator()
    for block in range(first // INIT_BLOCK_CLASSES, -(-last // INIT_BLOCK_CLASSES)):
        start = block * INIT_BLOCK_CLASSES
        source.manual_seed(seed * 1_000_003 + block)
        # Always the whole block: a shorter draw would not begin with the same numbers.
        drawn = torch.empty(INIT_BLOCK_CLASSES, sub_centers, dim).normal_(generator=source)
        low, high = max(first, start), min(last, start + INIT_BLOCK_CLASSES)
        centres[low - first : high - first] = drawn[low - start : high - start] * INIT_STD
    return centres


class Head(nn.Module):
    """Class centres and a loss; this one builds the batch x classes matrix."""

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        settings: HeadSettings,
        class_range: tuple[int, int] | None = None,
    ) -> None:
        """Draw the centres of ``class_range`` (first, end), of all classes without one.

        Raises ConfigError for settings that exclude each other.
        """
        super().__init__()
        self.num_classes, self.settings = num_classes, settings
        self.first, self.last = class_range or (0, num_classes)
        self.rule = build_rule(settings)
        centres = first_centres(
            self.first, self.last, settings.sub_centers, embedding_dim, settings.seed
        )
        if self.rule.bias:
            centres = torch.cat([centres, torch.zeros_like(centres[..., :1])], dim=-1)
        self.centres = nn.Parameter(centres)

    def cosines(self, vectors_BD: Tensor) -> Tensor:
        """Return the products with every class (B, C): the best of its sub-centres."""
        centres_CKD = margins.widen(self.centres)
        if self.rule.unit_centres:
            norms = torch.linalg.vector_norm(centres_CKD, dim=-1, keepdim=True)
            centres_CKD = centres_CKD / norms.clamp(min=fixed.MIN_NORM)
        dots = vectors_BD @ centres_CKD.flatten(0, 1).T
        return dots.view(len(dots), *centres_CKD.shape[:2]).amax(dim=-1)

    def logits(self, embeddings_BD: Tensor, labels_B: Tensor) -> Tensor:
        """Return the logits with margin (B, C), float32 or float64 as the embeddings are.

        A row whose label is -1 has plain logits. In training mode the batch moves the
        loss's running statistics, as in `forward`.
        """
        with torch.autocast(embeddings_BD.device.type, enabled=False):
            vectors_BD, norms_B = self.rule.vectors(margins.widen(embeddings_BD))
            dots_BC = self.cosines(vectors_BD)
            valid_B, columns_B1 = labels_B != -1, labels_B.clamp(min=0)[:, None]
            dots_B = dots_BC.gather(1, columns_B1)[:, 0]
            if self.training:
                self.rule.observe(dots_B.detach(), norms_B.detach(), valid_B)
            centre_norms_B = torch.linalg.vector_norm(
                margins.widen(self.centres)[columns_B1[:, 0], 0], dim=-1
            )
            phi_B = self.rule.target(dots_B, norms_B, centre_norms_B)
            hard = self.rule.hard(dots_B.detach())
            if hard is not None:
                dots_BC = margins.curricular_negatives(dots_BC, *hard)
            phi_B = torch.where(valid_B, phi_B, dots_BC.gather(1, columns_B1)[:, 0])
            return self.rule.scale(norms_B)[:, None] * dots_BC.scatter(
                1, columns_B1, phi_B[:, None]
            )

    def forward(
        self, embeddings_BD: Tensor, labels_B: Tensor, weights_B: Tensor | None = None
    ) -> Tensor:
        """Return the loss, the (weighted) mean over rows whose label is not -1, a scalar.

        ``embeddings_BD`` of any floating dtype, not normalised; ``labels_B`` int64, class ids.
        The loss is float32, or float64 where the embeddings are.
        """
        losses_B = fixed.cross_entropies(
            self.logits(embeddings_BD, labels_B), labels_B, self.settings.label_smoothing
        )
        with torch.autocast(embeddings_BD.device.type, enabled=False):
            norms_B = torch.linalg.vector_norm(margins.widen(embeddings_BD), dim=1)
            penalty_B = self.rule.penalty(norms_B)
            if penalty_B is not None:
                losses_B = losses_B + penalty_B
            return fixed.weighted_mean(losses_B, labels_B, weights_B)
