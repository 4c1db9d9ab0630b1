"""A running mean of a net's weights, which is often better than the last ones.

Polyak and Juditsky 1992, "Acceleration of stochastic approximation by averaging"; with
exponential weights as in Tarvainen and Valpola 2017 (arXiv:1703.01780). The decay grows towards
what is set, min(decay, (1 + t) / (10 + t)) at step t, as in TensorFlow's
ExponentialMovingAverage, so that fresh weights are soon forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from facepipe.errors import ModelMismatch


def decay_at(decay: float, step: int) -> float:
    """Return the decay of step t, counted from 1."""
    return min(decay, (1 + step) / (10 + step))


class WeightAverage:
    """The mean of everything in a net's state that is a number with a point.

    Means and variances of batch normalisations are averaged alike, since they belong to the
    weights that they were seen with. Counters are copied.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        """Begin with the weights as they are; the net must stay where it is in memory."""
        self.decay = decay
        live = {name: value.detach() for name, value in net.state_dict().items()}
        self.state: dict[str, Tensor] = {name: value.clone() for name, value in live.items()}
        floats = [name for name, value in live.items() if value.is_floating_point()]
        self._live = [live[name] for name in floats]
        self._mean = [self.state[name] for name in floats]
        self._counters = [(self.state[name], live[name]) for name in live.keys() - set(floats)]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step t, counted from 1."""
        torch._foreach_lerp_(self._mean, self._live, 1.0 - decay_at(self.decay, step))
        for own, live in self._counters:
            own.copy_(live)

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state. Raises ModelMismatch for that of another net."""
        shapes = {name: value.shape for name, value in self.state.items()}
        if {name: value.shape for name, value in state.items()} != shapes:
            raise ModelMismatch(
                "the averaged weights are of another net: resume with the settings of that run"
            )
        for name, value in self.state.items():
            value.copy_(state[name])
