"""Decisions after a person has spoken: every line holds, and nothing else is changed."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facepipe.constraint_lines import Kind, Said
from facepipe.constraints import Constraints, parse_constraints
from facepipe.errors import UsageError
from facepipe.identity_names import new_name
from facepipe.obey import apply_constraints
from facepipe.schema import DECISIONS

Row = dict[str, Any]
IDS = [f"{i:032x}-0000" for i in range(20)]


def row(number: int, label: str | None, identity: str | None = "", **given: Any) -> Row:
    """Return a row of a face that agrees with its label, unless something else is given."""
    identity = label if identity == "" else identity
    base: Row = {
        "face_id": IDS[number],
        "uri": f"/photos/{number}.jpg",
        "member": None,
        "source_label": label,
        "identity_id": identity,
        "decision": "keep",
        "reason": "same_person",
        "confidence": 0.8,
        "evidence": label,
        "similarity": 0.6,
        "weight": 0.4,
    }
    if identity != label:
        base |= {"decision": "merge", "reason": "merged", "evidence": identity}
    return base | given


def dropped(number: int, label: str | None, reason: str = "outlier", **given: Any) -> Row:
    base = {"decision": "drop", "reason": reason, "weight": 0.0, "confidence": 0.9}
    return row(number, label, None, **(base | {"evidence": label, "similarity": 0.1} | given))


def moved(number: int, label: str, identity: str, **given: Any) -> Row:
    base = {"decision": "relabel", "reason": "other_identity", "evidence": identity}
    return row(number, label, identity, **(base | given))


def twin(number: int, label: str, head: int, **given: Any) -> Row:
    base = {"decision": "duplicate", "reason": "same_picture", "evidence": IDS[head]}
    return row(number, label, label, **(base | {"weight": 0.0, "confidence": 0.97} | given))


def obeyed(rows: list[Row], *lines: str, full: list[float] | None = None) -> list[Row]:
    text = "\n".join(["kind,a,b", *lines])
    text = re.sub(r"#(\d+)", lambda found: IDS[int(found[1])], text)
    table = pa.Table.from_pylist(rows, schema=DECISIONS)
    weights = None if full is None else np.array(full, np.float32)
    found = apply_constraints(table, parse_constraints(text.encode(), "l.csv"), weights).table
    assert found.schema == DECISIONS and found["face_id"].equals(table["face_id"])
    found.validate(full=True)
    listed: list[Row] = found.to_pylist()
    return listed


def told(found: Row) -> tuple[str, str, str | None, str | None]:
    return found["decision"], found["reason"], found["identity_id"], found["evidence"]


# -- keep and drop -----------------------------------------------------------------------


def test_no_lines_no_change() -> None:
    table = pa.Table.from_pylist([row(0, "a")], schema=DECISIONS)
    assert apply_constraints(table, Constraints()).table is table


def test_a_dropped_face_is_kept_and_a_kept_one_dropped() -> None:
    rows = [row(0, "a"), dropped(1, "a"), row(2, "a")]
    first, second, third = obeyed(rows, "drop,#0,", "keep,#1,")
    assert told(first) == ("drop", "said", None, f"drop,{IDS[0]}")
    assert first["weight"] == 0.0 and first["confidence"] == 1.0 and first["similarity"] is None
    assert told(second) == ("keep", "said", "a", f"keep,{IDS[1]}")
    assert second["weight"] == 1.0 and second["confidence"] == 1.0
    assert third == pytest.approx(rows[2])


def test_weights_of_faces_that_come_back() -> None:
    rows = [row(0, "a", weight=0.4), dropped(1, "a")]
    both = ("keep,#0,", "keep,#1,")
    assert [r["weight"] for r in obeyed(rows, *both)] == pytest.approx([0.5, 1.0])
    given = obeyed(rows, *both, full=[0.3, 0.7])
    assert [r["weight"] for r in given] == pytest.approx([0.3, 0.7])


@pytest.mark.parametrize("reason", ["quality", "no_dominant", "outlier"])
def test_keep_is_stronger_than_every_rule(reason: str) -> None:
    (found,) = obeyed([dropped(0, "a", reason)], "keep,#0,")
    assert told(found) == ("keep", "said", "a", f"keep,{IDS[0]}")


def test_a_face_without_a_vector_is_not_kept() -> None:
    (found,) = obeyed([dropped(0, "a", "no_vector")], "keep,#0,")
    assert found["reason"] == "no_vector"


def test_a_moved_face_goes_back_to_its_label_and_who_that_is() -> None:
    rows = [moved(0, "a", "b"), row(1, "a"), row(2, "b")]
    assert told(obeyed(rows, "keep,#0,")[0]) == ("keep", "said", "a", f"keep,{IDS[0]}")
    rows = [moved(0, "a", "b"), row(1, "a", "c"), row(2, "b"), row(3, "c")]
    assert told(obeyed(rows, "keep,#0,")[0]) == ("merge", "said", "c", f"keep,{IDS[0]}")


def test_a_duplicate_that_is_none_is_kept_and_its_copies_are_its_own() -> None:
    rows = [row(0, "a"), twin(1, "b", 0), twin(1, "c", 0, uri="/photos/copy.jpg"), row(2, "b")]
    rows[1]["identity_id"] = rows[2]["identity_id"] = "a"
    found = obeyed(rows, "keep,#1,")
    assert told(found[1]) == ("keep", "said", "b", f"keep,{IDS[1]}")
    assert told(found[2]) == ("duplicate", "same_bytes", "b", IDS[1])
    assert [r["weight"] for r in found] == pytest.approx([0.4, 1.0, 0.0, 0.4])


def test_copies_of_a_kept_face_stay_copies() -> None:
    rows = [row(0, "a"), twin(0, "b", 0, reason="same_bytes", uri="/z.jpg", identity_id="a")]
    found = obeyed(rows, "keep,#0,")
    assert told(found[1]) == ("duplicate", "same_bytes", "a", IDS[0])


def test_duplicates_follow_the_face_that_was_kept_for_them() -> None:
    rows = [row(0, "a"), twin(1, "a", 0), row(2, "b"), row(3, "a")]
    assert obeyed(rows, "drop,#0,")[1]["identity_id"] is None
    assert obeyed(rows, "same,#0,label:b")[1]["identity_id"] == "b"
    named = obeyed(rows, "name,#1,Ann")
    assert [r["identity_id"] for r in named] == ["Ann", "Ann", "b", "Ann"]
    assert named[0]["reason"] == "said" and named[1]["reason"] == "same_picture"


def test_unlabelled_faces_can_be_dropped_and_kept() -> None:
    rows = [row(0, None, None, reason="unlabelled"), row(1, None, "p", decision="keep")]
    found = obeyed(rows, "drop,#0,", "keep,#1,")
    assert told(found[0])[:3] == ("drop", "said", None)
    assert told(found[1])[:3] == ("keep", "said", "p")


# -- one person --------------------------------------------------------------------------


def test_labels_that_are_one_person_are_joined_under_the_larger() -> None:
    rows = [row(0, "a"), row(1, "b"), row(2, "b"), moved(3, "c", "a"), dropped(4, "a")]
    rows.append(row(5, "b"))
    found = obeyed(rows, "same,label:a,label:b")
    assert told(found[0]) == ("merge", "said", "b", "b")
    assert found[0]["confidence"] == pytest.approx(0.8) and found[0]["weight"] > 0
    assert told(found[1]) == ("keep", "same_person", "b", "b")
    assert told(found[3]) == ("relabel", "other_identity", "b", "a")
    assert found[4]["decision"] == "drop"


def test_a_merge_that_a_person_also_asked_for_is_said() -> None:
    rows = [row(0, "a"), row(1, "b", "a"), row(2, "c", "a")]
    found = obeyed(rows, "same,label:a,label:b")
    assert [r["reason"] for r in found] == ["same_person", "said", "merged"]
    assert found[1]["decision"] == "merge" and found[1]["identity_id"] == "a"


def test_a_dropped_face_goes_to_the_label_or_face_that_it_is() -> None:
    rows = [dropped(0, "a"), row(1, "b", similarity=0.5), row(2, "a")]
    assert told(obeyed(rows, "same,#0,label:b")[0]) == ("relabel", "said", "b", "b")
    assert told(obeyed(rows, "same,#0,#1")[0]) == ("relabel", "said", "b", IDS[1])
    assert told(obeyed(rows, "same,#0,#2")[0]) == ("keep", "said", "a", IDS[2])


def test_of_two_faces_the_one_that_agrees_less_moves_alone() -> None:
    rows = [row(0, "a"), row(1, "b", confidence=0.6), row(2, "a"), row(3, "b")]
    found = obeyed(rows, "same,#0,#1")
    assert told(found[1]) == ("relabel", "said", "a", IDS[0])
    assert found[0]["reason"] == "same_person" and found[3]["identity_id"] == "b"


def test_a_kept_face_does_not_move() -> None:
    rows = [row(0, "a"), row(1, "b", confidence=0.6), row(2, "a"), row(3, "b")]
    found = obeyed(rows, "same,#0,#1", "keep,#1,")
    assert told(found[0]) == ("relabel", "said", "b", "b")
    both = obeyed(rows, "same,#0,#1", "keep,#1,", "keep,#0,")
    assert {r["identity_id"] for r in both} == {"a"}


def test_faces_that_went_for_their_quality_stay_away() -> None:
    rows = [dropped(0, "a", "quality"), row(1, "a")]
    assert obeyed(rows, "same,#0,#1")[0]["reason"] == "quality"
    assert obeyed(rows, "name,#0,Ann")[0]["reason"] == "quality"


def test_unlabelled_faces_that_are_one_are_a_new_person() -> None:
    rows = [row(i, None, None, reason="unlabelled", evidence=None) for i in range(3)]
    found = obeyed(rows, "same,#0,#2")
    name = new_name(IDS[0])
    assert [r["identity_id"] for r in found] == [name, None, name]
    assert told(found[2]) == ("keep", "said", name, IDS[0])


def test_dropped_faces_that_are_one_person_stay_dropped() -> None:
    rows = [dropped(0, "a"), dropped(1, "b")]
    assert [r["decision"] for r in obeyed(rows, "same,#0,#1")] == ["drop", "drop"]


# -- two people --------------------------------------------------------------------------


def test_merged_labels_that_are_two_are_parted() -> None:
    rows = [row(0, "a"), row(1, "b", "a"), row(2, "b", "a"), moved(3, "c", "a", evidence="b")]
    found = obeyed(rows, "different,label:a,label:b")
    assert told(found[1]) == ("keep", "said", "b", "a")
    assert found[1]["confidence"] == pytest.approx(0.8)
    assert [r["identity_id"] for r in found] == ["a", "b", "b", "b"]


def test_faces_of_merged_labels_part_the_labels() -> None:
    rows = [row(0, "a"), row(1, "b", "a"), row(2, "b", "a")]
    assert [r["identity_id"] for r in obeyed(rows, "different,#0,#1")] == ["a", "b", "b"]


def test_of_two_faces_of_a_label_the_one_that_agrees_less_is_dropped() -> None:
    rows = [row(0, "a"), row(1, "a", similarity=0.5), row(2, "a")]
    found = obeyed(rows, "different,#0,#1")
    assert told(found[1]) == ("drop", "said", None, IDS[0])
    assert found[0] == pytest.approx(rows[0])
    assert told(obeyed(rows, "different,#0,#1", "keep,#1,")[0])[:2] == ("drop", "said")
    assert told(obeyed(rows, "different,#1,#0", "same,#1,label:a")[0])[:2] == ("drop", "said")


def test_of_equals_the_higher_face_id_goes() -> None:
    rows = [row(0, "a"), row(1, "a")]
    assert [r["decision"] for r in obeyed(rows, "different,#1,#0")] == ["keep", "drop"]


def test_a_face_that_is_not_its_label_goes() -> None:
    rows = [row(0, "a"), row(1, "a"), moved(2, "b", "a")]
    found = obeyed(rows, "different,#0,label:a", "different,#2,label:a")
    assert [told(found[i]) for i in (0, 2)] == [("drop", "said", None, "a")] * 2


def test_a_face_with_a_name_goes_there() -> None:
    rows = [row(0, "a"), row(1, "a", similarity=0.5), row(2, "b")]
    found = obeyed(rows, "different,#0,#1", "name,#0,b", "name,#1,c")
    assert [r["identity_id"] for r in found] == ["b", "c", "b"]


def test_unlabelled_faces_that_are_two_are_nobodys_or_a_person() -> None:
    rows = [row(i, None, "p", evidence=None, decision="keep") for i in range(4)]
    found = obeyed(rows, "different,#0,#1")
    assert told(found[1]) == ("keep", "said", None, IDS[0])
    found = obeyed(rows, "different,#0,#1", "same,#1,#3")
    name = new_name(IDS[1])
    assert [r["identity_id"] for r in found] == ["p", name, "p", name]


# -- names -------------------------------------------------------------------------------


def test_a_name_goes_to_the_whole_person() -> None:
    rows = [row(0, "a"), row(1, "a"), dropped(2, "a"), row(3, "b")]
    found = obeyed(rows, "name,#0,Ann")
    assert [r["identity_id"] for r in found] == ["Ann", "Ann", None, "b"]
    assert told(found[0]) == ("keep", "said", "Ann", f"name,{IDS[0]},Ann")
    assert found[1]["reason"] == "same_person" and found[1]["weight"] == pytest.approx(0.4)


def test_a_dropped_face_with_a_name_comes_back_alone() -> None:
    rows = [row(0, "a"), dropped(1, "a"), row(2, "Ann"), dropped(3, "a")]
    found = obeyed(rows, "name,#1,Ann", "name,#3,Bob")
    assert told(found[1]) == ("relabel", "said", "Ann", f"name,{IDS[1]},Ann")
    assert [r["identity_id"] for r in found] == ["a", "Ann", "Ann", "Bob"]


def test_two_with_one_name_are_one() -> None:
    rows = [row(0, "a"), row(1, "a"), row(2, "b"), row(3, "b")]
    found = obeyed(rows, "name,#0,Ann", "name,#2,Ann")
    assert {r["identity_id"] for r in found} == {"Ann"}
    assert {r["identity_id"] for r in obeyed(rows, "name,#0,b")} == {"b"}


def test_two_labels_can_swap_names() -> None:
    rows = [row(0, "a"), row(1, "a"), row(2, "b"), dropped(3, "c"), dropped(4, "c")]
    found = obeyed(rows, "name,#0,b", "name,#2,a", "name,#3,b", "name,#4,a")
    assert [r["identity_id"] for r in found] == ["b", "b", "a", "b", "a"]


def test_two_names_in_one_identity_are_two_people() -> None:
    rows = [row(0, "a"), row(1, "a"), row(2, "a", similarity=0.3)]
    found = obeyed(rows, "name,#0,Ann", "name,#2,Bob")
    assert [r["identity_id"] for r in found] == ["Ann", "Ann", "Bob"]


def test_a_label_that_has_the_name_of_somebody_else_gets_another() -> None:
    rows = [row(0, "a"), row(1, "b"), row(2, "b")]
    found = obeyed(rows, "name,#0,b", "different,#0,#1")
    assert [r["identity_id"] for r in found] == ["b", new_name(IDS[1]), new_name(IDS[1])]


def test_what_is_not_there_is_passed_over() -> None:
    rows = [row(0, "a")]
    lines = ["drop,#9,", "keep,#8,", "same,#0,#9", "same,label:x,label:y", "name,#9,z"]
    found = obeyed(rows, *lines, "different,#0,label:q", "same,#0,label:w")
    assert found[0] == pytest.approx(rows[0])
    assert obeyed([], *lines) == []


@pytest.mark.parametrize(
    ("lines", "passed_over"),
    [
        (["name,#0,Ann", "name,#2,Bob"], ["name,#2,Bob"]),
        (["name,#2,Bob", "name,#0,Ann"], ["name,#2,Bob"]),
        (["different,#0,#2"], ["different,#0,#2"]),
        (["same,#0,label:a", "different,#2,label:a", "name,#3,Cid"], ["different,#2,label:a"]),
        (["same,#2,label:b", "different,#2,label:a"], []),
        (["same,#0,#2", "name,#2,Ann"], []),
    ],
)
def test_what_a_new_duplicate_contradicts_is_passed_over(
    lines: list[str], passed_over: list[str]
) -> None:
    def of(texts: list[str]) -> Constraints:
        text = "\n".join(["kind,a,b", *texts])
        text = re.sub(r"#(\d+)", lambda found: IDS[int(found[1])], text)
        return parse_constraints(text.encode(), "l.csv")

    rows = [row(0, "a"), row(1, "a"), twin(2, "b", 0, identity_id="a"), row(3, "b")]
    table = pa.Table.from_pylist(rows, schema=DECISIONS)
    found = apply_constraints(table, of(lines))
    gone = of(passed_over).lines
    assert found.passed_over == gone
    rest = apply_constraints(table, of(lines).without(gone))
    assert rest.passed_over == () and rest.table == found.table


def test_keeping_a_face_may_contradict_a_line() -> None:
    with pytest.raises(UsageError, match=r"l.csv, line 2 \(different\) contradicts .*line 3"):
        obeyed([row(0, "a")], "different,#0,label:a", "keep,#0,")


# -- whatever is said --------------------------------------------------------------------

LABELS = ["a", "b", "c"]
FACES = IDS[:9]


@st.composite
def decided(draw: st.DrawFn) -> list[Row]:
    rows = []
    survivor = {label: draw(st.sampled_from(["a", label])) for label in LABELS}
    for i in range(len(FACES)):
        label = draw(st.sampled_from([*LABELS, None]))
        sure = draw(st.sampled_from([0.5, 0.7, 0.9]))
        kind = draw(st.sampled_from(["keep", "keep", "keep", "drop", "move", "twin", "quality"]))
        if label is None:
            rows.append(row(i, None, draw(st.sampled_from([None, "p", "q"])), decision="keep"))
        elif kind == "keep":
            rows.append(row(i, label, survivor[label], confidence=sure))
        elif kind == "move":
            other = draw(st.sampled_from(LABELS))
            rows.append(moved(i, label, survivor[other], evidence=other))
        elif kind == "twin" and i and rows[0]["decision"] == "keep":
            rows.append(twin(i, label, 0, identity_id=rows[0]["identity_id"]))
        else:
            rows.append(dropped(i, label, "quality" if kind == "quality" else "outlier"))
    return rows


NODE = st.sampled_from([*FACES, *(f"label:{label}" for label in LABELS)])
LINE = st.one_of(
    st.builds(Said, st.sampled_from([Kind.SAME, Kind.DIFFERENT, Kind.DIFFERENT]), NODE, NODE),
    st.builds(Said, st.sampled_from([Kind.KEEP, Kind.DROP]), st.sampled_from(FACES)),
    st.builds(Said, st.just(Kind.NAME), st.sampled_from(FACES), st.sampled_from(["a", "x", "y"])),
).filter(lambda line: line.a != line.b)


def holds(line: Said, rows: dict[str, Row], before: dict[str, Row]) -> bool:
    """Tell whether a line holds, of faces in use."""

    def head(node: str) -> str:
        twin = node in rows and rows[node]["decision"] == "duplicate"
        return str(rows[node]["evidence"]) if twin else node

    def of(node: str) -> set[str | None]:
        if node.startswith("label:"):
            label = node.removeprefix("label:")
            own = [r for r in rows.values() if r["source_label"] == label]
            return {r["identity_id"] for r in own if r["decision"] in {"keep", "merge"}}
        found = rows[head(node)]
        return {found["identity_id"]} if found["decision"] != "drop" else set()

    one = of(line.a)
    if line.kind is Kind.DROP:
        return rows[line.a]["decision"] == "drop"
    if line.kind is Kind.KEEP:
        return rows[line.a]["decision"] in {"keep", "merge"}
    if line.kind is Kind.NAME:
        gone = before[line.a]["reason"] == "quality" or not one
        return gone or one == {line.b}
    if head(line.a) == head(line.b):
        return True  # two copies of a picture, one of which is in use
    other = of(line.b)
    if line.kind is Kind.DIFFERENT:
        return not (one & other) - {None}
    return not one or not other or one == other != {None}


@settings(max_examples=400, deadline=None)
@given(decided(), st.lists(LINE, max_size=7))
def test_every_line_holds(rows: list[Row], lines: list[Said]) -> None:
    table = pa.Table.from_pylist(rows, schema=DECISIONS)
    try:
        constraints = Constraints.of(lines)
        obeyed = apply_constraints(table, constraints)
    except UsageError as error:
        assert "contradicts" in str(error)
        return
    found = obeyed.table
    found.validate(full=True)
    after = {r["face_id"]: r for r in found.to_pylist()}
    before = {r["face_id"]: r for r in rows}
    assert list(after) == list(before)
    for line in set(lines) - set(obeyed.passed_over):
        assert holds(line, after, before), line.text
    for r in after.values():
        assert (r["weight"] > 0) == (r["decision"] in {"keep", "merge", "relabel"})
        assert r["decision"] != "drop" or r["identity_id"] is None
        if r["reason"] == "said":
            assert r["similarity"] is None and r["evidence"]
    # The order of the lines says nothing.
    assert apply_constraints(table, Constraints.of(lines[::-1])) == obeyed
