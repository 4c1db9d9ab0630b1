from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from tests.training.head_cases import MARGINS, settings
from training.heads import HeadSettings, build_rule
from training.margin_rules import SCALE, cross_entropies, smoothed, weighted_mean


@pytest.mark.parametrize(
    ("labels", "weights", "expected"),
    [
        ([0, 1, 2], None, (1 + 2 + 4) / 3),
        ([0, -1, 2], None, (1 + 4) / 2),
        ([0, 1, 2], [1.0, 0.0, 3.0], (1 + 12) / 4),
        ([0, 1, -1], [0.5, 0.5, 9.0], 1.5),
        ([-1, -1, -1], None, 0.0),
        ([0, 1, 2], [0.0, 0.0, 0.0], 0.0),
    ],
)
def test_weighted_mean(labels: list[int], weights: list[float] | None, expected: float) -> None:
    losses = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    given = None if weights is None else torch.tensor(weights)
    assert weighted_mean(losses, torch.tensor(labels), given).item() == pytest.approx(expected)


def test_what_does_not_count_may_be_nan() -> None:
    losses = torch.tensor([1.0, math.nan, math.nan], requires_grad=True)
    mean = weighted_mean(losses, torch.tensor([0, -1, 2]), torch.tensor([1.0, 1.0, 0.0]))
    mean.backward()
    assert mean.item() == 1
    assert losses.grad is not None and losses.grad.tolist() == [1, 0, 0]


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_smoothing_is_cross_entropy_with_the_spread_label(smoothing: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 6, dtype=torch.float64) * 5
    labels = torch.tensor([0, 5, -1, 2])
    spread = torch.full((4, 6), smoothing / 6, dtype=torch.float64)
    spread[torch.arange(4), labels] += 1 - smoothing
    expected = -(spread * logits.log_softmax(dim=1)).sum(dim=1)
    expected[2] = 0
    ours = cross_entropies(logits, labels, smoothing)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)
    targets = logits.gather(1, labels.clamp(min=0)[:, None])[:, 0]
    parts = smoothed(cross_entropies(logits, labels), targets, logits.sum(1), 6, smoothing)
    torch.testing.assert_close(parts[labels != -1], expected[labels != -1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", MARGINS)
def test_the_papers_defaults_build(name: str) -> None:
    chosen = settings(name)
    assert HeadSettings.model_validate(chosen.model_dump()) == chosen
    rule = build_rule(chosen)
    norms = torch.tensor([3.0, 40.0])
    expected = {"softmax": [1.0, 1.0], "sphereface": [3.0, 40.0], "lsoftmax": [3.0, 40.0]}
    assert rule.scale(norms).tolist() == expected.get(name, [SCALE, SCALE])


@pytest.mark.parametrize(
    "margin",
    [
        {"name": "arcface", "margin": 0.5},  # its margin is in radians, and named so
        {"name": "arcface", "margin_rad": 28.6},  # degrees
        {"name": "arcface", "scale": 0},
        {"name": "combined", "m1": 0.5},
        {"name": "combined", "m1": 2, "past_pi": "linear"},
        {"name": "sphereface", "m": 1.5},
        {"name": "no such loss"},
        {},
    ],
)
def test_settings_that_make_no_sense(margin: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        HeadSettings.model_validate({"margin": margin})
