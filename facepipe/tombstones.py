"""Deleted rows of a shard: rising little-endian uint32 numbers, and nothing else.

A shard's files never change; what is deleted is named beside them until the shard is rewritten.
Legend: N rows of a shard, T deleted ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from facepipe import ids
from facepipe.errors import CorruptData
from facepipe.index_manifest import IndexFile, Shard

Int64 = NDArray[np.int64]
STORED = np.dtype("<u4")


def encode_rows(rows_T: Int64) -> bytes:
    """Return row numbers, in any order, as the bytes of a file."""
    return np.unique(rows_T).astype(STORED).tobytes()


def decode_rows(data: bytes, shard: Shard, where: str) -> Int64:
    """Return the deleted rows of a shard, rising. Raises CorruptData, naming the file.

    Checked: the hash, the number of rows, their order, and that the shard has them.
    """
    file = shard.tombstones
    if file is None or ids.sha256_hex(data) != file.sha256:
        raise CorruptData(f"{where} does not match its checksum: {_REMEDY}")
    if len(data) % STORED.itemsize:
        raise CorruptData(f"{where} has {len(data)} bytes, which are no row numbers: {_REMEDY}")
    rows_T = np.frombuffer(data, STORED).astype(np.int64)
    rising = bool((np.diff(rows_T) > 0).all())
    if len(rows_T) != shard.dead or not rising or (rows_T >= shard.rows).any():
        raise CorruptData(
            f"{where} holds {len(rows_T)} rows that are not {shard.dead} of the {shard.rows} rows "
            f"of shard {shard.name}: {_REMEDY}"
        )
    return rows_T


def with_dead(shard: Shard, rows_T: Int64) -> tuple[Shard, bytes]:
    """Return a shard whose deleted rows are these, and the bytes of their file (may be empty)."""
    data = encode_rows(rows_T)
    dead = len(data) // STORED.itemsize
    file = IndexFile(bytes=len(data), sha256=ids.sha256_hex(data)) if dead else None
    # Not model_copy, which checks nothing.
    kept = shard.model_dump(exclude={"dead", "tombstones"})
    return Shard(**kept, dead=dead, tombstones=file), data


def living(shard: Shard, rows_T: Int64) -> NDArray[np.bool_]:
    """Return which rows of a shard are alive (N, bool)."""
    alive_N = np.ones(shard.rows, dtype=bool)
    alive_N[rows_T] = False
    return alive_N


_REMEDY = "the index is damaged; run facepipe index rollback, or build it again"
