"""Windows of crops: the order's own, what is wanted of them, and no more in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facepipe.errors import CorruptData
from tests.training.made_crops import dataset_of, faces_of
from tests.training.made_samples import CountedCrops, samples_of
from training.crop_windows import CropWindows
from training.dataset_samples import dataset_samples
from training.sample_order import OrderSettings, SampleOrder


def order_of() -> SampleOrder:
    samples = samples_of([n // 4 for n in range(100)], [30, 20, 50])
    return SampleOrder(samples, OrderSettings(window_samples=25))


def all_of(position_K: np.ndarray) -> np.ndarray:
    return np.ones(len(position_K), bool)


def test_a_window_has_its_samples_crops() -> None:
    order = order_of()
    windows = CropWindows(order, all_of)
    for number in range(9):
        windows.ask(number)
        found = windows.get(number).result()
        assert found.crop_W.tolist() == [b"%d" % n for n in order.window(number).sample_W]
        assert found.window.start == 25 * number
    windows.close()


def test_only_what_is_wanted_is_read() -> None:
    order = order_of()
    windows = CropWindows(order, lambda position_K: position_K % 3 == 1)
    windows.ask(2)
    found = windows.get(2).result()
    own = order.window(2).sample_W
    expected = [b"%d" % n if (50 + i) % 3 == 1 else None for i, n in enumerate(own)]
    assert found.crop_W.tolist() == expected
    windows.close()


def test_a_window_of_which_nothing_is_wanted() -> None:
    order = order_of()
    windows = CropWindows(order, lambda position_K: position_K < 0)
    windows.ask(0)
    assert windows.get(0).result().crop_W.tolist() == [None] * 25
    windows.close()
    assert isinstance(order.samples.groups, CountedCrops)
    assert not order.samples.groups.reads


def test_one_window_is_read_ahead_and_old_ones_are_dropped() -> None:
    order = order_of()
    windows = CropWindows(order, all_of)
    windows.ask(0)
    windows.get(1).result()  # the one behind
    windows.ask(1)
    windows.drop_before(1)
    with pytest.raises(KeyError):
        windows.get(0)
    assert windows.get(1).result().window.start == 25
    windows.close()
    assert isinstance(order.samples.groups, CountedCrops)
    assert order.samples.groups.closed == 1


def test_a_damaged_file_is_told_to_whoever_takes_the_window(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "one", faces_of({"ann": 4, "bob": 4}), shard_faces=4)
    samples = dataset_samples(dataset)
    (tmp_path / "one" / dataset.files("faces")[1].file).write_bytes(b"nothing")
    windows = CropWindows(SampleOrder(samples), all_of)
    windows.ask(0)
    with pytest.raises(CorruptData, match="run facepipe verify"):
        windows.get(0).result()
    windows.close()
