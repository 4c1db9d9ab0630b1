"""Statistics for norms that were folded away: the same answers, and a net that can be trained."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from tests.training.made_nets import made_net, made_onnx
from training.folded_norms import folded_norms, restore_statistics
from training.onnx_weights import load_onnx


@pytest.fixture(scope="module")
def folded() -> nn.Module:
    net = made_net("tiny", seed=1)
    load_onnx(net, made_onnx("tiny"), "made.onnx")
    return net


def answer(net: nn.Module, x: Tensor, *, training: bool) -> Tensor:
    with torch.no_grad():
        out: Tensor = deepcopy(net).train(training)(x)
    return out


def test_answers_stay_and_training_mode_agrees(folded: nn.Module) -> None:
    torch.manual_seed(2)
    batches = [torch.randn(8, 3, 112, 112) for _ in range(2)]
    x = torch.cat(batches)
    before = answer(folded, x, training=False)
    lost = cosine_similarity(answer(folded, x, training=True), before)
    net = deepcopy(folded)
    # Of a unit the two norms behind convolutions, of which one leads around where that differs.
    assert len(folded_norms(net)) == 1 + 4 * 2 + 3
    assert restore_statistics(net, batches) == 1 + 4 * 2 + 3
    after = answer(net, x, training=False)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-3 * float(before.std()))
    # All pictures as one batch have the very statistics; norms that were never folded have not.
    restored = {id(norm) for norm in folded_norms(folded)}
    net.train()
    for mine, theirs in zip(_norms(net), _norms(folded), strict=True):
        if id(theirs) not in restored:
            mine.eval()
    with torch.no_grad():
        kept = cosine_similarity(net(x), before)
    assert float(kept.min()) > 0.999
    assert float(lost.mean()) < 0.9
    assert folded_norms(net) == []


def _norms(net: nn.Module) -> list[nn.Module]:
    return [m for m in net.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]


def test_statistics_are_those_of_the_batches(folded: nn.Module) -> None:
    net = deepcopy(folded)
    x = torch.randn(4, 3, 112, 112)
    first = net.get_submodule("conv1")
    with torch.no_grad():
        maps = first(x)
    restore_statistics(net, [x[:3], x[3:]])
    norm = net.get_submodule("bn1")
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    torch.testing.assert_close(norm.running_mean, maps.mean((0, 2, 3)), rtol=1e-4, atol=1e-6)
    variance = maps.var((0, 2, 3), unbiased=False)
    torch.testing.assert_close(norm.running_var, variance, rtol=1e-4, atol=1e-6)


def test_a_net_with_statistics_is_left_alone() -> None:
    net = made_net("tiny")
    before = {key: value.clone() for key, value in net.state_dict().items()}
    assert restore_statistics(net, [torch.randn(2, 3, 112, 112)]) == 0
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_without_a_batch_it_is_refused(folded: nn.Module) -> None:
    with pytest.raises(ValueError, match="at least one batch"):
        restore_statistics(deepcopy(folded), [])
