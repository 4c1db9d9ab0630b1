from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from torch import Tensor

from tests.training.loss_reference import derivative
from training.metric_losses import (
    AnyMetricLoss,
    CenterLoss,
    CenterLossSettings,
    MetricLoss,
    Mining,
    mined,
)

LABELS = [0, 1, 0, -1, 2, 1, 0, 3]
WEIGHTS = [1.0, 0.5, 2.0, 9.0, 1.5, 1.0, 0.25, 1.0]
CASES: list[dict[str, Any]] = [
    {"name": "contrastive"},
    *({"name": name, "mining": m} for name in ("triplet", "angular_triplet", "angular")
      for m in ("all", "semihard", "hard")),
]  # fmt: skip
LOSSES = pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(case.values()))


def loss(case: dict[str, Any]) -> MetricLoss:
    return MetricLoss(TypeAdapter(AnyMetricLoss).validate_python(case))


def embeddings(seed: int = 0) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(len(LABELS), 3)) * rng.uniform(1, 20, size=(len(LABELS), 1))


def expected_triplets(
    d: NDArray[np.float64], labels: list[int], mining: Mining, margin: float
) -> list[tuple[int, int, int]]:
    """Triplets by the papers' words, one anchor after another."""
    found = []
    places = range(len(labels))
    for a in places:
        positives = [p for p in places if p != a and labels[p] == labels[a] != -1]
        negatives = [n for n in places if labels[n] not in (labels[a], -1)]
        if not positives or not negatives:
            continue
        if mining == "hard":
            farthest = max(positives, key=lambda p: d[a, p])
            found.append((a, farthest, min(negatives, key=lambda n: d[a, n])))
            continue
        for p in positives:
            if mining == "all":
                found += [(a, p, n) for n in negatives if d[a, p] - d[a, n] + margin > 0]
                continue
            beyond = [n for n in negatives if d[a, n] > d[a, p]]
            if beyond:
                found.append((a, p, min(beyond, key=lambda n: d[a, n])))
            else:
                found.append((a, p, max(negatives, key=lambda n: d[a, n])))
    return found


def reference(case: dict[str, Any], x: NDArray[Any], weights: list[float]) -> complex:
    """The loss from its paper's formula; the derivative is that of the mined terms."""
    u = x / np.sqrt((x * x).sum(axis=1, keepdims=True))

    def squared(i: int, j: int) -> Any:
        return ((u[i] - u[j]) ** 2).sum()

    terms: list[tuple[Any, float]] = []
    if case["name"] == "contrastive":
        for i, j in itertools.combinations(range(len(LABELS)), 2):
            if -1 in (LABELS[i], LABELS[j]):
                continue
            d = np.sqrt(squared(i, j))
            apart = 1.0 - d if d.real < 1.0 else 0.0
            term = d**2 / 2 if LABELS[i] == LABELS[j] else apart**2 / 2
            terms.append((term, weights[i] * weights[j]))
    else:
        angular = case["name"] == "angular_triplet"
        distance = (lambda i, j: np.arccos((u[i] * u[j]).sum())) if angular else squared
        matrix = np.array(
            [[distance(i, j).real for j in range(len(LABELS))] for i in range(len(LABELS))]
        )
        margin = math.inf if case["name"] == "angular" else 0.2
        for a, p, n in expected_triplets(matrix, LABELS, case["mining"], margin):
            if case["name"] == "angular":
                middle = (u[a] + u[p]) / 2
                tangent = math.tan(math.radians(45))
                term = squared(a, p) - 4 * tangent**2 * ((u[n] - middle) ** 2).sum()
            else:
                term = distance(a, p) - distance(a, n) + 0.2
            terms.append((term if term.real > 0 else 0.0, weights[a] * weights[p] * weights[n]))
    return complex(sum(t * w for t, w in terms) / sum(w for _, w in terms))


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["equal", "weighted"])
@LOSSES
def test_value_and_gradient_are_the_papers(
    case: dict[str, Any], weights: list[float] | None
) -> None:
    values = []
    for seed in range(4):
        x = embeddings(seed)
        value, gradient = derivative(
            lambda x: reference(case, x, weights or [1.0] * len(LABELS)), x
        )
        given = torch.from_numpy(x).requires_grad_()
        ours = loss(case)(
            given,
            torch.tensor(LABELS),
            None if weights is None else torch.tensor(weights, dtype=torch.float64),
        )
        ours.backward()
        assert given.grad is not None
        assert ours.item() == pytest.approx(value, abs=1e-12)
        torch.testing.assert_close(given.grad.numpy(), gradient, rtol=0, atol=1e-8)
        values.append(value)
    assert max(values) > 0  # semi-hard triplets may all be fulfilled


@LOSSES
def test_gradcheck(case: dict[str, Any]) -> None:
    given = torch.from_numpy(embeddings(4) / 10).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(case)(x, torch.tensor(LABELS)), given)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("mining", ["all", "semihard", "hard"])
