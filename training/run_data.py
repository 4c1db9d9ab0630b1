"""What a run reads: a dataset, a .rec or folders, as samples in their order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from facepipe.errors import DatasetNotFound, UsageError
from facepipe.shards import open_dataset
from training.augment import AugmentSettings
from training.dataset_samples import SampleSettings, dataset_samples, lineage
from training.loader import Loader, LoaderSettings
from training.sample_order import SampleOrder
from training.samples import Samples
from training.settings import TrainSettings
from training.source_samples import source_samples

STATISTIC_BATCHES, STATISTIC_BATCH = 16, 128  # 2,048 crops: folded_norms asks for a few thousand


def open_samples(
    sources: Sequence[str], settings: SampleSettings
) -> tuple[Samples, dict[str, object]]:
    """Return the samples of one dataset, or of other sources, and where they come from.

    Raises UsageError for settings that only a dataset can follow, and as `dataset_samples` and
    `source_samples` do.
    """
    if len(sources) == 1 and not Path(sources[0]).is_file():
        try:
            dataset = open_dataset(sources[0])
        except DatasetNotFound:
            pass
        else:
            return dataset_samples(dataset, settings), lineage(dataset, settings)
    changed = settings.model_dump(exclude_defaults=True)
    there = all("://" in source or Path(source).exists() for source in sources)
    if changed and there:  # what is not there is named by source_samples
        raise UsageError(
            f"data.samples.{next(iter(changed))} is of datasets alone, and {', '.join(sources)} is "
            "none: leave it out, or run facepipe curate and train on its result"
        )
    return source_samples(sources), {"sources": "photos"}


def order_of(samples: Samples, settings: TrainSettings) -> SampleOrder:
    """Return the order of a run's samples."""
    return SampleOrder(samples, settings.data.order, settings.data.balance, seed=settings.seed)


def first_images(order: SampleOrder, device: torch.device) -> Iterator[Tensor]:
    """Yield batches of the first crops, unchanged: the same ones on every rank."""
    plain = AugmentSettings(flip=0.0)
    with Loader(order, LoaderSettings(batch_samples=STATISTIC_BATCH), plain) as loader:
        for _ in range(STATISTIC_BATCHES):
            batch = next(loader)
            yield batch.images(device)[batch.label_B.to(device) >= 0]
