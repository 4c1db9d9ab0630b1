"""Streaming a stored table: the same rows as reading it at once, and damage is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from facepipe.errors import CorruptData
from facepipe.shards import Dataset, open_dataset
from pipelines.batches import table_batches


@pytest.mark.parametrize("table", ["decisions", "faces"])
@pytest.mark.parametrize("rows", [1, 4, 1000])
def test_batches_are_the_table(dataset: Dataset, table: str, rows: int) -> None:
    columns = ["face_id", "uri"]
    batches = list(table_batches(dataset, table, columns, rows))
    assert pa.Table.from_batches(batches).equals(dataset.table(table, columns))
    assert max(map(len, batches)) <= rows


def test_a_damaged_file_is_named(dataset: Dataset, tmp_path: Path) -> None:
    shutil.copytree(dataset.uri, tmp_path / "ds")
    copy = open_dataset(tmp_path / "ds")
    file = copy.files("decisions")[0].file
    (tmp_path / "ds" / file).write_bytes(b"PAR1damaged")
    with pytest.raises(CorruptData, match="verify"):
        list(table_batches(copy, "decisions", ["face_id"]))
    (tmp_path / "ds" / file).unlink()
    with pytest.raises(CorruptData, match="verify"):
        list(table_batches(copy, "decisions", ["face_id"]))
