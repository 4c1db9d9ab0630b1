"""Averaged weights against the sum written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from facepipe.errors import ModelMismatch
from training.ema import WeightAverage, decay_at


def test_the_decay_grows_to_what_is_set() -> None:
    assert [decay_at(0.9, step) for step in (1, 2, 70, 1000)] == [2 / 11, 3 / 12, 71 / 80, 0.9]


def test_it_is_the_weighted_sum_of_all_weights() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()
    average = WeightAverage(net, 0.8)
    first = net[0].weight.detach().clone()
    history = []
    for step in range(1, 60):
        with torch.no_grad():
            net[0].weight.copy_(torch.randn(2, 3, dtype=torch.float64))
            net[1].running_var.fill_(step)
        net[1].num_batches_tracked.fill_(step)
        average.update(step)
        history.append(net[0].weight.detach().clone())
    left, expected = 1.0, torch.zeros_like(first)
    for step, weight in reversed(list(enumerate(history, start=1))):
        decay = min(0.8, (1 + step) / (10 + step))
        expected += left * (1 - decay) * weight
        left *= decay
    torch.testing.assert_close(average.state["0.weight"], expected + left * first)
    assert 50 < average.state["1.running_var"][0] < 59
    assert average.state["1.num_batches_tracked"] == 59


def test_a_state_is_taken_over_whole_or_refused() -> None:
    net = nn.Linear(3, 2)
    average = WeightAverage(net, 0.9)
    average.load({"weight": torch.ones(2, 3), "bias": torch.zeros(2)})
    assert average.state["weight"].sum() == 6
    with pytest.raises(ModelMismatch, match="of another net"):
        average.load({"weight": torch.ones(2, 3)})
