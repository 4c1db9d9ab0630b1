"""A student that learns a pool: its net, its losses, its optimiser, and its state on disk.

The loss is 1 - cosine to the teacher's embedding, plus the squared difference of the cosines
within the batch, both of training.distill. Where a picture shows one real person, what is learned
lies between the teacher's embedding of it and that person's mean: the identity label's share.

Legend: B samples, D dimensions.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from facepipe.errors import CorruptData, ModelMismatch
from training.backbone import BackboneSettings, build_backbone
from training.checkpoint import checkpoints, step_folder
from training.distill import embedding_losses, pair_weights, similarity_losses, weighted_mean
from training.ema import WeightAverage
from training.keyed_random import key_of
from training.metric_losses import unit
from training.muon import Muon
from training.optimizers import BASE_LR, set_rates
from training.tensor_file import read_tensors, tensor_bytes

_FIRST_WEIGHTS = 41  # what a key is for: training.keyed_random
COLOURS = 3  # inputs of the first convolution
STATE = "state.json"
KEEP = 2  # checkpoints


class LossSettings(BaseModel):
    """What of the teacher is learned, and how much."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    embedding: float = Field(1.0, ge=0, description="weight of 1 - cosine")
    similarity: float = Field(2.0, ge=0, description="weight of the cosines within the batch")
    identity: float = Field(
        0.5, ge=0, description="weight of a person's mean in the target, beside 1 for the picture"
    )


class TaughtOptimizer(BaseModel):
    """Muon for the convolutions behind the first, AdamW for all else; both on one schedule."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lr: float = Field(2e-3, gt=0, description="of AdamW")
    muon_lr: float = Field(0.02, gt=0, description="of Muon: its authors' for convolutions")
    weight_decay: float = Field(0.05, ge=0, description="of AdamW, without norms and biases")
    muon_weight_decay: float = Field(0.005, ge=0, description="of Muon")


def build_optimizers(net: nn.Module, settings: TaughtOptimizer) -> list[torch.optim.Optimizer]:
    """Return the two optimisers of a net's parameters."""
    all_ = dict(net.named_parameters())
    muon = [p for name, p in all_.items() if p.ndim == 4 and p.shape[1] != COLOURS]
    chosen = set(map(id, muon))
    others = [p for p in all_.values() if id(p) not in chosen]
    adamw = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
    ]
    convolutions: list[dict[str, Any]] = [{"params": muon, BASE_LR: settings.muon_lr}]
    return [
        Muon(convolutions, settings.muon_lr, weight_decay=settings.muon_weight_decay),
        torch.optim.AdamW([{**group, BASE_LR: settings.lr} for group in adamw], lr=settings.lr),
    ]


class TaughtLearner:
    """A student in training."""

    def __init__(
        self,
        backbone: BackboneSettings,
        losses: LossSettings,
        optimizer: TaughtOptimizer,
        *,
        clip_norm: float,
        ema_decay: float,
        seed: int,
    ) -> None:
        """Draw first weights from the seed."""
        torch.manual_seed(key_of(seed, _FIRST_WEIGHTS))
        self.losses, self.clip_norm, self.step = losses, clip_norm, 0
        student = build_backbone(backbone)
        # Channels last is what oneDNN's convolutions want: no reordering at each layer.
        self.student = student.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.optimizers = build_optimizers(self.student, optimizer)
        self.average = WeightAverage(self.student, ema_decay)

    def learn(self, images_BCHW: Tensor, taught_BD: Tensor, factor: float) -> dict[str, float]:
        """Take one step with rates times ``factor``; return the terms of the loss."""
        set_rates(self.optimizers, factor)
        self.student.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
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

    def save(self, folder: Path) -> None:
        """Write a checkpoint, whole or not at all; older ones go, but for `KEEP`."""
        final = step_folder(folder, self.step)
        partial = final.with_name(f".{final.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        files = {
            "student.safetensors": tensor_bytes(self.student.state_dict()),
            "ema.safetensors": tensor_bytes(self.average.state),
            "optimizer.safetensors": tensor_bytes(self._moments()),
            STATE: json.dumps({"step": self.step}).encode() + b"\n",
        }
        for name, data in files.items():
            with (partial / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        for old in checkpoints(folder)[:-KEEP]:
            shutil.rmtree(old)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises CorruptData where it is damaged, ModelMismatch where it is of another net.
        """
        try:
            self.step = int(json.loads((path / STATE).read_bytes())["step"])
            read = {
                name: read_tensors((path / f"{name}.safetensors").read_bytes(), str(path))
                for name in ("student", "ema", "optimizer")
            }
        except (OSError, ValueError, KeyError) as error:
            raise CorruptData(
                f"{path} cannot be read: remove it, and the run goes on from the one before it"
            ) from error
        try:
            self.student.load_state_dict(read["student"])
        except RuntimeError as error:
            raise ModelMismatch(f"{path} is of another net: give a folder of its own") from error
        self.average.load(read["ema"])
        self._load_moments(read["optimizer"])

    def _moments(self) -> dict[str, Tensor]:
        names = {parameter: name for name, parameter in self.student.named_parameters()}
        return {
            f"{names[parameter]}.{key}": torch.as_tensor(value)
            for optimizer in self.optimizers
            for parameter, state in optimizer.state.items()
            for key, value in state.items()
        }

    def _load_moments(self, tensors: dict[str, Tensor]) -> None:
        of_name: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            owner, _, key = name.rpartition(".")
            of_name.setdefault(owner, {})[key] = value
        names = {parameter: name for name, parameter in self.student.named_parameters()}
        for optimizer in self.optimizers:
            for parameter in (p for group in optimizer.param_groups for p in group["params"]):
                for key, value in of_name.get(names[parameter], {}).items():
                    if value.shape == parameter.shape:  # in the parameter's order of memory
                        value = torch.empty_like(parameter, requires_grad=False).copy_(value)
                    optimizer.state[parameter][key] = value
