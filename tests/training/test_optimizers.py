"""Which parameters decay, and at which rate."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from training.iresnet import PLANS, IResNet
from training.optimizers import (
    CENTRE_LR,
    AdamW,
    CentreSettings,
    Sgd,
    build_centre_optimizer,
    build_optimizer,
    set_rates,
)


def net() -> nn.Module:
    return IResNet(PLANS["tiny"], 8, 0.0, 112)


@pytest.mark.parametrize(
    "settings", [Sgd(), Sgd(decay_norms=False), AdamW(), AdamW(decay_norms=True)]
)
def test_norms_and_biases_decay_as_set(settings: Sgd | AdamW) -> None:
    made = net()
    optimizer = build_optimizer(made, settings)
    decay = {
        parameter: group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for name, parameter in made.named_parameters():
        if name == "features.weight":  # fixed at 1
            assert parameter not in decay
        elif name.endswith("bias") or ".bn" in name or "prelu" in name or name.startswith("bn"):
            assert decay[parameter] == (settings.weight_decay if settings.decay_norms else 0)
        elif parameter.ndim > 1:
            assert decay[parameter] == settings.weight_decay


def test_a_step_is_the_formula() -> None:
    layer = nn.Linear(2, 1, bias=False)
    optimizer = build_optimizer(layer, Sgd(lr=0.5, momentum=0.9, weight_decay=0.1))
    weight, velocity = layer.weight.detach().clone(), torch.zeros(1, 2)
    for factor in (1.0, 0.5):
        set_rates([optimizer], factor)
        optimizer.zero_grad()
        layer(torch.tensor([[1.0, 2.0]])).sum().backward()
        optimizer.step()
        velocity = 0.9 * velocity + torch.tensor([[1.0, 2.0]]) + 0.1 * weight
        weight = weight - 0.5 * factor * velocity
        torch.testing.assert_close(layer.weight.detach(), weight)


@pytest.mark.parametrize(
    ("beside", "own", "expected"),
    [(Sgd(lr=0.02), None, 0.02), (AdamW(), None, CENTRE_LR), (AdamW(), 0.3, 0.3)],
)
def test_centres_have_their_own_rate(
    beside: Sgd | AdamW, own: float | None, expected: float
) -> None:
    centres = nn.Parameter(torch.zeros(3, 1, 2))
    optimizer = build_centre_optimizer(centres, CentreSettings(lr=own), beside)
    set_rates([optimizer], 0.5)
    assert optimizer.param_groups[0]["lr"] == expected * 0.5
