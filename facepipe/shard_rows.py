"""Who the vectors of a shard are: its rows.parquet, of which little is kept in memory.

The face ids are, since every hit needs one: 37 bytes a face, in memory up to KEPT_BYTES a shard
and in an unnamed temporary file beyond, where the system can take its pages back. The other
columns are read when they are asked for. Legend: N rows, F faces, W bytes of the longest id.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from facepipe.errors import CorruptData
from facepipe.gallery import GALLERY
from facepipe.index_filter import Filter

Int64 = NDArray[np.int64]
Names = NDArray[np.bytes_]

GROUP_ROWS = 8192  # of rows.parquet: what is read for one hit, a few ms
FACE_ID_BYTES = 37  # facepipe.ids.face_id: 32 hex digits, a dash, four digits
KEPT_BYTES = 16 * 2**20
COMPARED_ROWS = 2**20  # at a time
_REMEDY = "the index is damaged; build it again with facepipe index build"


class ShardRows:
    """The rows of one shard by rising face_id; safe to read from several threads."""

    def __init__(self, path: Path, rows: int, where: str) -> None:
        """Open a file and read its face ids.

        Raises CorruptData, naming ``where``, for a file that has not these rows of GALLERY or
        not in the order of face_id.
        """
        self.path, self.where = path, where
        try:
            self._map = pa.memory_map(str(path))
            with pq.ParquetFile(self._map) as parquet:
                self._metadata, self.schema = parquet.metadata, parquet.schema_arrow
            if self._metadata.num_rows != rows or self.schema != GALLERY:
                raise CorruptData(f"{where} does not have the rows of its manifest: {_REMEDY}")
            groups = range(self._metadata.num_row_groups)
            sizes = [self._metadata.row_group(group).num_rows for group in groups]
            self._starts = np.cumsum([0, *sizes], dtype=np.int64)[:-1]
            self.face_ids = self._read_face_ids()
        except (pa.ArrowException, OSError) as error:
            raise CorruptData(f"{where} is no Parquet file ({error}): {_REMEDY}") from error

    def __len__(self) -> int:
        """Return N."""
        return int(self._metadata.num_rows)

    def take(self, rows: Int64) -> pa.Table:
        """Return some rows, in the order they are asked for; whole row groups are read."""
        group_F = np.searchsorted(self._starts, rows, side="right") - 1
        groups = np.unique(group_F)
        table = self._open().read_row_groups(groups.tolist(), use_threads=False)
        sizes = np.diff(self._starts, append=len(self))[groups]
        read_at = np.cumsum(sizes) - sizes  # where each group is in what was read
        places = rows - self._starts[group_F] + read_at[np.searchsorted(groups, group_F)]
        return table.take(pa.array(places, pa.int64()))

    def mask(self, where: Filter) -> NDArray[np.bool_]:
        """Return which rows fulfil a filter (N, bool). Raises UsageError."""
        parts = [where.mask(table) for table in self.parts(where.columns)]
        return np.concatenate([np.zeros(0, dtype=bool), *parts])

    def parts(self, columns: list[str]) -> Iterator[pa.Table]:
        """Yield some columns of all rows, part by part."""
        parquet = self._open()
        for group in range(len(self._starts)):
            yield parquet.read_row_group(group, columns=columns, use_threads=False)

    def _open(self) -> pq.ParquetFile:
        """Return a reader of its own: pyarrow does not say that one may be shared by threads."""
        return pq.ParquetFile(self._map, metadata=self._metadata)

    def _read_face_ids(self) -> Names:
        """Return all face ids (N, bytes), rising."""
        parts = (_bytes_of(table.column("face_id")) for table in self.parts(["face_id"]))
        face_ids, done = np.empty(0, "S1"), 0
        for part in parts:
            if done + len(part) > len(face_ids) or part.itemsize > face_ids.itemsize:
                width = max(part.itemsize, face_ids.itemsize)
                face_ids = _grown(face_ids[:done], len(self), width)
            face_ids[done : done + len(part)] = part
            done += len(part)
        for start in range(0, len(face_ids) - 1, COMPARED_ROWS):
            some = face_ids[start : start + COMPARED_ROWS + 1]
            if not np.all(some[:-1] < some[1:]):
                raise CorruptData(f"{self.where} is not in the order of face_id: {_REMEDY}")
        return face_ids


def _grown(face_ids: Names, rows: int, width: int) -> Names:
    """Return room for ``rows`` ids of ``width`` bytes that begins with ``face_ids``."""
    if rows * width <= KEPT_BYTES:
        room: Names = np.zeros(rows, f"S{width}")
    else:
        with tempfile.TemporaryFile() as file:
            room = np.memmap(file, f"S{width}", "w+", shape=(rows,))
    room[: len(face_ids)] = face_ids
    return room


def _bytes_of(column: pa.ChunkedArray) -> Names:
    """Return texts as fixed-width bytes, without making an object of each."""
    texts = column.combine_chunks()
    if not len(texts):
        return np.zeros(0, "S1")
    ends = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + len(texts) + 1]
    lengths = np.diff(ends)
    data = np.frombuffer(texts.buffers()[2] or b"", np.uint8)
    width = int(lengths.max())
    if width and (lengths == width).all():
        return data[ends[0] : ends[-1]].view(f"S{width}")
    return np.array([text.encode() for text in texts.to_pylist()])
