"""The factor of float16, and that an overflow on one rank is everybody's."""

from __future__ import annotations

import json

import pytest
import torch

from training.loss_scale import FIRST_SCALE, GROWTH_STEPS, LossScale


def test_it_halves_at_an_overflow_and_grows_when_long_without() -> None:
    scale = LossScale()
    scale.update(True)
    assert scale.scale == FIRST_SCALE / 2
    for _ in range(GROWTH_STEPS - 1):
        scale.update(False)
    assert scale.scale == FIRST_SCALE / 2
    twin = LossScale()
    twin.load(json.loads(json.dumps(scale.state())))  # a kill just here
    for one in (scale, twin):
        one.update(False)
        assert one.scale == FIRST_SCALE and one.held_steps == 0


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("sparse", [False, True])
def test_gradients_are_divided_and_looked_at(bad: float, sparse: bool) -> None:
    scale = LossScale()
    gradients = [torch.full((2, 3), FIRST_SCALE), torch.full((4,), 2 * FIRST_SCALE)]
    if sparse:
        gradients[0] = gradients[0].to_sparse(1) + torch.ones(2, 3).to_sparse(1)
    assert not scale.unscale(gradients)
    dense = [gradient.to_dense() for gradient in gradients]
    assert torch.allclose(dense[0], torch.ones(2, 3), atol=1e-4)
    assert torch.equal(dense[1], torch.full((4,), 2.0))
    gradients[1][3] = bad
    assert scale.unscale(gradients)


def test_nothing_is_finite() -> None:
    assert not LossScale().unscale([])
