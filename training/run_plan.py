"""What a run is going to be, before it runs: its samples, steps, net and memory."""

from __future__ import annotations

from typing import Any

import torch

from training.backbone import build_backbone
from training.flops import count_cost
from training.run_data import order_of
from training.run_length import run_length
from training.samples import Samples
from training.settings import TrainSettings

_FLOAT32_BYTES = 4
_COPIES = 2  # of the class centres: themselves and their momentum


def plan_run(settings: TrainSettings, samples: Samples, ranks: int) -> dict[str, Any]:
    """Return, as JSON, what a run on so many ranks is going to be; nothing is trained."""
    epoch_samples = order_of(samples, settings).epoch_samples
    step_samples, total = run_length(settings, epoch_samples, ranks)
    with torch.device("meta"):
        cost = count_cost(build_backbone(settings.backbone))
    head_bytes = 0
    if settings.head is not None:
        rows = len(samples.people) * settings.head.sub_centers
        head_bytes = rows * settings.backbone.dim * _FLOAT32_BYTES * _COPIES
    return {
        "people": len(samples.people),
        "samples": len(samples),
        "counts": dict(samples.counts),
        "epoch_samples": epoch_samples,
        "ranks": ranks,
        "step_samples": step_samples,
        "steps": -(-total // step_samples),
        "epochs": total / epoch_samples,
        "backbone": settings.backbone.name,
        "parameters": cost.parameters,
        "multiply_adds": cost.multiply_adds,
        "head_bytes": head_bytes,
        "head_bytes_a_rank": -(-head_bytes // ranks),
    }


def format_plan(plan: dict[str, Any]) -> str:
    """Return a plan as a person wants it."""
    left_out = {what: n for what, n in plan["counts"].items() if n and what != "used"}
    others = ", ".join(f"{n:,} {what}" for what, n in left_out.items())
    lines = [
        f"{'people':<10} {plan['people']:,}",
        f"{'samples':<10} {plan['samples']:,}; left out: {others or 'none'}",
        f"{'epoch':<10} {plan['epoch_samples']:,} samples",
        f"{'steps':<10} {plan['steps']:,} of {plan['step_samples']:,} samples "
        f"({plan['ranks']} ranks), {plan['epochs']:.2f} epochs",
        f"{'backbone':<10} {plan['backbone']}: {plan['parameters']:,} parameters, "
        f"{plan['multiply_adds'] / 1e6:,.0f} M multiply-adds a crop",
        f"{'head':<10} {plan['head_bytes'] / 2**20:,.1f} MiB of centres and momentum, "
        f"{plan['head_bytes_a_rank'] / 2**20:,.1f} MiB a rank",
    ]
    return "\n".join(lines)
