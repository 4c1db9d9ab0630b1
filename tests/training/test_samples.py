"""The list of samples: where each lies, who it is, and what it is known by."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facepipe.errors import UsageError
from tests.training.made_samples import CountedCrops, samples_of
from training.samples import check_trainable, read_crops, samples_digest


@given(st.lists(st.integers(0, 6), min_size=1, max_size=12).filter(any))
def test_a_sample_lies_where_its_group_begins(groups: list[int]) -> None:
    samples = samples_of([0] * sum(groups), groups)
    every = np.arange(len(samples))
    expected = [(g, r) for g, size in enumerate(groups) for r in range(size)]
    found = zip(samples.group_of(every).tolist(), samples.row_of(every).tolist(), strict=True)
    assert list(found) == expected
    assert [samples.name(n) for n in range(len(samples))] == [f"{g}/{r}" for g, r in expected]


@given(st.lists(st.integers(0, 19), max_size=40), st.lists(st.integers(1, 5), max_size=4))
def test_crops_come_in_the_order_asked_for(chosen: list[int], cuts: list[int]) -> None:
    groups = [*cuts, 20 - sum(cuts)]
    samples = samples_of([0] * 20, groups)
    found = read_crops(samples, np.array(chosen, np.int64))
    assert found.tolist() == [b"%d" % n for n in chosen]
    assert isinstance(samples.groups, CountedCrops)
    read = {int(samples.group_of(np.array([n]))[0]) for n in chosen}
    assert samples.groups.reads == dict.fromkeys(read, 1)  # each once


def test_sizes_and_labels() -> None:
    samples = samples_of([2, 0, 2, 2], [4])
    assert samples.sizes_L().tolist() == [1, 0, 3]
    assert samples.labels_table().to_pydict() == {
        "label": [0, 1, 2],
        "identity_id": ["p0", "p1", "p2"],
        "samples": [1, 0, 3],
    }


START, LABEL = np.array([0, 2, 3], np.int64), np.array([0, 1, 1], np.int32)
ROW, WEIGHT = np.array([4, 9, 0], np.uint32), np.array([1, 0.5, 1], np.float32)
BASE = samples_digest(["sha"], START, ROW, LABEL, WEIGHT, ["a", "b"])


def test_the_digest_is_of_values_not_of_their_memory() -> None:
    strided = np.repeat(LABEL, 2)[::2]
    swapped = WEIGHT.astype(">f4")
    assert samples_digest(["sha"], START, ROW, strided, swapped, ["a", "b"]) == BASE
    one = np.float32(1)
    broadcast = samples_digest([], START, ROW, LABEL, np.broadcast_to(one, 3), ["a"])
    assert broadcast == samples_digest([], START, ROW, LABEL, np.ones(3, np.float32), ["a"])


def test_everything_is_in_the_digest() -> None:
    others = [
        samples_digest(["sha2"], START, ROW, LABEL, WEIGHT, ["a", "b"]),
        samples_digest(["sha"], START * 2, ROW, LABEL, WEIGHT, ["a", "b"]),
        samples_digest(["sha"], START, ROW[::-1], LABEL, WEIGHT, ["a", "b"]),
        samples_digest(["sha"], START, None, LABEL, WEIGHT, ["a", "b"]),
        samples_digest(["sha"], START, ROW, LABEL[::-1], WEIGHT, ["a", "b"]),
        samples_digest(["sha"], START, ROW, LABEL, WEIGHT[::-1] * 0.5, ["a", "b"]),
        samples_digest(["sha"], START, ROW, LABEL, WEIGHT, ["a", "c"]),
    ]
    assert len({BASE, *others}) == len(others) + 1


@pytest.mark.parametrize(("labels", "fits"), [([0, 0], False), ([0, 1], True)])
def test_two_people_are_needed(labels: list[int], fits: bool) -> None:
    samples = samples_of(labels, [2])
    if fits:
        assert check_trainable(samples, "it", "do so") is samples
        return
    with pytest.raises(UsageError, match=r"it has 2 samples of 1 people.* two people or more; do"):
        check_trainable(samples, "it", "do so")
