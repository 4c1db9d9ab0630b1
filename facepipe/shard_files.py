"""The files of an index, opened: no byte is believed that the manifest does not vouch for.

Legend: N rows of a shard.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from facepipe.errors import CorruptData
from facepipe.exact_scores import Int64
from facepipe.gallery_codes import Codes, Part
from facepipe.index_codes import read_codes
from facepipe.index_manifest import (
    CODES,
    ROWS,
    VECTORS,
    IndexFile,
    Manifest,
    Shard,
)
from facepipe.index_template import read_template
from facepipe.merged_lists import Lists, merge_lists
from facepipe.open_shards import OpenShard
from facepipe.shard_rows import ShardRows
from facepipe.store import Store
from facepipe.tombstones import decode_rows
from facepipe.vector_file import open_vectors

Check = Literal["all", "sizes"]
HASH_BYTES = 2**20
# Codes of so many rows are merged when a gallery is opened, at about two million a second; with
# more, shards are planned with 64 codes to a list.
MERGE_ROWS = 2**24
_REMEDY = "the index is damaged; build it again with facepipe index build"


def verify_shard(store: Store, shard: Shard) -> None:
    """Check every file of a shard by size and hash. Raises CorruptData, naming the file."""
    files = {shard.key(name): file for name, file in shard.files.items()}
    if shard.tombstones is not None and shard.tombstones_key is not None:
        files[shard.tombstones_key] = shard.tombstones
    for key, file in files.items():
        verify_file(store, key, file)


def verify_file(store: Store, key: str, file: IndexFile) -> None:
    """Check a file by size and hash. Raises CorruptData, naming it."""
    with _opened(store, key) as stream:
        _check(stream, file, f"{store.uri}/{key}")


def open_shard(
    store: Store, shard: Shard, dim: int, first: int, folder: Path, check: Check
) -> OpenShard:
    """Open the vectors and rows of a shard.

    folder: where files that come over the network are put; it may go as soon as all is open.
    Raises CorruptData, naming the file.
    """
    where = f"{store.uri}/{shard.key(ROWS)}"
    path = _checked(store, shard.key(VECTORS), shard.files[VECTORS], folder, check)
    mapped = open_vectors(path, shard.rows, dim)
    if CODES in shard.files and isinstance(mapped.base, mmap.mmap):
        # Few rows are read, here and there: no page beside them.
        mapped.base.madvise(mmap.MADV_RANDOM)
    rows = _checked(store, shard.key(ROWS), shard.files[ROWS], folder, check)
    return OpenShard(
        first=first,
        vectors=np.asarray(mapped),
        rows=ShardRows(rows, shard.rows, where),
        dead=_dead_rows(store, shard),
    )


def open_codes(
    store: Store, manifest: Manifest, folder: Path, check: Check, merge: bool
) -> Codes | None:
    """Open the codes of all shards; None for a flat gallery. Raises CorruptData.

    merge: those of several shards in a temporary file, up to MERGE_ROWS.
    """
    if manifest.template is None:
        return None
    record, shards = manifest.template, [s for s in manifest.shards if s.rows]
    with _opened(store, record.key) as stream:
        _check(stream, record.file, f"{store.uri}/{record.key}")
        template = read_template(stream.read(), record, manifest.embedding.dim)
    firsts = accumulate((shard.rows for shard in shards), initial=0)
    paths = [_checked(store, s.key(CODES), s.files[CODES], folder, check) for s in shards]
    rows = sum(shard.rows for shard in shards)
    if merge and len(shards) > 1 and rows <= MERGE_ROWS:
        found = zip(paths, shards, firsts, strict=False)
        lists = [Lists.of(path, template, shard.rows, first) for path, shard, first in found]
        merged = folder / CODES
        with merged.open("wb") as file:
            merge_lists(lists, template, file)
        index = read_codes(merged, template, rows, check_ids=check == "all")
        return Codes.of(template, [Part(0, index, store.uri)])
    parts = []
    for path, shard, first in zip(paths, shards, firsts, strict=False):
        index = read_codes(path, template, shard.rows, check_ids=check == "all")
        parts.append(Part(first, index, f"{store.uri}/{shard.key(CODES)}"))
    return Codes.of(template, parts)


def _dead_rows(store: Store, shard: Shard) -> Int64:
    """Return the places that have been deleted, rising."""
    if shard.tombstones is None or shard.tombstones_key is None:
        return np.zeros(0, np.int64)
    with _opened(store, shard.tombstones_key) as stream:
        return decode_rows(stream.read(), shard, f"{store.uri}/{shard.tombstones_key}")


# -- bytes -------------------------------------------------------------------------------


def _checked(store: Store, key: str, file: IndexFile, folder: Path, check: Check) -> Path:
    """Return a key as a local file whose bytes (or size alone) have been checked.

    What comes over the network is hashed as it comes, once, whatever ``check`` says.
    """
    where = f"{store.uri}/{key}"
    with _opened(store, key) as stream:
        if store.local is None:
            path = folder / file.sha256
            with path.open("wb") as copy:
                _check(stream, file, where, copy)
            return path
        if check == "all":
            _check(stream, file, where)
        else:
            _check_size(stream, file, where)
    return store.local / key


@contextmanager
def _opened(store: Store, key: str) -> Iterator[BinaryIO]:
    try:
        stream = store.open(key)
    except OSError as error:
        why = error.strerror or "it is missing"
        raise CorruptData(f"{store.uri}/{key} cannot be read ({why}): {_REMEDY}") from error
    with stream:
        yield stream


def _check_size(stream: BinaryIO, file: IndexFile, where: str) -> None:
    size = stream.seek(0, 2)
    if size != file.bytes:
        raise CorruptData(f"{where} has {size} bytes and not {file.bytes}: {_REMEDY}")
    stream.seek(0)


def _check(stream: BinaryIO, file: IndexFile, where: str, copy: BinaryIO | None = None) -> None:
    """Compare a stream with its manifest, the size before the bytes; copy and rewind it."""
    _check_size(stream, file, where)
    digest = hashlib.sha256()
    while block := stream.read(HASH_BYTES):
        digest.update(block)
        if copy is not None:
            copy.write(block)
    if digest.hexdigest() != file.sha256:
        raise CorruptData(f"{where} does not match its checksum: {_REMEDY}")
    if copy is None:  # a copy is read instead
        stream.seek(0)
