"""Distillation against the papers' formulas, written once more for one pair or triple at a time."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from tests.training.loss_reference import derivative
from training.distill import Distillation, DistillSettings

TEACHER = {"kind": "pack", "pack": "unused"}
ALONE = {
    name: {"embedding": 0.0, "similarity": 0.0, name: 1.0}
    for name in ("embedding", "similarity", "distance", "angle")
}
MIXED = {"embedding": 0.5, "similarity": 3.0, "distance": 1.0, "angle": 2.0, "angle_samples": 5}
CASES = [*ALONE.values(), MIXED]
WEIGHTS = [1.0, 0.5, 0.0, 2.0, 1.5, 1.0]


class Given:
    """A teacher whose answers are in its pictures: the first numbers of each."""

    def __init__(self, dim: int) -> None:
        self.dim, self.digest = dim, ""

    def embed(self, images_BCHW: Tensor) -> Tensor:
        return images_BCHW.flatten(1)[:, : self.dim]


def pictures(taught_BT: NDArray[np.float64]) -> Tensor:
    images_BK = torch.zeros(len(taught_BT), 12, dtype=torch.float64)
    images_BK[:, : taught_BT.shape[1]] = torch.from_numpy(taught_BT)
    return images_BK.view(-1, 3, 2, 2)


def made(dim: int, seed: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(len(WEIGHTS), dim)) * rng.uniform(0.5, 20, size=(len(WEIGHTS), 1))


def distillation(case: dict[str, Any], dim: int, teacher_dim: int) -> Distillation:
    settings = DistillSettings.model_validate({"teacher": TEACHER, **case})
    return Distillation(settings, dim, Given(teacher_dim)).double()


def length(vector: NDArray[Any]) -> Any:
    return np.sqrt((vector * vector).sum())  # not linalg.norm, which the complex step is not for


def huber(a: Any, b: Any) -> Any:
    gap = a - b
    return 0.5 * gap * gap if abs(gap.real) <= 1 else (gap if gap.real > 0 else -gap) - 0.5


def mean_over(groups: int, value: Callable[..., Any], rows: int, weights: list[float]) -> Any:
    """The weighted mean over all ordered pairs or triples of different samples."""
    tuples = list(itertools.permutations(range(rows), groups))
    shares = [np.prod([weights[place] for place in places]) for places in tuples]
    terms = [share * value(*places) for share, places in zip(shares, tuples, strict=True)]
    return sum(terms) / sum(shares)


def reference(
    case: dict[str, Any],
    own: NDArray[Any],
    taught: NDArray[np.float64],
    weights: list[float],
    linear: NDArray[np.float64] | None = None,
) -> Any:
    """The papers' losses, sample by sample."""
    n, total = len(own), 0.0 + 0j
    u = np.stack([row / length(row) for row in own])
    v = np.stack([row / length(row) for row in taught])
    if case.get("embedding"):
        mapped = u if linear is None else u @ linear.T
        cosines = [(m / length(m) * t).sum() for m, t in zip(mapped, v, strict=True)]
        losses = [w * (1 - c) for w, c in zip(weights, cosines, strict=True)]
        total += case["embedding"] * sum(losses) / sum(weights)
    if case.get("similarity"):
        gap = lambda i, j: ((u[i] * u[j]).sum() - (v[i] * v[j]).sum()) ** 2  # noqa: E731
        total += case["similarity"] * mean_over(2, gap, n, weights)
    if case.get("distance"):
        of_u = lambda i, j: length(u[i] - u[j])  # noqa: E731
        of_v = lambda i, j: length(v[i] - v[j])  # noqa: E731
        mu_u, mu_v = (mean_over(2, f, n, weights) for f in (of_u, of_v))
        gap = lambda i, j: huber(of_u(i, j) / mu_u, of_v(i, j) / mu_v)  # noqa: E731
        total += case["distance"] * mean_over(2, gap, n, weights)
    if case.get("angle"):
        rows = min(n, case.get("angle_samples", n))

        def angle(x: NDArray[Any], i: int, j: int, k: int) -> Any:
            return ((x[i] - x[j]) / length(x[i] - x[j]) * (x[k] - x[j]) / length(x[k] - x[j])).sum()

        corner = lambda i, j, k: huber(angle(u, i, j, k), angle(v, i, j, k))  # noqa: E731
        total += case["angle"] * mean_over(3, corner, rows, weights)
    return total


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dims", [(4, 4), (3, 5)], ids=["same", "fewer"])
@pytest.mark.parametrize("case", CASES, ids=[*ALONE, "mixed"])
def test_value_and_gradient_are_the_papers(
    case: dict[str, Any], dims: tuple[int, int], weighted: bool
) -> None:
    own, taught = made(dims[0], 1), made(dims[1], 2)
    loss = distillation(case, *dims)
    linear = None if loss.map is None else loss.map.detach().numpy()
    weights = WEIGHTS if weighted else [1.0] * len(WEIGHTS)
    value, gradient = derivative(lambda x: reference(case, x, taught, weights, linear), own)
    x = torch.from_numpy(own).requires_grad_()
    given = torch.tensor(weights, dtype=torch.float64) if weighted else None
    result = loss(x, pictures(taught), given)
    result.backward()
    assert x.grad is not None
    assert abs(result.item() - value) <= 1e-12 * max(1, abs(value))
    np.testing.assert_allclose(x.grad.numpy(), gradient, rtol=0, atol=1e-10)
    assert torch.autograd.gradcheck(
        lambda values: loss(values, pictures(taught), given),
        torch.from_numpy(own).requires_grad_(),
    )


