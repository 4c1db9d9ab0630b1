"""A student that learns a pool: its net, its losses, its optimiser, and its state on disk.

The loss is 1 - cosine to the teacher's embedding, plus the squared difference of the cosines
within the batch, both of training.distill. Where a picture shows one real person, what is learned
lies between the teacher's embedding of it and that person's mean: the identity label's share.

Legend: B samples, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from training.backbone import BackboneSettings, build_backbone
from training.distill import embedding_losses, pair_weights, similarity_losses, weighted_mean
from training.ema import WeightAverage
from training.grown_net import begin_from
from training.keyed_random import key_of
from training.metric_losses import unit
from training.muon_adamw import MuonAdamW, build_optimizers
from training.optimizers import set_rates
from training.run_state import read_state, write_state

Precision = Literal["bfloat16", "float32"]

_FIRST_WEIGHTS = 41  # what a key is for: training.keyed_random


class LossSettings(BaseModel):
    """What of the teacher is learned, and how much."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    embedding: float = Field(1.0, ge=0, description="weight of 1 - cosine")
    similarity: float = Field(2.0, ge=0, description="weight of the cosines within the batch")
    identity: float = Field(
        0.5, ge=0, description="weight of a person's mean in the target, beside 1 for the picture"
    )


class TaughtLearner:
    """A student in training."""

    def __init__(
        self,
        backbone: BackboneSettings,
        losses: LossSettings,
        optimizer: MuonAdamW,
        *,
        clip_norm: float,
        ema_decay: float,
        seed: int,
        precision: Precision = "bfloat16",
    ) -> None:
        """Draw first weights from the seed; ``precision``: of the net's maps."""
        torch.manual_seed(key_of(seed, _FIRST_WEIGHTS))
        self.losses, self.clip_norm, self.step = losses, clip_norm, 0
        self._halves = precision == "bfloat16"
        student = build_backbone(backbone)
        # Channels last is what oneDNN's convolutions want: no reordering at each layer.
        self.student = student.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.optimizers = build_optimizers(self.student, optimizer)
        self.average = WeightAverage(self.student, ema_decay)

    def begin_from(
        self,
        larger: BackboneSettings,
        data: bytes,
        smaller: BackboneSettings,
        optimizer: MuonAdamW,
        batches_BCHW: Iterable[Tensor],
    ) -> None:
        """Begin as a smaller net that was trained before: `training.grown_net`."""
        begin_from(self.student, larger, data, smaller, optimizer, batches_BCHW)
        self.average = WeightAverage(self.student, self.average.decay)

    def learn(self, images_BCHW: Tensor, taught_BD: Tensor, factor: float) -> dict[str, float]:
        """Take one step with rates times ``factor``; return the terms of the loss."""
        set_rates(self.optimizers, factor)
        self.student.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=self._halves):
            own_BD = self.student(images_BCHW)
        terms = self._terms(own_BD, taught_BD)
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.student.parameters(), self.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        self.average.update(self.step)
        return {name: float(value.detach()) for name, value in terms.items()}

    def _terms(self, own_BD: Tensor, taught_BD: Tensor) -> dict[str, Tensor]:
        own_BD, taught_BD = unit(own_BD.float()), unit(taught_BD)
        pairs_BB = pair_weights(torch.ones(len(own_BD)))
        alike = weighted_mean(similarity_losses(own_BD, taught_BD), pairs_BB)
        return {
            "embedding": self.losses.embedding * embedding_losses(own_BD, taught_BD).mean(),
            "similarity": self.losses.similarity * alike,
        }

    def averaged(self, backbone: BackboneSettings) -> nn.Module:
        """Return a net with the averaged weights, in evaluation mode."""
        net = build_backbone(backbone)
        net.load_state_dict(self.average.state)
        return net.eval()

    def save(self, run: Path) -> None:
        """Write a checkpoint of the run, whole or not at all."""
        write_state(run, self.step, self.student, self.average, self.optimizers)

    def load(self, run: Path) -> None:
        """Go on from the run's newest checkpoint, if there is one.

        Raises CorruptData where it is damaged, ModelMismatch where it is of another net.
        """
        self.step = read_state(run, self.student, self.average, self.optimizers)
