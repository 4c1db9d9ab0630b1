"""Swin's windows against attention over the whole picture with pairs ruled out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from training.swin import SHIFT, WINDOW, Block, Merge, Stage, Swin, SwinTrunk

SIDE = 14


def reference(block: Block, x_BHWC: Tensor, shift: int) -> Tensor:
    """The block by the paper's words: a token attends to those in its window.

    Windows are moved by ``shift`` down and right; those that would reach over an edge are cut
    there. Written with one attention over all tokens and a bias of minus infinity elsewhere.
    """
    batch, side, _, channels = x_BHWC.shape
    row, column = (
        grid.flatten() for grid in torch.meshgrid(*[torch.arange(side)] * 2, indexing="ij")
    )
    window = torch.stack([(row - shift) // WINDOW, (column - shift) // WINDOW], 1)
    together = (window[:, None] == window[None]).all(2)
    down = (row[:, None] - row[None]).clamp(1 - WINDOW, WINDOW - 1) + WINDOW - 1
    right = (column[:, None] - column[None]).clamp(1 - WINDOW, WINDOW - 1) + WINDOW - 1
    table = block.attn.relative_position_bias_table.T.reshape(-1, 13, 13)
    bias = table[:, down, right].masked_fill(~together, -torch.inf)
    tokens = torch.nn.functional.layer_norm(x_BHWC, (channels,)).reshape(batch, -1, channels)
    heads = block.attn.heads
    query, key, value = (
        part.reshape(batch, side * side, heads, -1).transpose(1, 2)
        for part in block.attn.qkv(tokens).chunk(3, 2)
    )
    weights = (query @ key.transpose(2, 3) * (channels // heads) ** -0.5 + bias).softmax(3)
    mixed = block.attn.proj((weights @ value).transpose(1, 2).reshape(batch, -1, channels))
    out = x_BHWC + mixed.reshape(x_BHWC.shape)
    return out + block.mlp(torch.nn.functional.layer_norm(out, (channels,)))


@pytest.mark.parametrize("shift", [0, SHIFT])
def test_a_block_attends_within_its_windows(shift: int) -> None:
    torch.manual_seed(0)
    block = Block(12, 3, SIDE, shift, 0.0).double()
    with torch.no_grad():
        block.attn.relative_position_bias_table.normal_()
    x = torch.randn(2, SIDE, SIDE, 12, dtype=torch.float64)
    torch.testing.assert_close(block(x), reference(block, x, shift), rtol=0, atol=1e-10)


def test_merge_takes_the_corners_in_the_papers_order() -> None:
    merge = Merge(1)
    taken: list[Tensor] = []
    merge.norm.register_forward_hook(lambda _module, inputs, _given: taken.append(inputs[0]))
    assert merge(torch.arange(16.0).reshape(1, 4, 4, 1)).shape == (1, 2, 2, 2)
    # Its code: even rows of even columns, odd rows, then both of odd columns.
    assert taken[0][0, 0, 0].tolist() == [0, 4, 1, 5]


def test_blocks_are_shifted_by_turns_but_not_in_a_single_window() -> None:
    with torch.device("meta"):
        net = Swin(512, 112, drop_path=0.1, recompute=False)
    shifts = [[block.shift for block in stage.blocks] for stage in net.trunk.layers]
    assert shifts == [[0, 3], [0, 3], [0, 3] * 3, [0, 0]]
    shares = [block.drop_path.share for stage in net.trunk.layers for block in stage.blocks]
    assert shares == pytest.approx([0.1 * at / 11 for at in range(12)])


def test_faces_get_the_tokens_of_the_papers_pictures() -> None:
    shapes = []
    for image_px, patch_px in ((224, 4), (112, 2)):
        with torch.device("meta"):
            trunk = SwinTrunk(image_px, patch_px, drop_path=0.0, recompute=False)
            tokens = trunk.patch_embed(torch.zeros(1, 3, image_px, image_px))
            shapes.append((tokens.shape, trunk(torch.zeros(1, 3, image_px, image_px)).shape))
    assert shapes[0] == shapes[1] == ((1, 56, 56, 96), (1, 7, 7, 768))


def test_recomputing_gives_the_same_gradients() -> None:
    grads = []
    for recompute in (False, True):
        torch.manual_seed(1)
        stage = Stage(12, 3, SIDE, [0.3, 0.3], merge=True)
        torch.manual_seed(2)
        x = torch.linspace(-1, 1, 2 * SIDE * SIDE * 12).reshape(2, SIDE, SIDE, 12)
        stage(x, recompute=recompute).square().sum().backward()
        grads.append([value.grad for value in stage.parameters()])
    for one, other in zip(*grads, strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)
