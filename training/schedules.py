"""Learning rates as functions of how much has been seen: nothing to keep, nothing to restore.

A rate follows from the position in the samples of the whole run, not from a count of steps, so
that a run that goes on with another number of ranks goes on along the same curve.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class ScheduleSettings(BaseModel):
    """What every schedule has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    warmup_epochs: float = Field(
        0.0,
        ge=0,
        description="in which the rate rises in a straight line (Goyal et al. 2017, 2.2)",
    )


class Poly(ScheduleSettings):
    """(1 - t)^power, t from 0 to 1 after the warm-up: that of arcface_torch."""

    name: Literal["poly"] = "poly"
    power: float = Field(
        1.0,
        ge=0,
        description="1: as arcface_torch's trainer calls its PolynomialLRWarmup; 0: constant",
    )


class Cosine(ScheduleSettings):
    """Half a cosine: Loshchilov and Hutter 2017 (arXiv:1608.03983), eq. 5, with one cycle."""

    name: Literal["cosine"] = "cosine"
    floor: float = Field(0.0, ge=0, le=1, description="share of the rate that is left at the end")


class WarmRestarts(ScheduleSettings):
    """Cosines one after the other: SGDR of the same paper; together they fill the run."""

    name: Literal["warm_restarts"] = "warm_restarts"
    cycles: int = Field(3, ge=1, le=64, description="how many")
    growth: float = Field(2.0, ge=1, le=8, description="T_mult: how much longer each one is")
    floor: float = Field(0.0, ge=0, le=1, description="share of the rate at a cycle's end")


AnySchedule = Annotated[Poly | Cosine | WarmRestarts, Field(discriminator="name")]


def factor(
    schedule: Poly | Cosine | WarmRestarts,
    start: int,
    end: int,
    *,
    total: int,
    epoch_samples: int,
) -> float:
    """Return what the base rate is multiplied with in a step over samples start .. end - 1.

    ``total`` samples make up the run. In the warm-up it is that of the step's end, so that no
    step stands still; after it that of its start, so that the last one moves, too.
    """
    warmup = schedule.warmup_epochs * epoch_samples
    if start < warmup:
        return min(1.0, end / warmup)
    t = min(1.0, (start - warmup) / max(1.0, total - warmup))
    match schedule:
        case Poly():
            return float((1.0 - t) ** schedule.power)
        case Cosine():
            return _cosine(t, schedule.floor)
        case WarmRestarts():
            return _cosine(_within_cycle(t, schedule.cycles, schedule.growth), schedule.floor)


def _cosine(t: float, floor: float) -> float:
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * t))


def _within_cycle(t: float, cycles: int, growth: float) -> float:
    """Return the place in its cycle, 0 to 1, of a place in the run."""
    lengths = [growth**cycle for cycle in range(cycles)]
    left = t * sum(lengths)
    for length in lengths[:-1]:
        if left < length:
            return left / length
        left -= length
    return min(1.0, left / lengths[-1])
