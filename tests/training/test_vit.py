"""ViT: patches, positions, and the tokens that are left out in training."""

from __future__ import annotations

import torch

from training.vit import PATCH_PX, PLANS, Block, Plan, ViT


def small(*, mask: float = 0.0, depth: int = 2, recompute: bool = False) -> ViT:
    torch.manual_seed(0)
    plan = Plan(channels=16, depth=depth)
    return ViT(plan, 6, 40, drop_path=0.0, mask=mask, recompute=recompute)


def test_patches_are_cut_by_rows_and_the_rest_is_left_out() -> None:
    net = small()
    picture = torch.zeros(1, 3, 40, 40)
    assert net.patch_embed(picture).shape == (1, 16, 16)
    before = net.patch_embed(picture)
    picture[0, :, 36:] = 5.0  # beyond 4 x 9 px
    assert torch.equal(net.patch_embed(picture), before)
    picture[0, :, PATCH_PX, 2 * PATCH_PX] = 1.0  # second row of patches, third column
    changed = (net.patch_embed(picture) != before).any(2)[0]
    assert changed.nonzero().flatten().tolist() == [1 * 4 + 2]


def test_a_block_is_pre_normalised() -> None:
    torch.manual_seed(1)
    block = Block(16, 0.0)
    x = torch.randn(2, 5, 16)
    mixed = x + block.attn(torch.nn.functional.layer_norm(x, (16,)))
    expected = mixed + block.mlp(torch.nn.functional.layer_norm(mixed, (16,)))
    torch.testing.assert_close(block(x), expected)


def test_masked_tokens_are_the_learned_one_and_the_others_keep_their_places() -> None:
    net = small(mask=0.25, depth=0).train()
    with torch.no_grad():
        net.mask_token.fill_(7.0)
    seen: list[torch.Tensor] = []
    net.feature.register_forward_hook(lambda _module, taken, _given: seen.append(taken[0]))
    x = torch.randn(3, 3, 40, 40)
    net(x)
    tokens = seen[0].unflatten(1, (16, 16))
    expected = net.norm(net.patch_embed(x) + net.pos_embed)
    masked = (tokens == 7.0).all(2)
    assert masked.sum(1).tolist() == [4, 4, 4]
    assert not torch.equal(masked[0], masked[1])  # each picture its own
    torch.testing.assert_close(tokens[~masked], expected[~masked])
    net.eval()(x)
    torch.testing.assert_close(seen[1].unflatten(1, (16, 16)), expected)


def test_without_masking_every_parameter_is_used() -> None:
    """One that is not would keep DistributedDataParallel waiting."""
    for mask in (0.0, 0.5):
        net = small(mask=mask)
        net(torch.randn(3, 3, 40, 40)).square().sum().backward()
        assert [key for key, value in net.named_parameters() if value.grad is None] == []


def test_recomputing_gives_the_same_gradients() -> None:
    grads = []
    for recompute in (False, True):
        net = small(mask=0.25, recompute=recompute)
        torch.manual_seed(5)
        net(torch.linspace(-1, 1, 3 * 3 * 1600).reshape(3, 3, 40, 40)).sum().backward()
        grads.append([value.grad for value in net.parameters() if value.grad is not None])
    assert len(grads[0]) == len(grads[1])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_names_are_those_of_arcface_torch() -> None:
    with torch.device("meta"):
        net = ViT(PLANS["vit_t"], 512, 112, drop_path=0.1, mask=0.1, recompute=False)
    expected = {"pos_embed", "mask_token", "patch_embed.proj.weight", "patch_embed.proj.bias"}
    expected |= {"norm.weight", "norm.bias", "feature.0.weight", "feature.2.weight"}
    norms = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected |= {f"feature.{at}.{part}" for at in (1, 3) for part in norms}
    for at in range(12):
        layers = ("norm1", "norm2", "attn.proj", "mlp.fc1", "mlp.fc2")
        expected |= {f"blocks.{at}.{layer}.{part}" for layer in layers for part in norms[:2]}
        expected |= {f"blocks.{at}.attn.qkv.weight"}
    assert net.state_dict().keys() == expected
