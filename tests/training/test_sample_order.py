"""The order of samples: every one once an epoch, and any place of it without what was before."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.made_samples import samples_of
from training.balance import BalanceSettings, due_samples
from training.sample_order import OrderSettings, SampleOrder

LABELS = [n // 7 for n in range(300)]
GROUPS = [40, 1, 99, 0, 60, 100]
ROOT = BalanceSettings(power=0.5)
GOLDEN = [
    [109, 106, 126, 132, 61, 95, 96, 123],
    [102, 103, 55, 51, 129, 131, 86, 84],
    [219, 77, 124, 295, 122, 90, 227, 104],
]


def order_of(
    *,
    window: int = 64,
    parts: int = 2,
    run: int = 1,
    seed: int = 0,
    balance: BalanceSettings | None = None,
    labels: list[int] = LABELS,
    groups: list[int] = GROUPS,
) -> SampleOrder:
    settings = OrderSettings(window_samples=window, group_parts=parts, run_samples=run)
    return SampleOrder(samples_of(labels, groups), settings, balance, seed=seed)


def taken(order: SampleOrder, position: int, count: int) -> list[int]:
    return list(islice(order.samples_from(position), count))


@pytest.mark.parametrize("window", [1, 7, 64, 299, 300, 10_000])
@pytest.mark.parametrize("parts", [1, 3, 8])
@pytest.mark.parametrize("run", [1, 4])
def test_an_epoch_has_every_sample_once(window: int, parts: int, run: int) -> None:
    found = taken(order_of(window=window, parts=parts, run=run), 0, 600)
    assert sorted(found[:300]) == sorted(found[300:]) == list(range(300))
    assert found[:300] != found[300:]
    assert found[:300] != sorted(found[:300])


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(any),
    st.integers(1, 70),
    st.integers(1, 5),
    st.integers(0, 200),
    st.booleans(),
)
def test_any_place_is_reached_without_what_was_before(
    groups: list[int], window: int, parts: int, position: int, balanced: bool
) -> None:
    labels = [n // 3 for n in range(sum(groups))]
    given_ = {"window": window, "parts": parts, "labels": labels, "groups": groups}
    balance = BalanceSettings(power=0.2) if balanced else None
    whole = taken(order_of(balance=balance, **given_), 0, position + 30)
    assert taken(order_of(balance=balance, **given_), position, 30) == whole[position:]


@given(st.integers(1, 40), st.integers(1, 50))
def test_a_position_is_in_its_window(size: int, window: int) -> None:
    order = order_of(window=window, labels=[0] * size, groups=[size])
    for position in range(2 * size + 3):
        found = order.window(order.window_at(position))
        assert found.start <= position < found.start + len(found.sample_W)
        assert found.epoch == order.epoch_of(position) == position // size
        assert len(found.sample_W) <= window


def test_windows_of_an_epoch_are_as_large() -> None:
    order = order_of(window=64)  # 300 samples in 5 windows: not 4 of 64 and one of 44
    sizes = [len(order.window(n).sample_W) for n in range(order.epoch_windows)]
    assert sizes == [60] * 5


def test_a_window_needs_few_groups() -> None:
    labels, groups = [0] * 6400, [64] * 100
    for parts in (1, 4):
        order = order_of(window=640, parts=parts, labels=labels, groups=groups)
        reads: Counter[int] = Counter()
        for number in range(order.epoch_windows):
            found = order.window(number).sample_W
            reads.update(np.unique(order.samples.group_of(found)).tolist())
        # Each part lies in one window or across the border of two.
        assert max(reads.values()) <= 2 * parts
        assert sum(reads.values()) <= 100 * parts + order.epoch_windows
        assert sum(reads.values()) >= 80 * parts


def test_seed_and_epoch_are_other_orders() -> None:
    orders = [taken(order_of(seed=s), p, 300) for s in (0, 1, 2**40) for p in (0, 300, 600)]
    assert len({tuple(o) for o in orders}) == len(orders)
    assert taken(order_of(seed=1), 0, 300) == orders[3]


def test_places_of_an_epoch_are_as_likely() -> None:
    """Where sample 0 comes, over many epochs, is uniform: windows and parts show no seam."""
    order = order_of(window=64, parts=2)
    places = [taken(order, 300 * epoch, 300).index(0) for epoch in range(400)]
    counts = np.histogram(places, bins=10, range=(0, 300))[0]
    # Chi-square with 9 degrees of freedom: 33.7 is its 1e-4 quantile.
    assert ((counts - 40) ** 2 / 40).sum() < 33.7


def test_neighbours_come_apart() -> None:
    labels, groups = [n // 50 for n in range(12_800)], [256] * 50
    distinct = []
    for parts in (1, 4, 16):
        order = order_of(window=2560, parts=parts, labels=labels, groups=groups)
        found = order.samples.label_N[taken(order, 0, 12_800)].reshape(100, 128)
        distinct.append(np.mean([len(np.unique(batch)) for batch in found]))
    assert distinct == sorted(distinct)  # more parts: more people in a batch
    shuffled = np.random.default_rng(0).permutation(labels).reshape(100, 128)
    ideal = np.mean([len(np.unique(batch)) for batch in shuffled])
    assert distinct[-1] > 0.95 * ideal


def test_runs_are_of_one_person() -> None:
    labels = [n % 10 for n in range(120)]
    order = order_of(window=120, run=4, labels=labels, groups=[60, 60])
    found = order.samples.label_N[taken(order, 0, 240)].reshape(-1, 4)
    assert (found == found[:, :1]).all()  # 12 of each person: three runs of four
    assert len({tuple(run) for run in np.split(found[:30, 0], 3)}) == 3
    assert (np.diff(found[:30, 0]) != 0).any()


def test_a_rest_makes_a_shorter_run() -> None:
    labels = [0] * 5 + [1] * 2
    order = order_of(window=7, run=3, labels=labels, groups=[7])
    found = order.samples.label_N[taken(order, 0, 7)]
    cuts = np.flatnonzero(np.diff(found)) + 1
    lengths = {(part[0], len(part)) for part in np.split(found, cuts)}
    assert lengths in ({(0, 5), (1, 2)}, {(0, 3), (1, 2), (0, 2)})


@pytest.mark.parametrize("power", [0.0, 0.5])
def test_a_balanced_epoch_has_what_is_due(power: float) -> None:
    sizes = [1, 2, 30, 90]
    labels = [label for label, n in enumerate(sizes) for _ in range(n)]
    settings = BalanceSettings(power=power, max_repeats=20)
    order = order_of(balance=settings, labels=labels, groups=[50, 73])
    due = due_samples(np.array(sizes), settings)
    assert order.epoch_samples == due.sum()
    for epoch in range(3):
        found = taken(order, epoch * order.epoch_samples, order.epoch_samples)
        assert np.bincount(order.samples.label_N[found]).tolist() == due.tolist()


def test_repeats_within_an_epoch_are_numbered() -> None:
    order = order_of(
        balance=BalanceSettings(power=0, max_repeats=20), labels=[0, 1, 1, 1], groups=[4]
    )
    windows = [order.window(n) for n in range(order.epoch_windows)]
    copies = [c for w in windows for s, c in zip(w.sample_W, w.copy_W, strict=True) if s == 0]
    assert sorted(copies) == [0, 1]


def test_even_shares_are_no_balance() -> None:
    plain, even = order_of(), order_of(balance=BalanceSettings(power=1))
    assert taken(plain, 0, 600) == taken(even, 0, 600)


def test_the_order_is_that_of_earlier_versions() -> None:
    """A run that was begun goes on with the same samples: a change here needs a new name."""
    plain, balanced = order_of(seed=3, run=2), order_of(seed=3, balance=ROOT, window=100)
    assert taken(plain, 0, 8) == GOLDEN[0]
    assert taken(plain, 300, 8) == GOLDEN[1]
    assert taken(balanced, 300, 8) == GOLDEN[2]
