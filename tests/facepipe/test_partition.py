"""Runs by label: which shards make one up, the order of its rows, and vectors as bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from facepipe.commits import write_parquet
from facepipe.errors import CorruptData
from facepipe.partition import RUN_FACES, RUN_SHARDS, by_label, from_bytes, runs, sorted_run

DIM = 8


def test_a_run_is_of_so_many_shards_and_faces() -> None:
    small = [(f"{number:06d}", 100) for number in range(150)]
    assert runs(small) == [range(64), range(64, 128), range(128, 150)]
    large = [(f"{number:06d}", RUN_FACES // 2) for number in range(5)]
    assert runs(large) == [range(2), range(2, 4), range(4, 5)]
    huge = [("000000", 1), ("000001", 2 * RUN_FACES), ("000002", 1)]
    assert runs(huge) == [range(1), range(1, 2), range(2, 3)]
    assert runs([]) == []
    assert runs([("000003", 0)]) == [range(1)]


def test_parts_of_a_container_make_runs_of_their_own() -> None:
    parts = [f"000001.{part:04d}" for part in range(70)]
    names = ["000000", *parts, "000002", "000003", "000004.0000"]
    found = runs([(name, 1) for name in names])
    assert found == [range(1), range(1, 65), range(65, 71), range(71, 73), range(73, 74)]


@pytest.mark.parametrize("seed", range(5))
def test_new_shards_leave_all_runs_but_the_last_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    numbers = np.flatnonzero(rng.random(500) < 0.9)  # some shards are gone
    shards = [(f"{n:06d}", int(rng.integers(0, 3000))) for n in numbers]
    before, after = runs(shards[:300]), runs(shards)
    assert after[: len(before) - 1] == before[:-1]
    assert [place for run in after for place in run] == list(range(len(shards)))
    for run in after:
        assert len({int(shards[place][0]) // RUN_SHARDS for place in run}) == 1
        assert sum(shards[place][1] for place in run) <= RUN_FACES


def tables(rows: list[tuple[Any, ...]]) -> tuple[pa.Table, pa.Table]:
    """Return faces and embeddings of (label, id, uri, status, vector or None) rows."""
    label, face_id, uri, status, vector = zip(*rows, strict=True)
    text = pa.string()
    faces = pa.table(
        {
            "face_id": pa.array(face_id, text),
            "uri": pa.array(uri, text),
            "member": pa.nulls(len(rows), text),
            "source_label": pa.array(label, text),
            "status": pa.array(status, text),
        }
    )
    halves = [None if v is None else np.full(DIM, v, np.float16) for v in vector]
    known = ["non_finite" if v is None else "ok" for v in vector]
    embeddings = pa.table(
        {
            "face_id": faces["face_id"],
            "vector": pa.array(halves, pa.list_(pa.float16(), DIM)),
            "status": pa.array(known, text),
        }
    )
    return faces, embeddings


ROWS = [
    ("bob", "f3", "u", "ok", 3.0),
    (None, "f1", "u", "ok", 1.0),  # nothing to compare it with
    ("ada", "f9", "u", "ok", 9.0),
    ("ada", "f5", "v", "ok", 5.5),
    ("ada", "f4", "u", "blurred", 4.0),  # not fit for use
    ("ada", "f5", "u", "ok", 5.0),
    ("ada", "f2", "u", "ok", None),
]


def test_rows_with_a_use_come_first_by_label() -> None:
    table, stored = sorted_run(*tables(ROWS), "m")
    assert table.schema.equals(by_label(DIM, "m"), check_metadata=True)
    assert stored == 4
    keys = list(
        zip(*(table[n].to_pylist() for n in ("source_label", "face_id", "uri")), strict=True)
    )
    assert keys[:4] == [
        ("ada", "f5", "u"),
        ("ada", "f5", "v"),
        ("ada", "f9", "u"),
        ("bob", "f3", "u"),
    ]
    assert sorted(k[1] for k in keys[4:]) == ["f1", "f2", "f4"]
    embedded = dict(zip((k[1] for k in keys), table["embedded"].to_pylist(), strict=True))
    assert embedded == {"f1": True, "f2": False, "f3": True, "f4": True, "f5": True, "f9": True}
    assert table["vector"].is_valid().to_pylist() == [True] * 4 + [False] * 3
    np.testing.assert_array_equal(from_bytes(table["vector"])[:4, 0], [5.0, 5.5, 9.0, 3.0])


def test_the_order_within_the_shards_changes_no_byte() -> None:
    one, other = (sorted_run(*tables(rows), "m")[0] for rows in (ROWS, ROWS[::-1]))
    assert write_parquet(one, one.schema, 2) == write_parquet(other, other.schema, 2)


def test_faces_and_vectors_have_to_belong_together() -> None:
    faces, embeddings = tables(ROWS)
    with pytest.raises(CorruptData, match="embed again"):
        sorted_run(faces, embeddings.slice(1), "m")


@pytest.mark.parametrize("rows", [ROWS[1:2], ROWS[4:5], ROWS[:1]])
def test_runs_of_nothing_but_one_kind(rows: list[tuple[Any, ...]]) -> None:
    table, stored = sorted_run(*tables(rows), "m")
    assert (len(table), stored) == (1, int(rows is not None and rows == ROWS[:1]))


def test_vectors_of_a_slice_and_of_chunks() -> None:
    vectors = np.random.default_rng(0).normal(size=(10, DIM)).astype(np.float16)
    data = pa.array([v.tobytes() for v in vectors], pa.binary(2 * DIM))
    np.testing.assert_array_equal(from_bytes(pa.chunked_array([data.slice(3, 4)])), vectors[3:7])
    np.testing.assert_array_equal(
        from_bytes(pa.chunked_array([data.slice(8), data.slice(0, 2)])), vectors[[8, 9, 0, 1]]
    )
    assert from_bytes(pa.chunked_array([], pa.binary(2 * DIM))).shape == (0, DIM)
