"""The log-sum-exp in pieces, each output and each gradient by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from training.class_pieces import NOTHING, Pieces, log_sum_exp

ROWS, CLASSES, DIM = 5, 9, 4
TARGETS = [0, 8, -1, 3, 3]


def pieces(**more: Any) -> Pieces:
    plain: dict[str, Any] = {
        "rows_S": None,
        "targets_B": torch.tensor(TARGETS),
        "unit_centres": True,
        "hard": None,
        "sums": True,
        "chunk_bytes": 4 * ROWS * 2,  # two classes
        "gemm_dtype": None,
    }
    return Pieces(**{**plain, **more})


def inputs(sub_centers: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(2)
    vectors = torch.randn(ROWS, DIM, dtype=torch.float64)
    centres = torch.randn(CLASSES, sub_centers, DIM, dtype=torch.float64)
    scale = torch.rand(ROWS, dtype=torch.float64) * 4 + 1
    return tuple(value.requires_grad_() for value in (vectors, centres, scale))  # type: ignore


HARD = (torch.full((ROWS,), 0.2, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("sub_centers", "more"),
    [
        (1, {}),
        (3, {}),
        (1, {"unit_centres": False}),
        (1, {"hard": HARD}),
        (2, {"hard": HARD, "chunk_bytes": 1 << 20}),
        (1, {"targets_B": torch.full((ROWS,), -1)}),
    ],
)
def test_every_output_s_gradient(sub_centers: int, more: dict[str, Any]) -> None:
    assert torch.autograd.gradcheck(
        lambda *values: log_sum_exp(*values, pieces(**more)), inputs(sub_centers)
    )


@pytest.mark.parametrize("unit_centres", [True, False])
def test_values(unit_centres: bool) -> None:
    vectors, centres, scale = inputs()
    rows = torch.tensor([0, 2, 3, 5, 8])
    chosen = pieces(
        rows_S=rows, targets_B=torch.tensor([0, 4, -1, 2, 2]), unit_centres=unit_centres
    )
    dots, norms, lse, sums = log_sum_exp(vectors, centres, scale, chosen)
    for i, target in enumerate(TARGETS):
        products = {}
        for j in rows.tolist():
            w = centres[j, 0] / (centres[j, 0].norm() if unit_centres else 1.0)
            products[j] = (vectors[i] * w).sum()
        logits = [scale[i] * value for j, value in products.items() if j != target]
        expected = [
            products[target] if target != -1 else torch.zeros(()).double(),
            centres[target, 0].norm() if target != -1 else torch.zeros(()).double(),
            torch.stack(logits).logsumexp(0),
            torch.stack(logits).sum(),
        ]
        for ours, value in zip((dots, norms, lse, sums), expected, strict=True):
            torch.testing.assert_close(ours[i], value, rtol=0, atol=1e-13)


def test_sampled_rows_have_a_sparse_gradient_the_same_as_a_dense_one() -> None:
    vectors, centres, scale = inputs()
    rows = torch.tensor([0, 2, 3, 5, 8])
    targets = torch.tensor([0, 4, -1, 2, 2])
    sparse, dense = (
        torch.autograd.grad(
            sum(
                part.sum()
                for part in log_sum_exp(
                    vectors, given, scale, pieces(rows_S=chosen, targets_B=targets)
                )
            ),
            centres,
        )[0]
        for given, chosen in ((centres, rows), (centres[rows], None))
    )
    assert sparse.is_sparse and sparse.is_coalesced()
    assert sparse.indices()[0].tolist() == rows.tolist()
    torch.testing.assert_close(sparse.to_dense(), dense, rtol=0, atol=1e-14)


@pytest.mark.parametrize("count", [0, 1])
def test_a_shard_without_a_negative_adds_nothing(count: int) -> None:
    vectors, centres, scale = inputs()
    targets = torch.full((ROWS,), count - 1)  # of one class: the target of all
    few = centres[:count]
    dots, _, lse, sums = log_sum_exp(vectors, few, scale, pieces(targets_B=targets))
    assert lse.tolist() == [NOTHING] * ROWS
    assert sums.abs().max() < 1e-12
    grads = torch.autograd.grad(torch.logaddexp(lse, dots).sum() + sums.sum(), inputs_of(vectors))
    assert grads[0].isfinite().all()


def inputs_of(*values: Tensor) -> tuple[Tensor, ...]:
    return values
