"""Attributes learned beside identity: a linear classifier each on the embedding.

Age band, glasses, pose, or whatever a data set knows of some of its faces. An attribute that
is not known of a face (-1) does not count there, so that a few annotated faces among many are
of use.

Legend: B samples, D embedding, A attributes, V values of an attribute.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from facepipe.errors import UsageError
from training import margins
from training.margin_rules import cross_entropies, weighted_mean

UNKNOWN = -1  # label of an attribute that is not known of a face


class Attribute(BaseModel):
    """One attribute and the values it can have."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, pattern=r"^\w+$", description="as in the labels")
    values: tuple[str, ...] = Field(min_length=2, description="what a label 0, 1, ... stands for")
    weight: float = Field(1.0, ge=0, description="of its loss beside the identity's")


class AttributeSettings(BaseModel):
    """The attributes of a multi-task head."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attributes: tuple[Attribute, ...] = Field(min_length=1, description="at least one")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="0.1 is usual")

    @model_validator(mode="after")
    def _names_differ(self) -> AttributeSettings:
        names = [attribute.name for attribute in self.attributes]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"attributes {', '.join(twice)} are given twice: once each")
        return self


class AttributeHead(nn.Module):
    """Linear classifiers on the embedding, one an attribute; the loss is their weighted sum."""

    def __init__(self, embedding_dim: int, settings: AttributeSettings) -> None:
        """Draw the classifiers from torch's generator, as torch.nn.Linear does."""
        super().__init__()
        self.settings = settings
        self.classifiers = nn.ModuleDict(
            {one.name: nn.Linear(embedding_dim, len(one.values)) for one in settings.attributes}
        )

    def logits(self, embeddings_BD: Tensor) -> dict[str, Tensor]:
        """Return each attribute's logits (B, V)."""
        return {name: linear(embeddings_BD) for name, linear in self.classifiers.items()}

    def forward(
        self,
        embeddings_BD: Tensor,
        labels: Mapping[str, Tensor],
        weights_B: Tensor | None = None,
    ) -> Tensor:
        """Return the sum over attributes of weight * mean cross-entropy, a scalar.

        ``labels`` holds int64 (B,) of each attribute, UNKNOWN where it is not known: the mean
        is over the faces of which it is known, and 0 where it is known of none. Float32, or
        float64 where the embeddings are. Raises UsageError for attributes without labels.
        """
        missing = sorted(set(self.classifiers) - set(labels))
        if missing:
            raise UsageError(
                f"attributes {', '.join(missing)} have no labels in this batch: give them, "
                f"{UNKNOWN} where they are not known, or leave them out of the settings"
            )
        losses = self.losses(self.logits(embeddings_BD), labels, weights_B)
        parts = [one.weight * losses[one.name] for one in self.settings.attributes]
        return torch.stack(parts).sum()

    def losses(
        self,
        logits: Mapping[str, Tensor],
        labels: Mapping[str, Tensor],
        weights_B: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return each attribute's mean cross-entropy, with label smoothing, as a scalar."""
        smoothing = self.settings.label_smoothing
        found = {}
        for name, logits_BV in logits.items():
            with torch.autocast(logits_BV.device.type, enabled=False):
                losses_B = cross_entropies(margins.widen(logits_BV), labels[name], smoothing)
                found[name] = weighted_mean(losses_B, labels[name], weights_B)
        return found
