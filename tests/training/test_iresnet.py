"""IResNet against arcface_torch's names and a unit written down from the paper."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from training.iresnet import PLANS, IResNet, Plan, Unit

SMALL = Plan(units=(1, 2, 1, 1), widths=(4, 6, 8, 10))


def norm(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    return functional.batch_norm(
        x, mean, variance, state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-5
    )


@pytest.mark.parametrize(("before", "after", "stride"), [(4, 4, 1), (4, 4, 2), (4, 6, 2)])
def test_unit_is_the_papers(before: int, after: int, stride: int) -> None:
    """BN, conv, BN, PReLU, conv with the stride, BN; nothing after the sum."""
    torch.manual_seed(1)
    unit = Unit(before, after, stride).double().eval()
    for value in unit.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.2, 1.5)
    state = unit.state_dict()
    x = torch.randn(2, before, 9, 9, dtype=torch.float64)
    out = functional.conv2d(norm(x, state, "bn1"), state["conv1.weight"], padding=1)
    out = norm(out, state, "bn2")
    out = torch.where(out > 0, out, out * state["prelu.weight"][:, None, None])
    out = functional.conv2d(out, state["conv2.weight"], stride=stride, padding=1)
    around = x
    if (before, stride) != (after, 1):
        around = functional.conv2d(x, state["downsample.0.weight"], stride=stride)
        around = norm(around, state, "downsample.1")
    torch.testing.assert_close(unit(x), norm(out, state, "bn3") + around, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["r18", "r50", "r200"])
def test_names_are_those_of_arcface_torch(name: str) -> None:
    """Written down from its backbones/iresnet.py: the layout of the weights in its zoo."""
    norms = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {"conv1.weight", "prelu.weight", "fc.weight", "fc.bias"}
    expected |= {f"{key}.{part}" for key in ("bn1", "bn2", "features") for part in norms}
    for stage, units in enumerate(PLANS[name].units, 1):
        for unit in range(units):
            at = f"layer{stage}.{unit}"
            expected |= {f"{at}.{key}.weight" for key in ("conv1", "conv2", "prelu")}
            expected |= {f"{at}.{key}.{part}" for key in ("bn1", "bn2", "bn3") for part in norms}
        expected |= {f"layer{stage}.0.downsample.0.weight"}
        expected |= {f"layer{stage}.0.downsample.1.{part}" for part in norms}
    with torch.device("meta"):
        net = IResNet(PLANS[name], 512, 0.0, 112)
    assert net.state_dict().keys() == expected


def test_the_head_is_bn_dropout_fc_bn() -> None:
    torch.manual_seed(2)
    net = IResNet(SMALL, 5, 0.5, 32).double()
    seen: list[Tensor] = []
    net.layer4.register_forward_hook(lambda _module, _taken, given: seen.append(given))
    x = torch.randn(6, 3, 32, 32, dtype=torch.float64)
    torch.manual_seed(3)
    answer = net(x)
    torch.manual_seed(3)
    maps = functional.batch_norm(seen[0], None, None, training=True, eps=1e-5)
    dropped = functional.dropout(maps.flatten(1), 0.5, training=True)
    flat = dropped @ net.fc.weight.T + net.fc.bias
    deviation = flat.var(0, unbiased=False).add(1e-5).sqrt()
    torch.testing.assert_close(answer, (flat - flat.mean(0)) / deviation, rtol=0, atol=1e-10)


def test_the_last_scale_is_fixed_at_one() -> None:
    net = IResNet(SMALL, 5, 0.0, 32)
    fixed = [key for key, value in net.named_parameters() if not value.requires_grad]
    assert fixed == ["features.weight"]
    assert net.features.weight.eq(1).all()


def test_the_stem_keeps_the_resolution_and_each_stage_halves_it() -> None:
    net, sides = IResNet(SMALL, 5, 0.0, 112).eval(), []
    for part in (net.conv1, net.layer1, net.layer2, net.layer3, net.layer4):
        part.register_forward_hook(lambda _module, _taken, given: sides.append(given.shape[-1]))
    net(torch.zeros(1, 3, 112, 112))
    assert sides == [112, 56, 28, 14, 7]
