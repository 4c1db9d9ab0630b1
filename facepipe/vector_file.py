"""The exact vectors of a shard: raw little-endian float16, row after row, no header.

Such a file is memory-mapped, and row i is at byte 2 * i * D: what a search reads of it is the
rows it scores. Legend: N rows, D dimensions.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from facepipe.errors import CorruptData
from facepipe.gallery import UNIT_TOLERANCE
from facepipe.half_floats import widened
from facepipe.hashed_stream import HashedStream
from facepipe.index_manifest import IndexFile

Float16 = NDArray[np.float16]

STORED = np.dtype("<f2")
BLOCK_ROWS = 4096  # widened to float32 to be measured: 8 MB at 512 dimensions
_UNIT_SQUARED = ((1 - UNIT_TOLERANCE) ** 2, (1 + UNIT_TOLERANCE) ** 2)


class VectorWriter:
    """Writes unit vectors to a stream and hashes what it writes; the stream stays open."""

    def __init__(self, stream: BinaryIO, dim: int) -> None:
        """Write rows of ``dim`` to ``stream``."""
        self.dim = dim
        self.rows = 0
        self._stream = HashedStream(stream)

    def add(self, vectors_ND: Float16) -> None:
        """Append rows (N x D, float16).

        Raises CorruptData, before anything of this call is written, where a row is not a
        unit vector of finite numbers; ValueError for another shape or dtype.
        """
        if vectors_ND.dtype != np.float16 or vectors_ND.shape != (len(vectors_ND), self.dim):
            raise ValueError(
                f"{vectors_ND.dtype} {vectors_ND.shape} cannot be written to a file of float16 "
                f"N x {self.dim}"
            )
        need_unit(vectors_ND, self.rows)
        for start in range(0, len(vectors_ND), BLOCK_ROWS):
            block = vectors_ND[start : start + BLOCK_ROWS]
            self._stream.write(np.ascontiguousarray(block, dtype=STORED).data)
        self.rows += len(vectors_ND)

    def close(self) -> IndexFile:
        """Return size and hash of all that was written."""
        return self._stream.file()


def need_unit(vectors_ND: Float16, first: int = 0) -> None:
    """Check that rows are unit vectors. Raises CorruptData, counting rows from ``first``."""
    low, high = _UNIT_SQUARED
    for start in range(0, len(vectors_ND), BLOCK_ROWS):
        wide = widened(vectors_ND[start : start + BLOCK_ROWS])  # what is not finite: 65,536 and up
        squared = np.einsum("nd,nd->n", wide, wide)
        wrong = np.flatnonzero((squared < low) | (squared > high))
        if len(wrong):
            row = int(wrong[0])
            raise CorruptData(
                f"row {first + start + row} is not a unit vector (length "
                f"{np.sqrt(squared[row]):.4g}): run facepipe verify DATASET --repair, "
                "then the same command again"
            )


def open_vectors(path: str | Path, rows: int, dim: int) -> Float16:
    """Return a file of vectors as a read-only map (rows x dim, float16).

    Nothing is read until it is used. Raises CorruptData where the file is missing or does
    not have the size of these rows; its bytes are checked elsewhere, by their hash.
    """
    path, size = Path(path), rows * dim * STORED.itemsize
    try:
        found = path.stat().st_size
    except OSError as error:
        raise CorruptData(f"{path} cannot be read ({error.strerror}): {_REMEDY}") from error
    if found != size:
        raise CorruptData(f"{path} has {found} bytes and not {size}: {_REMEDY}")
    if size == 0:  # which cannot be mapped
        empty: Float16 = np.empty((rows, dim), STORED)
        empty.flags.writeable = False
        return empty
    return np.memmap(path, dtype=STORED, mode="r", shape=(rows, dim))


_REMEDY = "the index is damaged; build it again with facepipe index build"
