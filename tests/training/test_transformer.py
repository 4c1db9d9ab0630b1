"""Attention, dropped branches and recomputation, against torch's own and by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.transformer import Attention, DropPath, Mlp, rising, run


@pytest.mark.parametrize("with_bias", [False, True])
def test_attention_is_torchs(with_bias: bool) -> None:
    torch.manual_seed(0)
    own = Attention(12, 3, qkv_bias=True).double()
    oracle = nn.MultiheadAttention(12, 3, batch_first=True).double()
    with torch.no_grad():
        oracle.in_proj_weight.copy_(own.qkv.weight)
        oracle.in_proj_bias.copy_(own.qkv.bias)
        oracle.out_proj.weight.copy_(own.proj.weight)
        oracle.out_proj.bias.copy_(own.proj.bias)
    x_BNC = torch.randn(2, 5, 12, dtype=torch.float64)
    bias = torch.randn(5, 5, dtype=torch.float64) if with_bias else None
    expected, _ = oracle(x_BNC, x_BNC, x_BNC, attn_mask=bias, need_weights=False)
    torch.testing.assert_close(own(x_BNC, bias), expected, rtol=0, atol=1e-12)


def test_attention_takes_windows_and_a_bias_for_each_head() -> None:
    torch.manual_seed(1)
    attention = Attention(8, 2, qkv_bias=False).double()
    x_BGNC = torch.randn(2, 3, 4, 8, dtype=torch.float64)
    bias_GhNN = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    together = attention(x_BGNC, bias_GhNN)
    for window in range(3):
        alone = attention(x_BGNC[:, window], bias_GhNN[window])
        torch.testing.assert_close(together[:, window], alone, rtol=0, atol=1e-12)


def test_mlp_is_two_layers_four_times_as_wide() -> None:
    mlp = Mlp(6, nn.ReLU6())
    x = 9 * torch.randn(4, 6)
    inner = (x @ mlp.fc1.weight.T + mlp.fc1.bias).clamp(0, 6)
    assert inner.shape == (4, 24)
    torch.testing.assert_close(mlp(x), functional.linear(inner, mlp.fc2.weight, mlp.fc2.bias))


def test_drop_path_leaves_out_whole_pictures_and_keeps_the_mean() -> None:
    torch.manual_seed(2)
    drop = DropPath(0.25)
    x = torch.ones(4000, 3, 2)
    out = drop(x)
    rows = out.flatten(1)
    assert torch.equal(rows.amin(1), rows.amax(1))  # a picture is kept or left out as a whole
    assert {round(value, 5) for value in rows[:, 0].unique().tolist()} == {0.0, 1.33333}
    # 4000 pictures: five standard errors of the mean are .046.
    assert abs(float(out.mean()) - 1) < 0.046
    assert torch.equal(drop.eval()(x), x)


def test_shares_rise_from_nothing() -> None:
    assert rising(0.3, 4) == pytest.approx([0, 0.1, 0.2, 0.3])
    assert rising(0.3, 1) == [0]


def test_recomputing_changes_neither_answer_nor_gradient() -> None:
    block = nn.Sequential(nn.Linear(4, 4), DropPath(0.5), nn.LayerNorm(4))
    results: list[tuple[Tensor, Tensor | None]] = []
    for recompute in (False, True):
        torch.manual_seed(3)
        block.zero_grad()
        x = torch.ones(8, 4, requires_grad=True)
        out = run(block, x, recompute=recompute)
        out.square().sum().backward()
        results.append((out.detach(), x.grad))
        assert x.grad is not None
    (one, one_grad), (other, other_grad) = results
    assert torch.equal(one, other)
    assert one_grad is not None
    assert other_grad is not None
    assert torch.equal(one_grad, other_grad)
