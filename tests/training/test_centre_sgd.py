from __future__ import annotations

import copy

import pytest
import torch

from training import centre_sgd
from training.centre_sgd import CentreSGD

SHAPE = (40, 2, 3)


@pytest.mark.parametrize("piece_bytes", [1, 1 << 8, 1 << 26])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_dense_gradient_is_torch_s_sgd(
    monkeypatch: pytest.MonkeyPatch, momentum: float, weight_decay: float, piece_bytes: int
) -> None:
    monkeypatch.setattr(centre_sgd, "UPDATE_BYTES", piece_bytes)
    torch.manual_seed(0)
    ours = torch.nn.Parameter(torch.randn(SHAPE, dtype=torch.float64))
    theirs = torch.nn.Parameter(ours.detach().clone())
    settings = {"lr": 0.1, "momentum": momentum, "weight_decay": weight_decay}
    optimizers = [CentreSGD([ours], **settings), torch.optim.SGD([theirs], **settings)]
    for _ in range(5):
        ours.grad = torch.randn(SHAPE, dtype=torch.float64)
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)


@pytest.mark.parametrize("piece_bytes", [1, 1 << 26])
def test_a_row_is_updated_only_in_the_steps_that_have_it(
    monkeypatch: pytest.MonkeyPatch, piece_bytes: int
) -> None:
    """Each row's course is that of torch's SGD on this row alone, over its own steps."""
    monkeypatch.setattr(centre_sgd, "UPDATE_BYTES", piece_bytes)
    torch.manual_seed(0)
    first = torch.randn(SHAPE, dtype=torch.float64)
    ours = torch.nn.Parameter(first.clone())
    rows = [torch.nn.Parameter(row.clone()) for row in first]
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    optimizer = CentreSGD([ours], **settings)
    alone = [torch.optim.SGD([row], **settings) for row in rows]
    for step in range(6):
        index = torch.arange(step % 3, SHAPE[0], 2 + step % 2)
        values = torch.randn(len(index), *SHAPE[1:], dtype=torch.float64)
        ours.grad = torch.sparse_coo_tensor(index[None], values, SHAPE, check_invariants=True)
        optimizer.step()
        for place, value in zip(index.tolist(), values, strict=True):
            rows[place].grad = value
            alone[place].step()
    torch.testing.assert_close(ours.detach(), torch.stack([row.detach() for row in rows]))
    never = [row for row in range(SHAPE[0]) if rows[row].grad is None]
    assert torch.equal(ours.detach()[never], first[never])


def test_a_row_given_twice_counts_as_its_sum() -> None:
    ours, once = (torch.nn.Parameter(torch.ones(4, 1, 2)) for _ in range(2))
    index = torch.tensor([[2, 0, 2]])
    ours.grad = torch.sparse_coo_tensor(
        index, torch.ones(3, 1, 2), (4, 1, 2), check_invariants=True
    )
    once.grad = torch.sparse_coo_tensor(
        torch.tensor([[0, 2]]),
        torch.tensor([1.0, 2.0])[:, None, None].expand(2, 1, 2),
        (4, 1, 2),
        check_invariants=True,
    )
    for centres in (ours, once):
        CentreSGD([centres], lr=0.5).step()
    assert torch.equal(ours, once)
    assert ours[:, 0, 0].tolist() == [0.5, 1.0, 0.0, 1.0]


def test_no_gradient_no_step_and_the_state_goes_through_a_state_dict() -> None:
    centres = torch.nn.Parameter(torch.ones(4, 1, 2))
    optimizer = CentreSGD([centres], lr=0.5)
    optimizer.step()
    assert not optimizer.state
    centres.grad = torch.ones_like(centres)
    assert optimizer.step(lambda: 3.0) == 3.0
    twin = torch.nn.Parameter(centres.detach().clone())
    other = CentreSGD([twin], lr=0.5)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    twin.grad = torch.ones_like(twin)
    optimizer.step()
    other.step()
    assert torch.equal(centres, twin)
