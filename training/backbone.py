"""Which net makes the embedding: one door to all backbones.

Every backbone takes B x 3 x 112 x 112 float pictures in [-1, 1], RGB, and returns B x D
embeddings that are not normalised; margins and normalisation are the heads'. Their parameters
and multiply-adds equal the published ones (tests/training/test_flops.py).

Legend: B pictures, D dimensions.
"""

from __future__ import annotations

from typing import Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from training import iresnet, mobilefacenet, plain_net, vit
from training.iresnet import IResNet
from training.mobilefacenet import MobileFaceNet
from training.plain_net import PlainNet
from training.swin import Swin
from training.vit import ViT

IMAGE_PX = 112  # of an aligned crop: facepipe.align

Name = iresnet.Name | mobilefacenet.Name | plain_net.Name | vit.Name | Literal["swin_t"]
TRANSFORMERS = (*get_args(vit.Name), "swin_t")
DEFAULT_DROP_PATH = 0.1  # arcface_torch's vit_t, vit_s and vit_b; FaceX-Zoo's Swin
DEFAULT_MASK = 0.1  # arcface_torch's vit_t, vit_s and vit_b


class BackboneSettings(BaseModel):
    """Which backbone, and what is left out in training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name = "r50"
    dim: int = Field(512, ge=1, le=4096, description="D of the embedding")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="before the last linear layer; r18 to r200 and tiny only"
    )
    drop_path: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="pictures that the last block's branches are left out of; ViT and Swin only; "
        f"null: {DEFAULT_DROP_PATH}",
    )
    mask: float | None = Field(
        None,
        ge=0,
        lt=1,
        description=f"share of the tokens left out; ViT only; null: {DEFAULT_MASK}",
    )
    recompute: bool = Field(
        False, description="keep less for the backward pass and compute it again; ViT and Swin"
    )

    @model_validator(mode="after")
    def _has_what_is_set(self) -> Self:
        """Refuse a setting that would be ignored."""
        is_vit, is_resnet = self.name in get_args(vit.Name), self.name in get_args(iresnet.Name)
        refused = {
            "dropout": self.dropout > 0 and not is_resnet,
            "drop_path": self.drop_path is not None and self.name not in TRANSFORMERS,
            "mask": self.mask is not None and not is_vit,
            "recompute": self.recompute and self.name not in TRANSFORMERS,
        }
        for key, wrong in refused.items():
            if wrong:
                raise ValueError(f"{self.name} has no {key}: leave it out")
        return self


def build_backbone(settings: BackboneSettings) -> nn.Module:
    """Return the net with fresh weights, drawn from torch's generator, in training mode."""
    name, dim = settings.name, settings.dim
    drop_path = DEFAULT_DROP_PATH if settings.drop_path is None else settings.drop_path
    mask = DEFAULT_MASK if settings.mask is None else settings.mask
    if name in iresnet.PLANS:
        return IResNet(iresnet.PLANS[name], dim, settings.dropout, IMAGE_PX)
    if name in mobilefacenet.PLANS:
        return MobileFaceNet(mobilefacenet.PLANS[name], dim, IMAGE_PX)
    if name in plain_net.PLANS:
        return PlainNet(plain_net.PLANS[name], dim, IMAGE_PX)
    recompute = settings.recompute
    if name in vit.PLANS:
        plan = vit.PLANS[name]
        return ViT(plan, dim, IMAGE_PX, drop_path=drop_path, mask=mask, recompute=recompute)
    return Swin(dim, IMAGE_PX, drop_path=drop_path, recompute=recompute)