def test_the_map_is_learned_and_the_teacher_is_not() -> None:
    loss = distillation(MIXED, 3, 5)
    names = {name for name, _ in loss.named_parameters()}
    assert names == set(loss.state_dict()) == {"map"}
    images = pictures(made(5, 2)).requires_grad_()
    loss(torch.from_numpy(made(3, 1)), images).backward()
    assert loss.map is not None and loss.map.grad is not None
    assert loss.map.grad.abs().sum() > 0
    assert images.grad is None
    again = distillation(MIXED, 3, 5)
    assert torch.equal(loss.map, again.map)  # on every rank, whatever was drawn before


@pytest.mark.parametrize("case", [*ALONE.values(), MIXED], ids=[*ALONE, "mixed"])
def test_a_student_that_agrees_has_no_loss(case: dict[str, Any]) -> None:
    taught = made(4, 2)
    own = torch.from_numpy(taught * np.arange(1, len(taught) + 1)[:, None]).requires_grad_()
    loss = distillation(case, 4, 4)(own, pictures(taught))
    loss.backward()
    assert loss.item() < 1e-30
    assert own.grad is not None
    assert own.grad.abs().max() < 1e-15


@pytest.mark.parametrize("name", ["similarity", "distance", "angle"])
def test_relations_do_not_depend_on_the_coordinates(name: str) -> None:
    own, taught = made(4, 1), made(4, 2)
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(4, 4)))
    loss = distillation(ALONE[name], 4, 4)
    plain, turned = (loss(torch.from_numpy(x), pictures(taught)).item() for x in (own, own @ turn))
    assert plain == pytest.approx(turned, rel=1e-12)
    assert plain > 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", CASES, ids=[*ALONE, "mixed"])
def test_gradients_are_finite_for_pictures_that_are_alike(
    case: dict[str, Any], dtype: torch.dtype
) -> None:
    """Two equal pictures, one without an embedding, and a batch of one picture."""
    own = torch.from_numpy(made(4, 1)).to(dtype)
    own[1], own[3] = own[0], 0
    taught = made(4, 2)
    taught[1] = taught[0]
    loss = distillation(case, 4, 4).float()
    for rows in (slice(None), slice(0, 1)):
        x = own[rows].clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            result = loss(x, pictures(taught)[rows])
        result.backward()
        assert result.dtype == torch.float32
        assert torch.isfinite(result)
        assert x.grad is not None
        assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"embedding": 0.0, "similarity": 0.0},
        {"embedding": -1.0},
        {"angle_samples": 2},
        {"teacher": {"pack": "buffalo_l"}},
        {"teacher": {"kind": "weights", "weights": "net.pt"}},
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DistillSettings.model_validate({"teacher": TEACHER, **wrong})
