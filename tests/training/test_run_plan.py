"""What --dry-run says."""

from __future__ import annotations

from tests.training.train_runs import made_run_samples, run_settings
from training.run_length import run_length
from training.run_plan import format_plan, plan_run


def test_a_plan_counts_without_training() -> None:
    settings = run_settings(
        steps=None, epochs=3, accumulation=2, backbone={"name": "r50"}, head={"sub_centers": 3}
    )
    plan = plan_run(settings, made_run_samples(), 2)
    assert plan["step_samples"] == 16 and plan["steps"] == 5  # 66 samples
    assert plan["parameters"] == 43_590_848  # insightface's model zoo: 43.59 M
    assert plan["head_bytes"] == 5 * 3 * 512 * 4 * 2
    text = format_plan(plan)
    assert "5 of 16 samples (2 ranks), 3.00 epochs" in text and "43,590,848 parameters" in text


def test_steps_go_before_epochs() -> None:
    assert run_length(run_settings(steps=7, accumulation=3), 1000, 2) == (24, 168)
    assert run_length(run_settings(steps=None, epochs=0.5), 1000, 1) == (4, 500)
