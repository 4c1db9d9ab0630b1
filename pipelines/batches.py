"""A stored table as a stream of batches, whatever the size of its files and row groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from facepipe.errors import CorruptData
from facepipe.shards import Dataset

BATCH_ROWS = 1 << 15
_BUFFER_BYTES = 1 << 20  # of each column, read at a time


def table_batches(
    dataset: Dataset, name: str, columns: Sequence[str], batch_rows: int = BATCH_ROWS
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a table in shard order.

    A table that one task wrote is one row group, which pyarrow's datasets read as a whole; here
    its pages are read as they are needed. Raises CorruptData where a file is missing, damaged,
    or is not what its record says.
    """
    for file in dataset.files(name):
        rows = 0
        try:
            with (
                dataset.store.open(file.file) as stream,
                pq.ParquetFile(stream, buffer_size=_BUFFER_BYTES, pre_buffer=False) as parquet,
            ):
                for batch in parquet.iter_batches(
                    batch_size=batch_rows, columns=list(columns), use_threads=False
                ):
                    rows += len(batch)
                    yield batch
        except (OSError, pa.ArrowException) as error:
            raise CorruptData(
                f"{dataset.uri}/{file.file} is committed but cannot be read ({error}): run "
                f"facepipe verify {dataset.uri} --repair, then the same command again"
            ) from error
        if rows != file.rows:
            raise CorruptData(
                f"{dataset.uri}/{file.file} has {rows} rows, its record says {file.rows}: run "
                f"facepipe verify {dataset.uri} --repair"
            )
