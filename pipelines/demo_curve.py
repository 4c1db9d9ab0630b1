"""The demo's training curve as a figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.evaluate_figures import BOTTOM, LEFT, RIGHT, TOP, Plot, Trace
from pipelines.report_figures import Tick, number


def loss_plot(metrics: Sequence[Mapping[str, Any]]) -> Plot | None:
    """Return the loss over the steps as a figure; None where none was logged."""
    points = [(line["step"], line["loss"]) for line in metrics if "loss" in line]
    if not points:
        return None
    last = max(int(step) for step, _ in points)
    highest = max(float(loss) for _, loss in points)
    tall, wide = _even_step(highest), max(1.0, _even_step(last))
    top = tall * math.ceil(highest / tall + 1e-9)

    def x(step: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * step / last, 1)

    def y(loss: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * loss / top, 1)

    return Plot(
        title="Loss of each step",
        x_title="step",
        y_title="loss",
        x_ticks=tuple(
            Tick(at=x(wide * k), text=number(wide * k)) for k in range(int(last / wide) + 1)
        ),
        y_ticks=tuple(
            Tick(at=y(tall * k), text=number(tall * k)) for k in range(round(top / tall) + 1)
        ),
        traces=(
            Trace(
                name="loss",
                colour=0,
                points=tuple((x(step), y(loss)) for step, loss in points),
                whiskers=(),
            ),
        ),
    )


def _even_step(extent: float) -> float:
    """Return 1, 2 or 5 times a power of ten that cuts an extent in six parts or fewer."""
    if extent <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(extent / 6))
    return next(m * power for m in (1, 2, 5, 10) if extent / (m * power) <= 6)