def test_mining(mining: Mining, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, 5, 20)
    # Few values, so that there are ties: the first place counts.
    distances = rng.integers(0, 6, size=(20, 20)) / 4.0
    distances = np.minimum(distances, distances.T)
    triplets = mined(torch.from_numpy(distances), torch.from_numpy(labels), mining, 0.3)
    found = list(zip(*(places.tolist() for places in triplets), strict=True))
    assert found == expected_triplets(distances, labels.tolist(), mining, 0.3)
    assert found


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@LOSSES
def test_finite_for_equal_opposite_and_zero_vectors(
    case: dict[str, Any], dtype: torch.dtype
) -> None:
    one = torch.tensor([1.0, 0.0, 0.0])
    rows = torch.stack([one, one, -one, one, one * (1 + 2**-10), one * 0, one, -one])
    given = rows.to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(case)(given, torch.tensor(LABELS))
    value.backward()
    assert value.dtype == (dtype if dtype == torch.float64 else torch.float32)
    assert value.isfinite()
    assert given.grad is not None and given.grad.isfinite().all()


@pytest.mark.parametrize("labels", [[0], [0, 0, 0], [0, 1, 2], [-1, -1, -1], [0, 0, -1]])
@LOSSES
def test_a_batch_without_pairs_or_triplets(case: dict[str, Any], labels: list[int]) -> None:
    given = torch.randn(len(labels), 3, requires_grad=True)
    value = loss(case)(given, torch.tensor(labels))
    value.backward()
    assert value.isfinite()
    if case["name"] != "contrastive":
        assert value.item() == 0
        assert given.grad is not None and not given.grad.any()


def center_loss(weight: float = 0.3) -> CenterLoss:
    module = CenterLoss(4, 3, CenterLossSettings(weight=weight, rate=0.4)).double()
    module.centres.copy_(torch.from_numpy(np.random.default_rng(5).normal(size=(4, 3))))
    return module


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["equal", "weighted"])
def test_center_loss_and_the_centres_step(weights: list[float] | None) -> None:
    module, x = center_loss(), embeddings()
    before = module.centres.numpy().copy()
    valid = [i for i, label in enumerate(LABELS) if label != -1]
    weight = weights or [1.0] * len(LABELS)

    def formula(x: NDArray[Any]) -> complex:
        terms = [weight[i] * 0.15 * ((x[i] - before[LABELS[i]]) ** 2).sum() for i in valid]
        return complex(sum(terms) / sum(weight[i] for i in valid))

    value, gradient = derivative(formula, x)
    given = torch.from_numpy(x).requires_grad_()
    ours = module(given, torch.tensor(LABELS), None if weights is None else torch.tensor(weights))
    ours.backward()
    assert given.grad is not None
    assert ours.item() == pytest.approx(value, abs=1e-12)
    torch.testing.assert_close(given.grad.numpy(), gradient, rtol=0, atol=1e-8)
    expected = before.copy()
    for j in range(4):
        rows = [i for i in valid if LABELS[i] == j]
        delta = sum(before[j] - x[i] for i in rows) / (1 + len(rows))
        expected[j] = before[j] - 0.4 * delta
    torch.testing.assert_close(module.centres.numpy(), expected, rtol=0, atol=1e-12)


def test_center_loss_moves_nothing_in_evaluation_or_without_labels() -> None:
    module = center_loss()
    before = module.centres.clone()
    value = module(torch.from_numpy(embeddings()), torch.full((len(LABELS),), -1))
    assert value.item() == 0
    module.eval()(torch.from_numpy(embeddings()), torch.tensor(LABELS))
    assert torch.equal(module.centres, before)
    twin = copy.deepcopy(module)
    twin.load_state_dict(module.state_dict())
    assert torch.equal(twin.centres, before)


@pytest.mark.parametrize("seed", range(3))
def test_triplets_of_pytorch_metric_learning(seed: int) -> None:
    """A second opinion, away from |c| = 1, where its own angles have no gradient."""
    reason = "pytorch-metric-learning is not installed: it is a second opinion on triplets alone"
    losses = pytest.importorskip("pytorch_metric_learning.losses", reason=reason)
    distances = pytest.importorskip("pytorch_metric_learning.distances", reason=reason)
    reducers = pytest.importorskip("pytorch_metric_learning.reducers", reason=reason)
    x = torch.from_numpy(embeddings(seed))
    labels = torch.tensor([0, 1, 0, 2, 2, 1, 0, 3])
    theirs = losses.TripletMarginLoss(
        margin=0.2,
        distance=distances.LpDistance(power=2),
        reducer=reducers.AvgNonZeroReducer(),
    )
    given: list[Tensor] = [x.clone().requires_grad_() for _ in range(2)]
    values = [
        theirs(given[0], labels),
        loss({"name": "triplet", "mining": "all"})(given[1], labels),
    ]
    for value in values:
        value.backward()
    assert values[1].item() == pytest.approx(values[0].item(), abs=1e-10)
    torch.testing.assert_close(given[1].grad, given[0].grad, rtol=0, atol=1e-8)
