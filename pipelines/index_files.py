"""The files of an index, read with their hashes: rows, vectors, deleted rows, templates.

What is handed on has been hashed as it was read: a byte that has changed raises CorruptData.
Legend: N rows of a shard, B rows of a block, D dimensions.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from facepipe.errors import CorruptData
from facepipe.gallery import GALLERY
from facepipe.index_manifest import (
    CURRENT,
    ROWS,
    VECTOR_ITEM_BYTES,
    VECTORS,
    IndexFile,
    Manifest,
    Shard,
    Template,
    manifest_key,
    suppressed_key,
)
from facepipe.store import Store
from facepipe.tombstones import decode_rows, living

BLOCK_BYTES = 2**23  # of vectors at a time
PART_GROUPS = 8  # row groups of rows.parquet at a time: 65,536 rows
STORED = np.dtype("<f2")


@dataclass(frozen=True, slots=True)
class Named:
    """A file that a version names, and what it must be."""

    key: str
    file: IndexFile


def shard_files(shard: Shard) -> list[Named]:
    """Return the files of a shard, its deleted rows among them."""
    named = [Named(shard.key(name), file) for name, file in sorted(shard.files.items())]
    if shard.tombstones is not None and shard.tombstones_key is not None:
        named.append(Named(shard.tombstones_key, shard.tombstones))
    return named


def version_files(manifest: Manifest) -> list[Named]:
    """Return every file that a version names."""
    template = manifest.template
    named = [] if template is None else [Named(template.key, template.file)]
    if manifest.suppressed is not None:
        named.append(Named(suppressed_key(manifest.suppressed), manifest.suppressed))
    return named + [file for shard in manifest.shards for file in shard_files(shard)]


def version_keys(version: str, manifest: Manifest) -> set[str]:
    """Return the keys that a version in force is made of."""
    return {CURRENT, manifest_key(version), *(named.key for named in version_files(manifest))}


def check_size(store: Store, named: Named) -> None:
    """Compare a file's size. Raises CorruptData where it is missing or has another one."""
    try:
        size = store.size(named.key)
    except FileNotFoundError as error:
        raise CorruptData(f"{store.uri}/{named.key} is missing: {REMEDY}") from error
    if size != named.file.bytes:
        raise CorruptData(
            f"{store.uri}/{named.key} has {size} bytes and not {named.file.bytes}: {REMEDY}"
        )


def check_bytes(store: Store, named: Named) -> None:
    """Compare a file's size and hash. Raises CorruptData."""
    for _ in _blocks(store, named, BLOCK_BYTES):
        pass


def read_file(store: Store, named: Named) -> bytes:
    """Return a file's bytes. Raises CorruptData where they are not those of its record."""
    return b"".join(_blocks(store, named, max(1, named.file.bytes)))


def read_rows(store: Store, shard: Shard, columns: Sequence[str] | None = None) -> pa.Table:
    """Return a shard's rows, dead ones too. Raises CorruptData."""
    parts = [part for _, part in row_parts(store, shard, columns)]
    return pa.concat_tables(parts).combine_chunks()


def row_parts(
    store: Store, shard: Shard, columns: Sequence[str] | None = None
) -> Iterator[tuple[int, pa.Table]]:
    """Yield the first row and the rows of each part of a shard, at least one part.

    Raises CorruptData, before the first part, where the file is not the one of the manifest.
    """
    named = Named(shard.key(ROWS), shard.files[ROWS])
    where = f"{store.uri}/{named.key}"
    try:
        with _checked(store, named) as stream, pq.ParquetFile(stream) as parquet:
            if parquet.schema_arrow != GALLERY or parquet.metadata.num_rows != shard.rows:
                raise CorruptData(f"{where} does not have the rows of its manifest: {REMEDY}")
            own = list(GALLERY.names if columns is None else columns)
            start, groups = 0, parquet.num_row_groups
            for first in range(0, max(groups, 1), PART_GROUPS):
                some = list(range(first, min(first + PART_GROUPS, groups)))
                part = parquet.read_row_groups(some, own, use_threads=False)
                yield start, part.select(own)
                start += len(part)
    except PermissionError:
        raise  # which says nothing of the bytes
    except (pa.ArrowException, OSError) as error:
        raise CorruptData(f"{where} is no Parquet file ({error}): {REMEDY}") from error


@contextmanager
def _checked(store: Store, named: Named) -> Iterator[BinaryIO]:
    """Open a file after checking its bytes; one that comes over the network comes once."""
    if store.local is None:
        yield io.BytesIO(read_file(store, named))
        return
    check_bytes(store, named)
    with store.open(named.key) as stream:
        yield stream


def read_dead(store: Store, shard: Shard) -> NDArray[np.int64]:
    """Return the deleted rows of a shard, rising. Raises CorruptData."""
    key = shard.tombstones_key
    if key is None or shard.tombstones is None:
        return np.empty(0, np.int64)
    data = read_file(store, Named(key, shard.tombstones))
    return decode_rows(data, shard, f"{store.uri}/{key}")


def living_rows(
    store: Store, shards: Sequence[Shard], columns: Sequence[str] | None = None
) -> Iterator[tuple[int, NDArray[np.int64], pa.Table]]:
    """Yield a shard's number, living places, and their rows, shard by shard and part by part.

    Raises CorruptData.
    """
    for number, shard in enumerate(shards):
        alive_N = living(shard, read_dead(store, shard))
        for start, part in row_parts(store, shard, columns):
            places = np.flatnonzero(alive_N[start : start + len(part)])
            yield number, start + places, part.take(pa.array(places))


def read_template_bytes(store: Store, template: Template) -> bytes:
    """Return the bytes of a template. Raises CorruptData."""
    return read_file(store, Named(template.key, template.file))


def vector_blocks(
    store: Store, shard: Shard, dim: int
) -> Iterator[tuple[int, NDArray[np.float16]]]:
    """Yield the first row and the vectors (B x D) of each block of a shard.

    Raises CorruptData at the end where the file is not the one of the manifest.
    """
    named = Named(shard.key(VECTORS), shard.files[VECTORS])
    row_bytes = dim * VECTOR_ITEM_BYTES
    start = 0
    for data in _blocks(store, named, max(1, BLOCK_BYTES // row_bytes) * row_bytes):
        block = np.frombuffer(data, STORED).reshape(-1, dim)
        yield start, block
        start += len(block)


def _blocks(store: Store, named: Named, block_bytes: int) -> Iterator[bytes]:
    """Yield a file's bytes; raise CorruptData, before the last, where they are not the record's."""
    check_size(store, named)
    digest, left, data = hashlib.sha256(), named.file.bytes, b""
    with store.open(named.key) as stream:
        while left:
            data = _read(stream, min(left, block_bytes))
            left -= len(data)
            digest.update(data)
            if not data or not left:
                break
            yield data
    if left or digest.hexdigest() != named.file.sha256:
        raise CorruptData(f"{store.uri}/{named.key} does not match its checksum: {REMEDY}")
    if data:
        yield data


def _read(stream: object, size: int) -> bytes:
    """Return ``size`` bytes, fewer only at the end: a stream may give less than it is asked for."""
    parts = []
    while size and (data := stream.read(size)):  # type: ignore[attr-defined]
        parts.append(data)
        size -= len(data)
    return parts[0] if len(parts) == 1 else b"".join(parts)


REMEDY = (
    "the index is damaged; build it again with facepipe index build, or go back with "
    "facepipe index rollback"
)
