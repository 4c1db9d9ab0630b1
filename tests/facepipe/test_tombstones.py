"""Deleted rows: stored, read back, and refused where they are not this shard's."""

from __future__ import annotations

import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facepipe.errors import CorruptData
from facepipe.index_manifest import IndexFile, Shard, shard_name
from facepipe.tombstones import decode_rows, encode_rows, living, with_dead


def a_shard(rows: int) -> Shard:
    files = {
        name: IndexFile(bytes=1, sha256=hashlib.sha256(name.encode()).hexdigest())
        for name in ("vectors.f16", "rows.parquet")
    }
    return Shard(name=shard_name(files), rows=rows, files=files, inputs="x")


@given(st.sets(st.integers(0, 99)))
def test_rows_come_back_rising_and_the_rest_is_alive(dead: set[int]) -> None:
    shard, data = with_dead(a_shard(100), np.array(list(dead), dtype=np.int64))
    assert data == b"".join(struct.pack("<I", row) for row in sorted(dead))
    assert (shard.dead, shard.tombstones is None) == (len(dead), not dead)
    if dead:
        rows = decode_rows(data, shard, "f")
        assert rows.tolist() == sorted(dead)
        assert np.flatnonzero(~living(shard, rows)).tolist() == sorted(dead)


def test_a_row_that_is_deleted_twice_counts_once() -> None:
    shard, data = with_dead(a_shard(5), np.array([3, 1, 3]))
    assert (shard.dead, len(data)) == (2, 8)


@pytest.mark.parametrize("rows", [[1, 5], [2, 1], [1, 1]])
def test_rows_that_are_not_the_shards_are_refused(rows: list[int]) -> None:
    data = b"".join(struct.pack("<I", row) for row in rows)
    file = IndexFile(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    shard = Shard(**a_shard(5).model_dump(exclude={"dead", "tombstones"}), dead=2, tombstones=file)
    with pytest.raises(CorruptData, match="are not 2 of the 5 rows"):
        decode_rows(data, shard, "f")


def test_changed_bytes_are_refused() -> None:
    shard, data = with_dead(a_shard(9), np.array([2, 4]))
    for wrong in (data[:-1], data + b"\0", encode_rows(np.array([2, 5])), b""):
        with pytest.raises(CorruptData, match="checksum"):
            decode_rows(wrong, shard, "f")
