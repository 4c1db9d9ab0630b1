"""Muon against torch's own where torch has one, and against what it promises."""

from __future__ import annotations

import pytest
import torch

from training.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(8, 8), (4, 12), (12, 4)])
def test_steps_on_matrices_are_those_of_torch(shape: tuple[int, int]) -> None:
    start = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    own, other = (torch.nn.Parameter(start.clone()) for _ in range(2))
    settings = {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.1}
    # torch's keeps (1 - momentum) of a gradient: a factor that orthogonality takes out again.
    optimizers = [Muon([own], **settings), torch.optim.Muon([other], **settings)]
    for step in range(5):
        gradient = torch.randn(shape, generator=torch.Generator().manual_seed(10 + step))
        own.grad, other.grad = gradient.clone(), gradient.clone()
        for optimizer in optimizers:
            optimizer.step()
    moved = (own - start).norm()
    assert moved > 0.01
    assert (own - other).norm() < 0.05 * moved  # bfloat16 keeps eight bits, five steps of it


def test_a_convolution_is_the_matrix_of_its_outputs() -> None:
    kernel = torch.randn(6, 3, 3, 3, generator=torch.Generator().manual_seed(2))
    gradient = torch.randn(6, 3, 3, 3, generator=torch.Generator().manual_seed(3))
    four, two = torch.nn.Parameter(kernel.clone()), torch.nn.Parameter(kernel.flatten(1).clone())
    four.grad, two.grad = gradient.clone(), gradient.flatten(1).clone()
    Muon([four], lr=0.1).step()
    Muon([two], lr=0.1).step()
    assert torch.equal(four.detach().flatten(1), two.detach())


@pytest.mark.parametrize("shape", [(16, 40), (40, 16)])
def test_singular_values_come_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(4))
    matrix[0] *= 20
    values = torch.linalg.svdvals(orthogonal(matrix).float())
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_parameters_without_a_gradient_stay() -> None:
    still = torch.nn.Parameter(torch.ones(3, 3))
    Muon([still], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(still.detach(), torch.ones(3, 3))
