"""The rows of a shard, read as they are needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from facepipe import shard_rows
from facepipe.commits import write_parquet
from facepipe.errors import CorruptData
from facepipe.gallery import GALLERY
from facepipe.index_filter import parse_filter
from facepipe.shard_rows import ShardRows
from tests.facepipe.made_index import names, rows_of


def written(folder: Path, rows: pa.Table, group_rows: int | None = None) -> Path:
    path = folder / "rows.parquet"
    path.write_bytes(write_parquet(rows, GALLERY, group_rows=group_rows))
    return path


@pytest.mark.parametrize("group_rows", [None, 1, 7, 100])
def test_rows_come_in_the_order_they_are_asked_for(tmp_path: Path, group_rows: int | None) -> None:
    table = rows_of(names(100), [f"p{i % 3}" if i % 5 else None for i in range(100)])
    rows = ShardRows(written(tmp_path, table, group_rows), 100, "x")
    assert len(rows) == 100
    assert rows.face_ids.tolist() == [name.encode() for name in names(100)]
    for wanted in ([], [99], [3, 99, 3, 0], list(range(100))):
        places = np.array(wanted, np.int64)
        assert rows.take(places).equals(table.take(pa.array(places)))
    where = parse_filter(["identity_id=p1"])
    assert where is not None
    expected = [i % 5 != 0 and i % 3 == 1 for i in range(100)]
    assert rows.mask(where).tolist() == expected


def test_no_rows(tmp_path: Path) -> None:
    rows = ShardRows(written(tmp_path, rows_of([])), 0, "x")
    where = parse_filter(["identity_id=p1"])
    assert where is not None
    assert (len(rows), len(rows.face_ids), len(rows.mask(where))) == (0, 0, 0)
    assert rows.take(np.zeros(0, np.int64)).num_rows == 0


@pytest.mark.parametrize("kept_bytes", [0, 64 * 2**20])
def test_ids_of_any_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_bytes: int
) -> None:
    """In memory or in a temporary file; later row groups have longer ones."""
    monkeypatch.setattr(shard_rows, "KEPT_BYTES", kept_bytes)
    ids = sorted(["a", "bb", "c" * 40, "cc", "dé", "e-0000", "f-10000", ""])
    table = pa.table(
        {
            "face_id": ids,
            "uri": ids,
            "member": pa.nulls(8, pa.string()),
            "box_xyxy_px": pa.array([[0.0] * 4] * 8, GALLERY.field("box_xyxy_px").type),
            "identity_id": pa.nulls(8, pa.string()),
        }
    )
    rows = ShardRows(written(tmp_path, table, 2), 8, "x")
    assert [name.decode() for name in rows.face_ids.tolist()] == ids


@pytest.mark.parametrize("change", ["count", "order", "twice", "columns", "no parquet", "gone"])
def test_other_rows_are_refused(tmp_path: Path, change: str) -> None:
    table = rows_of(names(9))
    path = written(tmp_path, table, 4)
    if change == "order":
        written(tmp_path, table.take([0, 1, 2, 3, 5, 4, 6, 7, 8]), 4)
    elif change == "twice":
        written(tmp_path, table.take([0, 1, 2, 3, 3, 5, 6, 7, 8]), 4)
    elif change == "columns":
        path.write_bytes(write_parquet(table.select(["face_id"]), pa.schema([GALLERY.field(0)])))
    elif change == "no parquet":
        path.write_bytes(b"PAR1" * 9)
    elif change == "gone":
        path.unlink()
    with pytest.raises(CorruptData, match="the place of it"):
        ShardRows(path, 8 if change == "count" else 9, "the place of it")
