"""A larger net that begins where a smaller one ended: it answers alike, and learns on.

Chen, Goodfellow, Shlens 2016 (arXiv:1511.05641), Net2DeeperNet: what a deeper net has more begins
as a layer that passes on what it gets. Here those are the further units of a `training.plain_net`
stage, whose last normalisation begins at 0. The smaller net is read from its ONNX file, where
normalisations are folded away; pictures give them back their statistics.

How far a step turns a row of weights depends on the row's length, which the file does not tell:
before a normalisation any length answers alike. Rows get the length of which the optimiser's first
full step is STEP.

Legend: B pictures.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from facepipe.errors import ConfigError
from training.backbone import BackboneSettings, build_backbone
from training.folded_norms import Norm, restore_statistics
from training.mirrored import Mirrored
from training.muon_adamw import COLOURS, MuonAdamW
from training.onnx_weights import load_onnx
from training.plain_net import PLANS, ConvNorm, PlainNet, Plan

STEP = 0.01  # between what a step is of a fresh row (.014) and of one trained at full rates (.007)


def begin_from(
    net: nn.Module,
    larger: BackboneSettings,
    data: bytes,
    smaller: BackboneSettings,
    optimizer: MuonAdamW,
    batches_BCHW: Iterable[Tensor],
) -> None:
    """Give a fresh net the weights of a smaller one: the ONNX file of a `Mirrored` net.

    The batches are B x 3 x 112 x 112 in [-1, 1], RGB; some thousand pictures are enough. Raises
    ModelUnreadable, ModelMismatch where the file is not of ``smaller``, and ConfigError where the
    net has not all that the smaller one has.
    """
    if not can_grow(smaller, larger):
        raise ConfigError(
            f"a {larger.name} of {larger.dim} dimensions cannot begin as a {smaller.name} of "
            f"{smaller.dim}: it needs the same stem, stages as wide and as many units at least"
        )
    before = build_backbone(smaller)
    load_onnx(Mirrored(before), data, "the smaller net")
    restore_statistics(before, batches_BCHW)
    _level(before, optimizer)
    given = dict(zip(_units(PLANS[smaller.name]), _body(before), strict=True))
    own = dict(zip(_units(PLANS[larger.name]), _body(net), strict=True))
    for place, unit in given.items():
        own[place].load_state_dict(unit.state_dict())
    for part in ("fc", "features"):
        net.get_submodule(part).load_state_dict(before.get_submodule(part).state_dict())


def can_grow(smaller: BackboneSettings, larger: BackboneSettings) -> bool:
    """Return whether a net has all that a smaller one has."""
    if smaller.name not in PLANS or larger.name not in PLANS or smaller.dim != larger.dim:
        return False
    few, many = PLANS[smaller.name], PLANS[larger.name]
    alike = (few.stem, few.widths) == (many.stem, many.widths)
    return alike and all(a <= b for a, b in zip(few.units, many.units, strict=True))


def _units(plan: Plan) -> list[tuple[int, int]]:
    """Return the places of a net's body: stage and unit, the stem before all."""
    inner = [(stage, unit) for stage, units in enumerate(plan.units) for unit in range(units)]
    return [(-1, 0), *inner]


def _body(net: nn.Module) -> list[nn.Module]:
    assert isinstance(net, PlainNet)
    return list(net.body)


@torch.no_grad()
def _level(net: nn.Module, optimizer: MuonAdamW) -> None:
    """Give every row of weights the length of which a first full step is STEP."""
    for unit in net.modules():
        if isinstance(unit, ConvNorm):
            # Muon's step turns a convolution's rows by its rate, AdamW's each of their numbers.
            numbers = unit.conv.weight[0].numel()
            muon = unit.conv.in_channels != COLOURS
            step = optimizer.muon_lr if muon else optimizer.lr * numbers**0.5
            _set_length(unit.conv.weight, unit.norm, step / STEP)
    assert isinstance(net, PlainNet)
    _set_length(net.fc.weight, net.features, optimizer.lr * net.fc.in_features**0.5 / STEP)


def _set_length(weight: Tensor, norm: Norm, length: float) -> None:
    """Make rows as long as that, and the normalisation behind them answer as before."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    shrunk = weight.flatten(1).norm(dim=1).clamp(min=1e-12) / length
    weight.div_(shrunk.view(-1, *[1] * (weight.ndim - 1)))
    before = (norm.running_var + norm.eps).sqrt()
    norm.running_mean.div_(shrunk)
    norm.running_var.div_(shrunk.square())
    norm.weight.mul_(shrunk * (norm.running_var + norm.eps).sqrt() / before)
