"""Means between lines of metrics, which a kill does not move."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from facepipe.errors import FacepipeError
from training.learner import StepResult
from training.run_report import Means, TrainResult


def step(overflowed: bool = False, **losses: float) -> StepResult:
    values = {name: torch.tensor(value, dtype=torch.float64) for name, value in losses.items()}
    return StepResult(losses=values, grad_norm=torch.tensor(1.0), overflowed=overflowed)


def means() -> Means:
    return Means(torch.device("cpu"))


def test_a_mean_is_of_the_steps_that_counted() -> None:
    made = means()
    assert made.losses() == {}
    for result in (step(head=1.0, center=0.5), step(True, head=torch.nan, center=9.0)):
        made.add(result)
    made.add(step(head=3.0, center=0.1))
    assert made.losses() == {"loss": 2.3, "loss_head": 2.0, "loss_center": 0.3}
    assert made.overflows == 1
    made.clear()
    made.add(step(head=7.0))
    assert made.losses() == {"loss": 7.0}  # its only part needs no line


def test_a_kill_between_two_lines_changes_no_bit() -> None:
    whole, first = means(), means()
    for value in (0.1, 1 / 3):
        whole.add(step(head=value))
        first.add(step(head=value))
    second = means()
    second.load(json.loads(json.dumps(first.state())))
    for made in (whole, second):
        made.add(step(head=2 / 7))
    assert whole.losses() == second.losses() and whole.state() == second.state()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_loss_that_is_no_number_is_named(value: float) -> None:
    made = means()
    made.add(step(head=1.0, metric=value))
    with pytest.raises(FacepipeError, match=r"the loss \(metric\) is (nan|inf) by step 12"):
        made.check(12)


def test_a_result_goes_through_json() -> None:
    result = TrainResult(
        run=Path("run"),
        step=3,
        epochs=0.5,
        loss=1.5,
        bad={"corrupt": 1},
        seconds=2.0,
        samples_per_s=10.0,
        pack=Path("run/pack"),
    )
    assert TrainResult.of_json(json.loads(json.dumps(result.as_json()))) == result
