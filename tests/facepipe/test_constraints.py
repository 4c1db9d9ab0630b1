"""A person's list: contradictions are found, and what it means for labels."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facepipe.constraint_lines import Kind, Said
from facepipe.constraints import (
    Constraints,
    OnePerson,
    format_constraints,
    label_rules,
    parse_constraints,
)
from facepipe.errors import UsageError

A, B, C, D = (digit * 32 + "-0000" for digit in "abcd")


def listed(*lines: str) -> Constraints:
    return parse_constraints("\n".join(["kind,a,b", *lines]).encode(), "l.csv")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            [f"same,{A},{B}", f"same,{B},{C}", f"different,{C},{A}"],
            r"line 4 \(different\) contradicts l.csv, line 2 \(same\); l.csv, line 3 \(same\)",
        ),
        (
            [f"different,{A},label:x", f"same,{A},label:y", "same,label:x,label:y"],
            r"line 2 \(different\) contradicts .*line 3 .*line 4",
        ),
        ([f"keep,{A}", f"drop,{A}"], r"line 3 \(drop\) contradicts l.csv, line 2 \(keep\)"),
        ([f"name,{A},x", f"name,{A},y"], r"line 3 \(name\) contradicts .*line 2"),
        (
            [f"name,{A},x", f"same,{A},{B}", f"name,{B},y"],
            r"line 4 \(name\) contradicts .*line 2 \(name\); .*line 3 \(same\)",
        ),
        (
            [f"name,{A},x", f"name,{B},x", f"different,{A},{B}"],
            r"line 4 \(different\) contradicts .*line 2 \(name\); .*line 3 \(name\)",
        ),
    ],
)
def test_lines_that_contradict_each_other_are_named(lines: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        listed(*lines)


def test_only_the_lines_that_matter_are_named() -> None:
    chain = [f"same,{A},{B}", f"same,{B},{C}", f"same,{A},{C}", f"different,{A},{C}"]
    with pytest.raises(UsageError) as error:
        listed(*chain)
    assert "line 4 (same)" in str(error.value) and "line 2" not in str(error.value)


def test_lines_are_kept_once_in_their_order() -> None:
    one = listed(f"drop,{C}", f"same,{A},{B}", f"same,{B},{A}")
    assert [line.kind for line in one.lines] == [Kind.DROP, Kind.SAME]
    more = one.added(listed(f"keep,{D}", f"drop,{C}").lines)
    assert [line.text for line in more.lines] == [f"drop,{C}", f"same,{A},{B}", f"keep,{D}"]
    assert parse_constraints(format_constraints(more), "again") == more
    assert more.without(one.lines).lines == (Said(Kind.KEEP, D),)
    assert more.faces == [A, B, C, D] and more.labels == []
    with pytest.raises(UsageError, match="contradicts"):
        more.added([Said(Kind.KEEP, C)])


@given(
    st.lists(
        st.tuples(
            st.sampled_from([Kind.SAME, Kind.DIFFERENT]),
            st.sampled_from("abcdefg"),
            st.sampled_from("abcdefg"),
        ).filter(lambda t: t[1] != t[2]),
        max_size=10,
    )
)
def test_contradictions_are_those_of_the_closure(lines: list[tuple[Kind, str, str]]) -> None:
    nodes = "abcdefg"
    alike = {(n, n) for n in nodes}
    alike |= {(a, b) for kind, a, b in lines if kind is Kind.SAME}
    alike |= {(b, a) for a, b in alike}
    for via, one, other in itertools.product(nodes, repeat=3):  # Warshall: via is outermost
        if (one, via) in alike and (via, other) in alike:
            alike.add((one, other))
    wrong = any(kind is Kind.DIFFERENT and (a, b) in alike for kind, a, b in lines)
    said = [Said(kind, f"label:{a}", f"label:{b}") for kind, a, b in lines]
    if wrong:
        with pytest.raises(UsageError, match="contradicts"):
            Constraints.of(said)
        return
    people = OnePerson(Constraints.of(said).lines)
    for a, b in itertools.product(nodes, repeat=2):
        same = people.find(f"label:{a}") == people.find(f"label:{b}")
        assert same == ((a, b) in alike)


# -- labels ------------------------------------------------------------------------------


def test_labels_are_the_same_also_by_way_of_kept_faces() -> None:
    labels = {A: "x", B: "y", C: "z", D: None}
    assert label_rules(listed("same,label:y,label:x", "same,label:y,label:z"), {}) == (
        (("x", "y"), ("x", "z")),
        (),
    )
    by_faces = [f"same,{A},{B}"]
    assert label_rules(listed(*by_faces), labels) == ((), ())
    by_faces += [f"keep,{A}"]
    assert label_rules(listed(*by_faces), labels) == ((), ())
    by_faces += [f"keep,{B}"]
    assert label_rules(listed(*by_faces), labels) == ((("x", "y"),), ())
    assert label_rules(listed(f"keep,{D}", f"same,{D},label:x"), labels) == ((), ())


def test_labels_are_two_people_where_faces_are() -> None:
    labels = {A: "x", B: "y", C: "x", D: None}
    assert label_rules(listed("different,label:y,label:x"), {}) == ((), (("x", "y"),))
    assert label_rules(listed(f"different,{A},{B}"), labels) == ((), (("x", "y"),))
    assert label_rules(listed(f"different,{A},{C}"), labels) == ((), ())
    assert label_rules(listed(f"different,{A},{D}"), labels) == ((), ())
    both = listed("same,label:x,label:w", f"different,{B},label:x")
    assert label_rules(both, labels) == ((("w", "x"),), (("w", "y"), ("x", "y")))


def test_faces_that_are_two_do_not_part_labels_that_are_one() -> None:
    labels = {A: "x", B: "y"}
    rules = label_rules(listed(f"different,{A},{B}", "same,label:x,label:y"), labels)
    assert rules == ((("x", "y"),), ())


def test_keeping_a_face_may_contradict_a_line() -> None:
    lines = listed(f"keep,{A}", f"same,{A},label:y", "different,label:x,label:y")
    with pytest.raises(UsageError, match=r"line 4 .* contradicts .*line 2 \(keep\)"):
        label_rules(lines, {A: "x"})
    assert label_rules(lines, {A: "y"}) == ((), (("x", "y"),))
