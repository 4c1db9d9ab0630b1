"""The log-sum-exp of a margin loss in pieces of classes, without the batch x classes matrix.

The forward pass gathers it piece by piece; the backward pass computes each piece once more
and turns it into gradients at once (the idea of Cut Cross-Entropy, arXiv:2411.09009). That is
four large products instead of three, against a matrix that is written and read several times,
and unlike a gradient taken in the forward pass it costs nothing in evaluation and allows any
weight of a sample. No copy of the centres is made either: a piece is gathered, normalised and
forgotten.

Legend: B samples, S classes present (all of a shard, or those sampled), N classes of a piece,
K sub-centres of a class, D embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from training import margins
from training.margin_rules import MIN_NORM

# The log-sum-exp of no class. Finite, so that exp(z - lse) of an absent class is 0, not NaN.
NOTHING = -1e30


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """What is computed, besides the tensors that get a gradient."""

    rows_S: Tensor | None  # the classes present, ascending; None: all
    targets_B: Tensor  # place of the label among them; -1: not here, or no label
    unit_centres: bool
    hard: tuple[Tensor, Tensor] | None  # threshold_B and t of CurricularFace
    sums: bool  # whether the sums of logits are asked for (label smoothing)
    chunk_bytes: int
    gemm_dtype: torch.dtype | None  # None: that of the vectors

    def count(self, centres_CKD: Tensor) -> int:
        """Return S."""
        return len(centres_CKD if self.rows_S is None else self.rows_S)

    def bounds(self, centres_CKD: Tensor) -> Iterator[tuple[int, int]]:
        """Yield the first class of each piece and the one after its last."""
        count = self.count(centres_CKD)
        row_bytes = 4 * max(1, len(self.targets_B)) * centres_CKD.shape[1]
        step = max(1, self.chunk_bytes // row_bytes)
        for start in range(0, count, step):
            yield start, min(start + step, count)

    def centres(self, centres_CKD: Tensor, start: int, end: int) -> tuple[Tensor, Tensor]:
        """Return a piece's centres (N, K, D), normalised if need be, and their norms (N, K, 1)."""
        chosen = slice(start, end) if self.rows_S is None else self.rows_S[start:end]
        return self.directions(centres_CKD[chosen])

    def directions(self, centres_NKD: Tensor) -> tuple[Tensor, Tensor]:
        """Return centres as they are multiplied, float32 or float64, and their norms."""
        centres_NKD = margins.widen(centres_NKD)
        norms_NK1 = torch.linalg.vector_norm(centres_NKD, dim=-1, keepdim=True)
        norms_NK1 = norms_NK1.clamp(min=MIN_NORM)
        return (centres_NKD / norms_NK1 if self.unit_centres else centres_NKD), norms_NK1

    def product(self, left: Tensor, right: Tensor) -> Tensor:
        """Return a matrix product of gemm_dtype inputs, as left's dtype."""
        if self.gemm_dtype is None:
            return left @ right
        narrow = left.to(self.gemm_dtype), right.to(self.gemm_dtype)
        if left.is_cuda:  # where the sums can be kept in float32; a CPU has no such product
            return torch.mm(*narrow, out_dtype=torch.float32).to(left.dtype)
        return (narrow[0] @ narrow[1]).to(left.dtype)

    def dots(self, vectors_BD: Tensor, centres_NKD: Tensor) -> Tensor:
        """Return the products of a piece (B, N, K)."""
        dots = self.product(vectors_BD, centres_NKD.flatten(0, 1).T)
        return dots.view(len(dots), *centres_NKD.shape[:2])

    def column(self, start: int, end: int) -> tuple[Tensor, Tensor]:
        """Return which samples have their target in a piece (B, 1), and its column (B, 1)."""
        here = (self.targets_B >= start) & (self.targets_B < end)
        return here[:, None], (self.targets_B - start).clamp(0, end - start - 1)[:, None]

    def negatives(self, dots_BN: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return what becomes of negatives, and its derivative (None: 1 everywhere)."""
        if self.hard is None:
            return dots_BN, None
        threshold_B, t = self.hard
        slope = torch.where(dots_BN > threshold_B[:, None], t + 2.0 * dots_BN, 1.0)
        return margins.curricular_negatives(dots_BN, threshold_B, t.to(dots_BN.dtype)), slope


def target_products(
    vectors_BD: Tensor, centres_CKD: Tensor, pieces: Pieces
) -> tuple[Tensor, Tensor]:
    """Return each sample's product with its own centre and that centre's norm, (B,) each.

    0 where the centre is not here. Always in float32 or float64, whatever gemm_dtype is.
    """
    if not pieces.count(centres_CKD):
        zeros = torch.zeros_like(vectors_BD[:, 0])
        return zeros, zeros.clone()
    here_B, places_B = pieces.targets_B >= 0, pieces.targets_B.clamp(min=0)
    rows_B = places_B if pieces.rows_S is None else pieces.rows_S[places_B]
    own_BKD, norms_BK1 = pieces.directions(centres_CKD[rows_B])
    dots_B = torch.einsum("bd,bkd->bk", vectors_BD, own_BKD).amax(dim=1)
    return dots_B * here_B, norms_BK1[:, 0, 0] * here_B


class _LogSumExp(torch.autograd.Function):
    """See `log_sum_exp`."""

    @staticmethod
    def forward(
        ctx: Any, vectors_BD: Tensor, centres_CKD: Tensor, scale_B: Tensor, pieces: Pieces
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        top_B = torch.full_like(scale_B, NOTHING)
        total_B, sums_B = torch.zeros_like(scale_B), torch.zeros_like(scale_B)
        for start, end in pieces.bounds(centres_CKD):
            centres_NKD, _ = pieces.centres(centres_CKD, start, end)
            dots_BN, _ = _best(pieces.dots(vectors_BD, centres_NKD))
            logits_BN = pieces.negatives(dots_BN)[0].mul_(scale_B[:, None])
            here_B1, column_B1 = pieces.column(start, end)
            at_target_B1 = logits_BN.gather(1, column_B1)
            if pieces.sums:
                sums_B += logits_BN.sum(dim=1) - (at_target_B1 * here_B1)[:, 0]
            logits_BN.scatter_(1, column_B1, at_target_B1.masked_fill(here_B1, -torch.inf))
            higher_B = torch.maximum(top_B, logits_BN.amax(dim=1))
            total_B *= (top_B - higher_B).exp_()
            total_B += logits_BN.sub_(higher_B[:, None]).exp_().sum(dim=1)
            top_B = higher_B
        lse_B = (top_B + total_B.log()).clamp_(min=NOTHING)
        ctx.pieces = pieces
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(vectors_BD, centres_CKD, scale_B, lse_B)
        dots_B, norms_B = target_products(vectors_BD, centres_CKD, pieces)
        if pieces.unit_centres:
            ctx.mark_non_differentiable(norms_B)  # no loss asks for it
        return dots_B, norms_B, lse_B, sums_B

    @staticmethod
    def backward(ctx: Any, *grads_B: Tensor | None) -> tuple[Tensor | None, ...]:
        vectors_BD, centres_CKD, scale_B, lse_B = ctx.saved_tensors
        pieces: Pieces = ctx.pieces
        vectors_grad_BD, scale_grad_B = torch.zeros_like(vectors_BD), torch.zeros_like(scale_B)
        rows_grad_SKD = centres_CKD.new_zeros((pieces.count(centres_CKD), *centres_CKD.shape[1:]))
        for start, end in pieces.bounds(centres_CKD):
            centres_NKD, norms_NK1 = pieces.centres(centres_CKD, start, end)
            flat_ND = centres_NKD.flatten(0, 1)
            dots_grad, scale_part_B = _dots_grad(
                pieces, (start, end), vectors_BD, centres_NKD, scale_B, lse_B, grads_B
            )
            scale_grad_B += scale_part_B
            vectors_grad_BD += pieces.product(dots_grad, flat_ND)
            grad_NKD = pieces.product(dots_grad.T, vectors_BD).view_as(centres_NKD)
            if pieces.unit_centres:
                along_NK1 = (grad_NKD * centres_NKD).sum(dim=-1, keepdim=True)
                grad_NKD = (grad_NKD - centres_NKD * along_NK1) / norms_NK1
            elif grads_B[1] is not None:
                grad_NKD = grad_NKD + centres_NKD / norms_NK1 * _norms_grad(
                    pieces, (start, end), grads_B[1]
                )
            rows_grad_SKD[start:end] = grad_NKD
        if pieces.rows_S is None:
            return vectors_grad_BD, rows_grad_SKD, scale_grad_B, None
        sparse = torch.sparse_coo_tensor(
            pieces.rows_S[None],
            rows_grad_SKD,
            centres_CKD.shape,
            is_coalesced=True,
            check_invariants=False,  # they hold; a check would wait for the GPU
        )
        return vectors_grad_BD, sparse, scale_grad_B, None


def _best(dots_BNK: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the best product of each class's sub-centres, and which (None: there is one)."""
    if dots_BNK.shape[2] == 1:
        return dots_BNK[..., 0], None
    best = dots_BNK.max(dim=-1)
    return best.values, best.indices


def _dots_grad(
    pieces: Pieces,
    bounds: tuple[int, int],
    vectors_BD: Tensor,
    centres_NKD: Tensor,
    scale_B: Tensor,
    lse_B: Tensor,
    grads_B: tuple[Tensor | None, ...],
) -> tuple[Tensor, Tensor]:
    """Return the gradient of a piece's products (B, N * K), and its share of the scale's (B,)."""
    nothing_B = torch.zeros_like(scale_B)
    target_grad_B, _, lse_grad_B, sums_grad_B = (
        nothing_B if grad_B is None else grad_B for grad_B in grads_B
    )
    dots_BNK = pieces.dots(vectors_BD, centres_NKD)
    dots_BN, best_BN = _best(dots_BNK)
    values_BN, slope_BN = pieces.negatives(dots_BN)
    grad_BN = (scale_B[:, None] * values_BN).sub_(lse_B[:, None])
    here_B1, column_B1 = pieces.column(*bounds)
    grad_BN.scatter_(1, column_B1, grad_BN.gather(1, column_B1).masked_fill(here_B1, -torch.inf))
    grad_BN.exp_().mul_(lse_grad_B[:, None])
    if pieces.sums:
        grad_BN.add_(sums_grad_B[:, None])
    grad_BN.scatter_(1, column_B1, grad_BN.gather(1, column_B1).masked_fill(here_B1, 0.0))
    scale_grad_B = (grad_BN * values_BN).sum(dim=1)
    grad_BN *= scale_B[:, None]
    if slope_BN is not None:
        grad_BN *= slope_BN
    at_target_B1 = grad_BN.gather(1, column_B1)
    grad_BN.scatter_(1, column_B1, torch.where(here_B1, target_grad_B[:, None], at_target_B1))
    if best_BN is None:
        return grad_BN, scale_grad_B
    # Of a class's sub-centres, the one that gave the product gets the gradient.
    spread_BNK = torch.zeros_like(dots_BNK).scatter_(2, best_BN[..., None], grad_BN[..., None])
    return spread_BNK.flatten(1), scale_grad_B


def _norms_grad(pieces: Pieces, bounds: tuple[int, int], grad_B: Tensor) -> Tensor:
    """Return the gradient of each class's norm in a piece, from those of the targets' norms."""
    here_B1, column_B1 = pieces.column(*bounds)
    owners_BN = grad_B.new_zeros(len(grad_B), bounds[1] - bounds[0])
    owners_BN.scatter_(1, column_B1, here_B1.to(grad_B.dtype))
    return (grad_B @ owners_BN)[:, None, None]  # a product: one order of adding, on a GPU too


def log_sum_exp(
    vectors_BD: Tensor, centres_CKD: Tensor, scale_B: Tensor, pieces: Pieces
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what a margin loss needs of all classes, differentiably, (B,) each.

    The product with the target's centre and that centre's norm (0 where it is not here; the
    norm has a gradient where centres are not normalised), and over all classes but the target
    the log-sum-exp of the logits and their sum. With
    ``pieces.rows_S`` the gradient of the centres is sparse: those rows alone.
    """
    results: tuple[Tensor, Tensor, Tensor, Tensor] = _LogSumExp.apply(
        vectors_BD, centres_CKD, scale_B, pieces
    )  # type: ignore[no-untyped-call]
    return results
