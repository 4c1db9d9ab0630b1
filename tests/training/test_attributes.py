from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from facepipe.errors import UsageError
from tests.training.loss_reference import derivative
from training.attributes import Attribute, AttributeHead, AttributeSettings

AGES = Attribute(name="age", values=("child", "adult", "old"), weight=0.5)
GLASSES = Attribute(name="glasses", values=("no", "yes"), weight=2.0)
LABELS = {"age": [0, 2, -1, 1, 2], "glasses": [-1, 1, 0, -1, 1]}
WEIGHTS = [1.0, 0.5, 2.0, 0.0, 1.5]
DIM = 4


def head(smoothing: float = 0.0) -> AttributeHead:
    torch.manual_seed(0)
    settings = AttributeSettings(attributes=(AGES, GLASSES), label_smoothing=smoothing)
    return AttributeHead(DIM, settings).double()


def tensors() -> dict[str, torch.Tensor]:
    return {name: torch.tensor(labels) for name, labels in LABELS.items()}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["equal", "weighted"])
def test_value_and_gradient_are_the_formula(weights: list[float] | None, smoothing: float) -> None:
    module = head(smoothing)
    weight = weights or [1.0] * 5
    x = np.random.default_rng(1).normal(size=(5, DIM)) * 3

    def formula(x: NDArray[Any]) -> complex:
        total = 0j
        for one in (AGES, GLASSES):
            linear = module.classifiers[one.name]
            w, b = linear.weight.detach().numpy(), linear.bias.detach().numpy()
            terms, used = 0j, 0.0
            for i, label in enumerate(LABELS[one.name]):
                if label == -1:
                    continue
                logits = w @ x[i] + b
                log_p = logits - np.log(np.exp(logits).sum())
                given = np.full(len(logits), smoothing / len(logits))
                given[label] += 1 - smoothing
                terms, used = terms - weight[i] * (given * log_p).sum(), used + weight[i]
            total += one.weight * terms / used
        return complex(total)

    value, gradient = derivative(formula, x)
    given = torch.from_numpy(x).requires_grad_()
    ours = module(given, tensors(), None if weights is None else torch.tensor(weights).double())
    ours.backward()
    assert given.grad is not None
    assert ours.item() == pytest.approx(value, abs=1e-12)
    torch.testing.assert_close(given.grad.numpy(), gradient, rtol=0, atol=1e-8)
    assert torch.autograd.gradcheck(lambda x: module(x, tensors()), given)


def test_an_attribute_known_of_no_face_adds_nothing() -> None:
    module = head()
    labels = tensors()
    labels["age"][:] = -1
    module(torch.randn(5, DIM).double(), labels).backward()
    age, glasses = (module.classifiers[name].weight.grad for name in ("age", "glasses"))
    assert age is not None and not age.any()
    assert glasses is not None and glasses.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_loss_is_float32_and_finite_under_autocast(dtype: torch.dtype) -> None:
    module = head().float()
    embeddings = (torch.randn(1, DIM) * 100).requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        loss = module(embeddings, {"age": torch.tensor([1]), "glasses": torch.tensor([0])})
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert embeddings.grad is not None and embeddings.grad.isfinite().all()


def test_labels_of_every_attribute_are_asked_for() -> None:
    with pytest.raises(UsageError, match="attributes glasses have no labels"):
        head()(torch.randn(5, DIM).double(), {"age": torch.tensor(LABELS["age"])})


@pytest.mark.parametrize(
    "attributes",
    [(), (AGES, AGES), ({"name": "age", "values": ("one",)},), ({"name": "a b", "values": "xy"},)],
)
def test_settings_that_make_no_sense(attributes: Any) -> None:
    with pytest.raises(ValidationError):
        AttributeSettings(attributes=attributes)
