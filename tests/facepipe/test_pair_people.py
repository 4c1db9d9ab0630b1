"""People of pairs against a walk over the pairs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facepipe.pair_people import people_of_pairs

pairs = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.booleans()), max_size=15)


@given(pairs)
def test_items_are_one_person_if_matched_pairs_lead_from_one_to_the_other(
    listed: list[tuple[int, int, bool]],
) -> None:
    group = list(range(10))
    for a, b, same in listed * 10:  # until nothing changes
        if same:
            low = min(group[a], group[b])
            group[a] = group[b] = low
    first, second, same_P = ([p[n] for p in listed] for n in range(3))
    found = people_of_pairs(10, first, second, same_P).tolist()
    assert found == [sorted(set(group)).index(g) for g in group]


@pytest.mark.parametrize("items", [1, 3])
def test_without_pairs_everyone_is_alone(items: int) -> None:
    assert people_of_pairs(items, [], [], []).tolist() == list(range(items))
