"""Rates of groups against counting, and what too small a group is told."""

from __future__ import annotations

import math

import numpy as np
import pytest

from facepipe.error_groups import MIN_PEOPLE, group_errors


def test_rates_are_counts_of_a_groups_own_pairs() -> None:
    rng = np.random.default_rng(1)
    count = 400
    people = rng.integers(80, size=(count, 2))
    people[:200, 1] = people[:200, 0]
    same = people[:, 0] == people[:, 1]
    group_of = np.array(["north", "south", "", "west"])[np.arange(80) % 4]
    score = np.where(same, 0.5, 0.2) + rng.normal(0, 0.2, count)
    score[::17] = math.nan
    found = group_errors(score, same, group_of[people], people, 0.35, fmr=0.1, samples=100)
    assert [g.group for g in found] == ["north", "south", "west"]
    for group in found:
        rows = [
            (s, m) for s, m, (a, b) in zip(score, same, people, strict=True)
            if group_of[a] == group_of[b] == group.group
        ]  # fmt: skip
        missed = [not s >= 0.35 for s, m in rows if m]
        alarms = [not s < 0.35 for s, m in rows if not m]  # no face is an alarm
        assert (group.matched, group.mismatched) == (len(missed), len(alarms))
        assert group.fnmr.value == pytest.approx(sum(missed) / len(missed))
        assert group.fmr.value == pytest.approx(sum(alarms) / len(alarms))
        assert group.fnmr.low < group.fnmr.value < group.fnmr.high


def test_small_groups_are_told() -> None:
    few, many = MIN_PEOPLE - 1, MIN_PEOPLE
    people = np.arange(few + many)
    matched = np.stack([people, people], axis=1)
    pairs = np.concatenate([matched, np.stack([people[few:-1], people[few + 1 :]], axis=1)])
    group = np.array(["few"] * few + ["many"] * many)
    same = pairs[:, 0] == pairs[:, 1]
    score = np.where(same, 1.0, 0.0)
    small, large = group_errors(score, same, group[pairs], pairs, 0.5, fmr=0.05)
    assert small.unsupported == (
        f"FNMR of {few} people, under {MIN_PEOPLE}",
        "0 mismatched pairs cannot show a FMR of 0.05",
    )
    assert math.isnan(small.fmr.value) and small.fmr[1:] == (0.0, 1.0)
    assert large.unsupported == () and (large.people, large.mismatched) == (many, many - 1)
    assert large.fnmr.value == 0.0 and 0.1 < large.fnmr.high < 0.12  # not certain


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"\(2,\) pairs"):
        group_errors([0.1, 0.2], [True, False], [["a", "a"]], [[0, 0]], 0.1, fmr=0.1)
