"""Conditions on the rows that a search may find."""

from __future__ import annotations

import datetime

import pyarrow as pa
import pytest

from facepipe.errors import UsageError
from facepipe.index_filter import Condition, Filter, parse_filter

ROWS = pa.table(
    {
        "face_id": ["a", "b", "c", "d"],
        "uri": ["/1990/a.jpg", "/1991/b.jpg", "/1991/c.jpg", "/2001/d=1.jpg"],
        "identity_id": ["Ann", None, "Bob", ""],
        "score": pa.array([0.5, None, 0.75, -1.0], pa.float32()),
        "frame": pa.array([1, 2, 10, None], pa.int32()),
        "taken": pa.array([datetime.datetime(1990 + i, 1, 1) for i in range(4)]),
        "box": pa.array([[1.0, 2.0]] * 4, pa.list_(pa.float32(), 2)),
    }
)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["identity_id=Ann"], "a"),
        (["identity_id!=Ann"], "bcd"),
        (["identity_id="], "bd"),
        (["identity_id!="], "ac"),
        (["identity_id>Ann"], "c"),
        (["uri~/1991/"], "bc"),
        (["uri~/1991/", "identity_id=Bob"], "c"),
        (["uri=/2001/d=1.jpg"], "d"),
        (["uri~="], "d"),
        (["uri~[a-z]"], ""),
        (["identity_id~nn"], "a"),
        ([" face_id >= c"], "abcd"),
        (["face_id>=c"], "cd"),
        (["score>=0.5"], "ac"),
        (["score<0"], "d"),
        (["score!=0.5"], "bcd"),
        (["score="], "b"),
        (["frame<10"], "ab"),
        (["frame>9"], "c"),
        (["frame!="], "abc"),
        (["taken>=1992-01-01"], "cd"),
        (["taken<1991-06-01T12:00:00", "taken!=1990-01-01"], "b"),
    ],
)
def test_conditions_choose_rows(texts: list[str], expected: str) -> None:
    found = parse_filter(texts)
    assert found is not None
    found.need_columns(ROWS.schema)
    assert "".join(ROWS.filter(pa.array(found.mask(ROWS)))["face_id"].to_pylist()) == expected
    assert len(found.mask(ROWS.slice(0, 0))) == 0


def test_no_conditions_are_no_filter() -> None:
    assert parse_filter([]) is None


def test_a_filter_says_what_it_looks_at_and_can_be_a_key() -> None:
    one, two = parse_filter(["uri~a", "face_id=b", "uri!=c"]), parse_filter(["uri~a"])
    assert one is not None
    assert one.columns == ["face_id", "uri"]
    assert one == parse_filter(["uri~a", "face_id=b", "uri!=c"])
    assert {one: 1, two: 2}[Filter((Condition("uri", "~", "a"),))] == 2


@pytest.mark.parametrize(
    "text", ["", "uri", "=x", "a b=c", "1=1", "uri:x", "a==b", "a=>3", "a<>b", "a=<3", "a!==b"]
)
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"is no condition.*COLUMN=VALUE"):
        parse_filter([text])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing=1", "no such column: take one of face_id, uri, identity_id, score, frame, taken"),
        ("box=1", "no such column"),
        ("score=high", "'high' cannot be compared with score"),
        ("frame<1.5", "'1.5' cannot be compared with frame"),
        ("taken>yesterday", "'yesterday' cannot be compared"),
        ("frame~1", "frame is not a text"),
    ],
)
def test_what_cannot_be_compared_is_refused(text: str, message: str) -> None:
    found = parse_filter([text])
    assert found is not None
    with pytest.raises(UsageError, match=message):
        found.need_columns(ROWS.schema)
        found.mask(ROWS)
