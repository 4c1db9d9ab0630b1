"""Teachers: finished recognisers whose embeddings a student learns.

A teacher is shown the pixels that the student sees, augmented alike, so that both are one
function on the same inputs (Beyer et al., "Knowledge distillation: a good teacher is patient and
consistent", CVPR 2022, arXiv:2106.05237). Their preprocessing is the teacher's own.

Legend: B samples, C channels (R, G, B), H, W pixels; T dimensions of the teacher.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from facepipe import ids
from facepipe.embed import EmbedSettings, Recogniser, model_id
from facepipe.errors import ModelNotFound
from facepipe.models import ModelSettings
from facepipe.packs import find_pack
from training.backbone import BackboneSettings, build_backbone
from training.pretrained import load_weights

HALF_RANGE = 127.5  # a backbone's [-1, 1] back to 0..255


class TeacherSettings(BaseModel):
    """What every teacher has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    flip: Literal["none", "sum"] = Field(
        "none", description="sum: add the embedding of the mirrored crop; twice the cost"
    )
    batch: int = Field(
        32, ge=1, description="crops at a time, which bounds its memory; no result depends on it"
    )


class PackSettings(TeacherSettings):
    """A model pack, run by onnxruntime."""

    kind: Literal["pack"] = "pack"
    pack: str = Field(description="a pack's folder, or a name such as buffalo_l")
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = Field(1, ge=1, description="of onnxruntime")


class WeightsSettings(TeacherSettings):
    """A backbone of this package with weights, run by torch where the student runs."""

    kind: Literal["weights"] = "weights"
    weights: Path = Field(description=".safetensors, .pt, .pth or .onnx: training.pretrained")
    backbone: BackboneSettings


AnyTeacher = Annotated[PackSettings | WeightsSettings, Field(discriminator="kind")]


class Teacher(Protocol):
    """What a student can learn from."""

    @property
    def dim(self) -> int:
        """Return T."""
        ...

    @property
    def digest(self) -> str:
        """Return a digest of weights, preprocessing and flip, for a run's record."""
        ...

    def embed(self, images_BCHW: Tensor) -> Tensor:
        """Return (B, T) float32 embeddings, not normalised, without gradient, on their device.

        ``images_BCHW`` are a backbone's input: float, RGB, in [-1, 1].
        """
        ...


def open_teacher(settings: PackSettings | WeightsSettings) -> Teacher:
    """Open a teacher. Raises ModelNotFound, ModelUnreadable, ModelMismatch, UsageError."""
    return PackTeacher(settings) if isinstance(settings, PackSettings) else NetTeacher(settings)


def teacher_digest(settings: PackSettings | WeightsSettings) -> str:
    """Return the digest of a teacher by its files, without opening it. Raises as `open_teacher`."""
    if isinstance(settings, PackSettings):
        return model_id(find_pack(settings.pack), _embedding(settings))
    if not settings.weights.is_file():
        raise ModelNotFound(f"the teacher's weights {settings.weights} do not exist")
    described = settings.model_dump(mode="json", include={"backbone", "flip"})
    return ids.digest([ids.sha256_hex(settings.weights.read_bytes()), described])


def _embedding(settings: PackSettings) -> EmbedSettings:
    return EmbedSettings(flip=settings.flip, batch=settings.batch)


def as_crops(images_BCHW: Tensor) -> npt.NDArray[np.uint8]:
    """Return a backbone's input as B x H x W x 3 crops, BGR: exact for pictures of 8 bits."""
    levels = images_BCHW.detach().float().mul(HALF_RANGE).add_(HALF_RANGE).round_().clamp_(0, 255)
    bgr_BHWC = levels.to(torch.uint8).flip(1).permute(0, 2, 3, 1)
    return np.asarray(bgr_BHWC.contiguous().cpu().numpy(), np.uint8)


class PackTeacher:
    """A pack: it answers as `facepipe embed` does with it."""

    def __init__(self, settings: PackSettings) -> None:
        """Open the pack's recogniser."""
        pack = find_pack(settings.pack)
        models = ModelSettings(device=settings.device, threads=settings.threads)
        self._recogniser = Recogniser(pack, _embedding(settings), models)
        self.dim = self._recogniser.dim
        self.digest = teacher_digest(settings)

    def embed(self, images_BCHW: Tensor) -> Tensor:
        """Return (B, T) float32, by way of the CPU."""
        vectors_BT = self._recogniser.embed(list(as_crops(images_BCHW)))
        return torch.from_numpy(vectors_BT).to(images_BCHW.device)


class NetTeacher:
    """A backbone in evaluation mode, in float32 whatever the autocast."""

    def __init__(self, settings: WeightsSettings) -> None:
        """Build the backbone and load its weights."""
        self._flip, self._batch = settings.flip, settings.batch
        # Where the generator stands belongs to the student: a teacher must not change its run.
        with torch.random.fork_rng(devices=[]):
            self._net = build_backbone(settings.backbone)
        load_weights(self._net, settings.weights)
        self._net.eval().requires_grad_(False)
        self.dim = settings.backbone.dim
        self.digest = teacher_digest(settings)

    def embed(self, images_BCHW: Tensor) -> Tensor:
        """Return (B, T) float32."""
        self._net.to(images_BCHW.device)
        kind = images_BCHW.device.type
        with torch.no_grad(), torch.autocast(kind, enabled=False):
            parts = torch.split(images_BCHW.float(), self._batch)
            return torch.cat([self._answer(part_BCHW) for part_BCHW in parts])

    def _answer(self, images_BCHW: Tensor) -> Tensor:
        plain_BT: Tensor = self._net(images_BCHW)
        return plain_BT if self._flip == "none" else plain_BT + self._net(images_BCHW.flip(3))
