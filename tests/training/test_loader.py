"""Batches: the same whatever the workers and ranks, from any position, bad crops or not."""

from __future__ import annotations

import gc
import threading
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from facepipe.errors import CorruptData, UsageError
from tests.training.made_crops import Face, crop, dataset_of, faces_of, rec_of
from tests.training.made_samples import samples_of
from training.augment import AugmentSettings, augment, draws
from training.balance import BalanceSettings
from training.crop_pixels import BadCrop
from training.dataset_samples import dataset_samples
from training.loader import Batch, Loader, LoaderSettings
from training.sample_order import OrderSettings, SampleOrder
from training.samples import Samples
from training.source_samples import source_samples

PLAIN = AugmentSettings(flip=0.0)
ALL_ON = AugmentSettings(
    flip=0.5,
    affine=0.5,
    colour=0.5,
    grey=0.2,
    blur=0.3,
    low_resolution=0.3,
    jpeg=0.3,
    occlusion=0.3,
)
LABELS = [n // 3 for n in range(90)]
GROUPS = [20, 30, 40]


@pytest.fixture(scope="module")
def samples() -> Samples:
    return samples_of(LABELS, GROUPS, pictures=True)


def order_of(samples: Samples, **given: Any) -> SampleOrder:
    settings = {"window_samples": 32, "group_parts": 2, **given}
    return SampleOrder(samples, OrderSettings(**settings), seed=3)


def batches(
    order: SampleOrder,
    count: int,
    *,
    size: int = 8,
    workers: int = 2,
    augmentation: AugmentSettings = PLAIN,
    **given: int,
) -> list[Batch]:
    settings = LoaderSettings(batch_samples=size, workers=workers)
    with Loader(order, settings, augmentation, **given) as loader:
        return list(islice(loader, count))


Row = tuple[int, int, float, bytes]


def rows_of(batch: Batch) -> list[Row]:
    """Return sample, label, weight and pixels of each row."""
    pixels = [row.tobytes() for row in batch.pixels_BHWC.numpy()]
    label, weight = batch.label_B.tolist(), batch.weight_B.tolist()
    return list(zip(batch.sample_B.tolist(), label, weight, pixels, strict=True))


def sequence(found: list[Batch]) -> list[Row]:
    return [row for batch in found for row in rows_of(batch)]


def test_a_batch_has_the_orders_samples_with_their_pixels(samples: Samples) -> None:
    order = order_of(samples)
    found = sequence(batches(order, 15))  # into the second epoch
    assert [row[0] for row in found] == list(islice(order.samples_from(0), 120))
    for sample, label, weight, pixels in found:
        assert label == LABELS[sample]
        assert weight == samples.weight_N[sample]
        assert pixels == crop(sample).tobytes()


def test_shapes_types_and_the_input_of_a_backbone(samples: Samples) -> None:
    (batch,) = batches(order_of(samples), 1, size=5)
    assert batch.pixels_BHWC.shape == (5, 112, 112, 3)
    assert (batch.pixels_BHWC.dtype, batch.label_B.dtype) == (torch.uint8, torch.int64)
    assert batch.weight_B.dtype == torch.float32
    images = batch.images()
    assert images.shape == (5, 3, 112, 112) and images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    expected = (batch.pixels_BHWC.numpy().astype(np.float64) - 127.5) / 127.5
    assert np.abs(images.numpy() - expected.transpose(0, 3, 1, 2)).max() < 1e-6
    assert images.min() >= -1 and images.max() <= 1


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("size", [1, 8, 50, 200])
def test_workers_change_nothing(samples: Samples, workers: int, size: int) -> None:
    """Batches of one sample, of more than a window, and of more than an epoch."""
    order = order_of(samples)
    count = -(-100 // size)
    expected = sequence(batches(order, count, size=size, workers=1, augmentation=ALL_ON))
    found = sequence(batches(order, count, size=size, workers=workers, augmentation=ALL_ON))
    assert found == expected


@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize("position", [0, 13])
def test_ranks_share_one_sequence(samples: Samples, ranks: int, position: int) -> None:
    order = order_of(samples)
    given = {"position": position, "augmentation": ALL_ON}
    alone = batches(order, 7, size=4 * ranks, **given)
    shares = [batches(order, 7, size=4, rank=r, ranks=ranks, **given) for r in range(ranks)]
    for step, whole in enumerate(alone):
        assert rows_of(whole) == [row for share in shares for row in rows_of(share[step])]
        assert {share[step].position for share in shares} == {whole.position}


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("stop", [1, 5, 11, 12, 17])
def test_a_run_goes_on_from_its_position(samples: Samples, workers: int, stop: int) -> None:
    """In the middle of a window, at the end of an epoch (90 samples) and behind it."""
    balance = BalanceSettings(power=0.5)
    for order in (order_of(samples), SampleOrder(samples, balance=balance, seed=1)):
        whole = batches(order, 20, augmentation=ALL_ON)
        position = whole[stop - 1].position
        assert position == 8 * stop
        rest = batches(order, 20 - stop, workers=workers, augmentation=ALL_ON, position=position)
        assert sequence(rest) == sequence(whole[stop:])
        assert [b.position for b in rest] == [b.position for b in whole[stop:]]


def test_a_run_goes_on_with_other_ranks_and_batches(samples: Samples) -> None:
    order = order_of(samples)
    whole = sequence(batches(order, 10, size=12, augmentation=ALL_ON))
    first = batches(order, 3, size=12, augmentation=ALL_ON)
    shares = [
        batches(order, 7, size=4, rank=r, ranks=3, position=36, augmentation=ALL_ON)
        for r in range(3)
    ]
    rest = [row for step in range(7) for share in shares for row in rows_of(share[step])]
    assert sequence(first) + rest == whole


def test_pixels_depend_on_the_sample_and_epoch_alone(samples: Samples) -> None:
    """As they follow from the sample's own key, computed here without any loader."""
    order = order_of(samples)
    for place, (sample, _, _, pixels) in enumerate(
        sequence(batches(order, 23, augmentation=ALL_ON))
    ):
        own = crop(sample)
        drawn = draws(3, place // 90, np.array([sample]), np.array([0]))[0]
        augment(own, drawn.tolist(), ALL_ON)
        assert own.tobytes() == pixels


def test_another_epoch_changes_other_crops(samples: Samples) -> None:
    found = sequence(batches(order_of(samples), 30, size=6, augmentation=ALL_ON))
    one, two = ({row[0]: row[3] for row in found[start : start + 90]} for start in (0, 90))
    assert sum(one[n] != two[n] for n in range(90)) > 60


def test_loaders_may_share_what_they_read(tmp_path: Path) -> None:
    """Two ranks of one process take turns on the same .rec."""
    samples = source_samples([str(rec_of(tmp_path / "rec", [n // 4 for n in range(40)]))])
    order = order_of(samples)
    expected = sequence(batches(order, 12, augmentation=ALL_ON))
    settings = LoaderSettings(batch_samples=4)
    with (
        Loader(order, settings, ALL_ON, rank=0, ranks=2) as one,
        Loader(order, settings, ALL_ON, rank=1, ranks=2) as other,
    ):
        found = [row for _ in range(12) for own in (one, other) for row in rows_of(next(own))]
    assert found == expected


def test_copies_within_an_epoch_are_changed_apart() -> None:
    samples = samples_of([0, 1, 1, 1, 1, 1], [6], pictures=True)
    order = SampleOrder(samples, balance=BalanceSettings(power=0.0), seed=0)
    found = sequence(batches(order, 3, size=2, augmentation=ALL_ON))
    copies = [pixels for sample, _, _, pixels in found if sample == 0]
    assert len(copies) == 3 == len(set(copies))


# -- crops that cannot be used -----------------------------------------------------------


def with_bad(folder: Path) -> tuple[Samples, dict[int, BadCrop]]:
    """Return samples of which some have no good crop, and these."""
    faces = faces_of({"ann": 10, "bob": 10})
    bad = {
        3: (b"", BadCrop.CORRUPT),
        4: (faces[4].crop[:100], BadCrop.CORRUPT),
        11: (bytes(2 << 20), BadCrop.TOO_LONG),
    }
    faces = [
        Face(number=f.number, person=f.person, data=bad[f.number][0]) if f.number in bad else f
        for f in faces
    ]
    return dataset_samples(dataset_of(folder, faces)), {n: why for n, (_, why) in bad.items()}


@pytest.mark.parametrize("workers", [1, 3])
def test_a_bad_crop_is_a_row_without_a_label(tmp_path: Path, workers: int) -> None:
    samples, bad = with_bad(tmp_path / "dataset")
    order = SampleOrder(samples, seed=1)
    with Loader(order, LoaderSettings(batch_samples=5, workers=workers), PLAIN) as loader:
        found = list(islice(loader, 8))  # two epochs
        told = {}
        for batch in found:
            told.update({int(batch.sample_B[row]): why for row, why in batch.bad.items()})
        for sample, label, weight, pixels in sequence(found):
            good = sample not in bad
            assert label == (samples.label_N[sample] if good else -1)
            assert weight == (1.0 if good else 0.0)
            assert pixels == (crop(sample).tobytes() if good else bytes(len(pixels)))
        assert told == bad
        assert loader.bad == {BadCrop.CORRUPT: 4, BadCrop.TOO_LONG: 2}
        assert loader.bad_samples == set(bad)


def test_a_damaged_file_ends_the_run_with_its_name(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "dataset", faces_of({"ann": 10, "bob": 10}))
    samples = dataset_samples(dataset)
    file = dataset.files("faces")[2].file
    (tmp_path / "dataset" / file).unlink()
    with (
        pytest.raises(CorruptData, match=file),
        Loader(SampleOrder(samples), LoaderSettings(batch_samples=5)) as loader,
    ):
        list(islice(loader, 10))


# -- memory and threads ------------------------------------------------------------------


def test_a_batch_that_is_held_is_never_written_again(samples: Samples) -> None:
    order = order_of(samples)
    held = batches(order, 40, size=4)
    again = [rows_of(batch) for batch in batches(order, 40, size=4)]
    assert [rows_of(batch) for batch in held] == again


@pytest.mark.parametrize("part", ["tensor", "view", "array"])
def test_memory_is_used_again_only_when_nothing_of_it_is_held(samples: Samples, part: str) -> None:
    with Loader(order_of(samples), LoaderSettings(batch_samples=4), PLAIN) as loader:
        pixels = next(loader).pixels_BHWC
        held: torch.Tensor | NDArray[np.uint8] = pixels
        if part == "view":
            held = pixels.permute(0, 3, 1, 2)[1:, :1]
        elif part == "array":
            held = pixels.numpy()[2:]
        before = held.tobytes() if isinstance(held, np.ndarray) else held.numpy().tobytes()
        del pixels
        gc.collect()
        for _ in range(20):
            next(loader)
        after = held.tobytes() if isinstance(held, np.ndarray) else held.numpy().tobytes()
        assert before == after


def test_batches_that_are_let_go_share_their_memory(samples: Samples) -> None:
    with Loader(order_of(samples), LoaderSettings(batch_samples=4, workers=1), PLAIN) as loader:
        places = {next(loader).pixels_BHWC.data_ptr() for _ in range(40)}
    assert len(places) <= 6


def test_little_is_read_ahead(samples: Samples) -> None:
    order = order_of(samples)
    with Loader(order, LoaderSettings(batch_samples=1, workers=2), PLAIN) as loader:
        next(loader)
        assert loader.position == 1
        assert len(loader._begun) == 4
        assert len(loader._windows._windows) <= 2
        list(islice(loader, 200))
        assert len(loader._windows._windows) <= 3


def test_no_thread_is_left(samples: Samples) -> None:
    before = set(threading.enumerate())
    with Loader(order_of(samples), LoaderSettings(batch_samples=4, workers=3)) as loader:
        next(loader)
        assert set(threading.enumerate()) - before
    assert set(threading.enumerate()) == before


@pytest.mark.parametrize(
    "wrong", [{"position": -1}, {"rank": 2, "ranks": 2}, {"rank": -1}, {"ranks": 0}]
)
def test_what_cannot_be_is_refused(samples: Samples, wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="positions count from 0"):
        Loader(order_of(samples), **wrong)
