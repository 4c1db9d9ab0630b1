"""Whom labels mean, from how many faces of whom lie under them."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest

from facepipe import homes
from facepipe.homes import Counts, find_owners
from facepipe.urn import Spread, Urn


def counts_of(table: list[list[int]], nobody: int = 0) -> Counts:
    """Return counts from a table of people (rows) by labels (columns)."""
    person, label = np.nonzero(np.array(table))
    person = np.repeat(person, np.array(table)[person, label])
    label = np.repeat(label, np.array(table)[np.nonzero(np.array(table))])
    person = np.concatenate([person, np.full(nobody, -1)])
    label = np.concatenate([label, np.zeros(nobody, np.int64)])
    return Counts.of(person, label, len(table), len(table[0]))


def clean(people: int, faces: int = 10) -> npt.NDArray[np.int64]:
    return np.eye(people, dtype=np.int64) * faces


def test_counts_leave_nobody_out() -> None:
    counts = counts_of([[3, 0, 1], [0, 2, 0]], nobody=4)
    rows = zip(counts.person_E, counts.label_E, counts.count_E, strict=True)
    assert [tuple(map(int, row)) for row in rows] == [(0, 0, 3), (0, 2, 1), (1, 1, 2)]


def test_a_clean_table_is_kept() -> None:
    found = find_owners(counts_of(clean(6).tolist()))
    assert found.person_L.tolist() == [0, 1, 2, 3, 4, 5]
    assert np.isinf(found.log_odds_L).all() and found.clear_L.all()


def test_the_largest_group_of_a_label_is_not_always_whom_it_means() -> None:
    """A third of everybody's faces go to one look-alike; person 0 swamps label 1."""
    table = clean(12, 12)
    for person in range(12):
        table[person, (person + 1) % 12] = 4
    table[0, 0], table[0, 1] = 40, 18
    found = find_owners(counts_of(table.tolist()))
    assert found.person_L.tolist() == list(range(12))
    assert found.together


def test_a_person_split_in_two_has_both_labels() -> None:
    table = np.hstack([clean(15), np.zeros((15, 1), np.int64)])
    table[3, 15] = 7
    table[3, 3] = 8
    rng = np.random.default_rng(0)
    for person in range(15):
        table[person, rng.permutation(16)[:3]] += 1  # a few, anywhere
    found = find_owners(counts_of(table.tolist()))
    assert found.person_L.tolist() == [*range(15), 3]
    second = np.isfinite(found.log_odds_L)
    assert second.sum() == 1 and found.log_odds_L[second][0] > 3
    assert found.clear_L.all() and not found.together


def test_a_stranger_with_two_faces_does_not_take_half_of_a_split_person() -> None:
    table = np.hstack([clean(15), np.zeros((15, 1), np.int64)])
    table[3, 15] = 8
    stranger = np.zeros((1, 16), np.int64)
    stranger[0, 15] = 2
    found = find_owners(counts_of(np.vstack([table, stranger]).tolist()))
    assert found.person_L[15] == 3


def test_a_label_without_a_group_means_nobody() -> None:
    table = np.hstack([clean(4), np.zeros((4, 1), np.int64)])
    assert find_owners(counts_of(table.tolist(), nobody=3)).person_L.tolist() == [0, 1, 2, 3, -1]
    empty = find_owners(Counts.of(np.empty(0, np.int64), np.empty(0, np.int64), 0, 3))
    assert empty.person_L.tolist() == [-1, -1, -1]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("largest", [3000, 1])
def test_the_first_labels_keep_most_faces(
    monkeypatch: pytest.MonkeyPatch, seed: int, largest: int
) -> None:
    """Against trying every assignment of five people to five labels; greedily, nearly so."""
    monkeypatch.setattr(homes, "LARGEST_BLOCK", largest)
    rng = np.random.default_rng(seed)
    table = rng.poisson(2.0, (5, 5)) + clean(5, 1) * rng.poisson(3.0, (5, 1))
    counts = counts_of(table.tolist())
    owner = homes._assign(counts, counts.count_E.astype(np.float64))
    kept = sum(table[person, label] for label, person in enumerate(owner) if person >= 0)
    best = max(table[list(p), range(5)].sum() for p in itertools.permutations(range(5)))
    assert len(set(owner[owner >= 0])) == (owner >= 0).sum()
    assert kept == best if largest > 1 else kept >= best / 2


def test_the_order_of_people_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    table = clean(20, 6) + rng.poisson(0.3, (20, 20))
    mixed = rng.permutation(20)
    one = find_owners(counts_of(table.tolist())).person_L
    other = find_owners(counts_of(table[mixed].tolist())).person_L
    assert (np.where(other >= 0, mixed[other], -1) == one).all()


def test_a_label_more_or_less_is_what_counting_anew_gives() -> None:
    urn = Urn(labels=50, alpha=0.1)
    rng = np.random.default_rng(0)
    counts, homes = rng.integers(1, 9, 40).tolist(), (rng.random(40) < 0.3).tolist()

    def spread(homes: list[bool]) -> Spread:
        found = Spread(urn.alpha / urn.labels)
        for count, home in zip(counts, homes, strict=True):
            found.put(count, home=home)
        return found

    for place in range(40):
        then = [home != (n == place) for n, home in enumerate(homes)]
        changed = spread(homes).changed(counts[place], home=then[place])
        assert urn.log_likelihood(changed) == pytest.approx(urn.log_likelihood(spread(then)))


def test_somebody_in_very_many_labels_is_weighed_in_time() -> None:
    """A presenter outnumbers each label's own person; every label is asked about him."""
    labels = 1500
    own = np.arange(labels)
    person = np.concatenate([np.repeat(own, 2), np.full(5 * labels, labels)])
    label = np.concatenate([np.repeat(own, 2), np.repeat(own, 5)])
    counts = Counts.of(person, label, labels + 1, labels)
    changed = 0
    real = Spread.put

    def counted(self: Spread, count: int, *, home: bool, times: int = 1) -> None:
        nonlocal changed
        changed += 1
        real(self, count, home=home, times=times)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Spread, "put", counted)
        find_owners(counts)
    assert changed < 100 * labels  # not labels times labels
