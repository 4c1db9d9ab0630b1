"""Names of people found without labels: they stay when groups grow, split and join."""

from __future__ import annotations

import hashlib
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facepipe.identity_names import new_name, stable_names


def named(groups: list[int], previous: dict[str, str], faces: str = "abcdefghijkl") -> list[str]:
    return stable_names(np.array(groups, np.int64), faces[: len(groups)], previous)


def fresh(face: str) -> str:
    return "person-" + hashlib.sha256(face.encode()).hexdigest()[:12]


def test_new_people_are_named_after_their_lowest_face() -> None:
    assert named([1, 0, 1, -1], {}) == [fresh("b"), fresh("a")]
    assert named([], {}) == []
    assert named([-1], {"a": "p"}) == []


def test_a_group_keeps_its_name_as_it_grows() -> None:
    before = {"c": "p", "d": "p"}
    assert named([0, 1, 0, 0], before) == ["p", fresh("b")]


def test_the_larger_part_of_a_split_keeps_the_name() -> None:
    assert named([0, 1, 1, 1], dict.fromkeys("abcd", fresh("a"))) == [
        new_name("a", {fresh("a")}),
        fresh("a"),
    ]


def test_of_two_that_are_one_the_larger_gives_the_name() -> None:
    assert named([0, 0, 0], {"a": "p", "b": "q", "c": "q"}) == ["q"]
    assert named([0, 0], {"a": "q", "b": "p"}) == ["p"]  # a tie


def test_one_name_goes_to_one_group_and_the_other_takes_its_second() -> None:
    before = dict.fromkeys("abcd", "p") | {"e": "q"}
    assert named([0, 0, 1, 1, 1], before) == ["p", "q"]


def test_a_name_that_is_somebody_elses_is_not_taken() -> None:
    groups = np.zeros(1, np.int64)
    assert stable_names(groups, ["a"], {"a": "ann"}, taken=["ann"]) == [fresh("a")]
    again = new_name("a", {fresh("a")})
    assert again == "person-" + hashlib.sha256(b"a 1").hexdigest()[:12]
    assert stable_names(groups, ["a"], {}, taken=[fresh("a")]) == [again]


def test_a_gap_in_the_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2 groups"):
        named([1], {})


@given(
    st.lists(st.integers(-1, 3), min_size=1, max_size=12),
    st.lists(st.sampled_from([None, "p", "q", "r"]), min_size=12, max_size=12),
    st.randoms(use_true_random=False),
)
def test_names_are_unique_and_do_not_hang_on_order(
    groups: list[int], before: list[str | None], random: Random
) -> None:
    _, dense = np.unique(groups, return_inverse=True)
    dense = dense - (min(groups) < 0)
    faces = "abcdefghijkl"[: len(groups)]
    previous = {f: n for f, n in zip(faces, before, strict=False) if n is not None}
    names = stable_names(dense.astype(np.int64), faces, previous)
    assert len(set(names)) == len(names) == dense.max() + 1
    of_face = {f: names[g] for f, g in zip(faces, dense.tolist(), strict=True) if g >= 0}
    order = list(range(len(faces)))
    random.shuffle(order)
    number = {g: i for i, g in enumerate(dict.fromkeys(dense[order].tolist()))}
    if -1 in number:
        gone = number.pop(-1)
        number = {g: i - (i > gone) for g, i in number.items()} | {-1: -1}
    other = np.array([number[g] for g in dense[order].tolist()], np.int64)
    again = stable_names(other, [faces[i] for i in order], previous)
    assert {faces[i]: again[g] for i, g in zip(order, other.tolist(), strict=True) if g >= 0} == (
        of_face
    )
    # A second run over what the first one said changes nothing.
    assert stable_names(dense.astype(np.int64), faces, of_face) == names
