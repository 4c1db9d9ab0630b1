"""Who comes how often: shares by the formula, and nobody passed over."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from training.balance import Balance, BalanceSettings, due_samples

SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=12)


def labels_of(sizes: list[int], seed: int = 1) -> np.ndarray:
    """Return labels in no order."""
    labels = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    return np.random.default_rng(seed).permutation(labels)


@pytest.mark.parametrize(
    ("sizes", "power", "repeats", "due"),
    [
        # 78 samples; the square roots 1, 2, 3, 8 add up to 14, and 78 / 14 = 5.57.
        ([1, 4, 9, 64], 0.5, 1000, [6, 11, 17, 45]),
        ([1, 4, 9, 64], 0.5, 2, [2, 8, 17, 45]),
        ([1, 4, 9, 86], 0.0, 1000, [25, 25, 25, 25]),
        ([1, 4, 9, 86], 0.0, 2, [2, 8, 18, 25]),
        ([1, 4, 9, 86], 1.0, 1, [1, 4, 9, 86]),
        ([1, 0, 9], 0.5, 5, [2, 0, 8]),  # nobody's label stays nobody's
    ],
)
def test_shares_follow_the_formula(
    sizes: list[int], power: float, repeats: int, due: list[int]
) -> None:
    settings = BalanceSettings(power=power, max_repeats=repeats)
    assert due_samples(np.array(sizes), settings).tolist() == due


@given(SIZES, st.floats(0, 1), st.integers(1, 10))
def test_every_person_comes_and_nobody_too_often(
    sizes: list[int], power: float, repeats: int
) -> None:
    size_L = np.array(sizes)
    due_L = due_samples(size_L, BalanceSettings(power=power, max_repeats=repeats))
    assert (due_L >= 1).all() and (due_L <= size_L * repeats).all()
    assert (np.diff(due_L[np.argsort(size_L)]) >= 0).all()  # more samples never come less


@given(SIZES, st.floats(0, 0.99), st.integers(0, 50), st.integers(0, 2**40))
def test_an_epoch_has_just_what_is_due(
    sizes: list[int], power: float, epoch: int, seed: int
) -> None:
    labels = labels_of(sizes)
    balance = Balance(labels, BalanceSettings(power=power), seed)
    repeats = balance.repeats(epoch)
    due = due_samples(np.array(sizes), BalanceSettings(power=power))
    assert np.bincount(labels, weights=repeats).astype(int).tolist() == due.tolist()
    assert repeats.sum() == balance.epoch_samples
    for label in range(len(sizes)):  # as evenly as whole numbers allow
        own = repeats[labels == label]
        assert own.max() - own.min() <= 1


def test_over_as_many_epochs_as_samples_all_have_come_as_often() -> None:
    sizes = [7, 3, 50]
    labels = labels_of(sizes)
    balance = Balance(labels, BalanceSettings(power=0.3, max_repeats=1000), seed=5)
    for label, size in enumerate(sizes):
        own = sum(balance.repeats(e)[labels == label].astype(int) for e in range(size))
        assert own.tolist() == [balance.due_L[label]] * size


def test_no_sample_waits_longer_than_needed() -> None:
    labels = np.zeros(100, np.int32)
    labels[90:] = 1
    balance = Balance(labels, BalanceSettings(power=0.5), seed=0)
    due = int(balance.due_L[0])
    for first in range(4):
        epochs = range(first, first + -(-90 // due))
        assert (sum(balance.repeats(e)[:90].astype(int) for e in epochs) >= 1).all()


def test_seed_and_epoch_choose_others() -> None:
    labels = labels_of([30, 30, 2])
    settings = BalanceSettings(power=0.2)
    one, again, other = (Balance(labels, settings, seed) for seed in (1, 1, 2))
    assert (one.repeats(3) == again.repeats(3)).all()
    assert (one.repeats(3) != other.repeats(3)).any()
    assert (one.repeats(3) != one.repeats(4)).any()


@pytest.mark.parametrize("wrong", [{"power": 1.1}, {"power": -0.1}, {"max_repeats": 0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        BalanceSettings.model_validate(wrong)
