"""How long a run is, counted in samples."""

from __future__ import annotations

from training.settings import TrainSettings


def run_length(settings: TrainSettings, epoch_samples: int, ranks: int) -> tuple[int, int]:
    """Return how many samples a step takes over all ranks, and how many a run takes."""
    step = ranks * settings.data.loader.batch_samples * settings.accumulation
    if settings.steps is not None:
        return step, settings.steps * step
    return step, max(1, round(settings.epochs * epoch_samples))
