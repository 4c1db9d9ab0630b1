"""The files of an index, opened: no byte is believed that the manifest does not vouch for.

Legend: N rows of a shard.
"""

from __future__ import annotations

import hashlib
import mmap
import shutil
from collections.abc import Iterator, Sequence
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
# Codes of shards are merged when a gallery is opened, at about two million rows a second, into
# parts of so many. To turn to a list costs as much as to look at 100 codes of it, in every part.
MERGE_ROWS, MERGE_LIST_CODES = 2**24, 1024
FREE_SHARE = 0.5  # of the temporary disk, which the merged codes may take
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

    merge: those of several shards in a temporary file, where there is room for it.
    """
    if manifest.template is None:
        return None
    record, shards = manifest.template, [s for s in manifest.shards if s.rows]
    with _opened(store, record.key) as stream:
        _check(stream, record.file, f"{store.uri}/{record.key}")
        template = read_template(stream.read(), record, manifest.embedding.dim)
    parts, first = [], 0
    full = max(MERGE_ROWS, MERGE_LIST_CODES * record.nlist) if merge else 0
    for group in _groups(shards, full, folder):
        paths = [_checked(store, s.key(CODES), s.files[CODES], folder, check) for s in group]
        rows, where = sum(shard.rows for shard in group), f"{store.uri}/{group[0].key(CODES)}"
        path = paths[0]
        if len(group) > 1:
            path, where = folder / f"{group[0].name}.{CODES}", store.uri
            firsts = accumulate((shard.rows for shard in group), initial=0)
            found = zip(paths, group, firsts, strict=False)
            lists = [Lists.of(p, template, shard.rows, row) for p, shard, row in found]
            with path.open("wb") as file:
                merge_lists(lists, template, file)
        index = read_codes(path, template, rows, check_ids=check == "all")
        parts.append(Part(first, index, where))
        first += rows
    return Codes.of(template, parts)


def _groups(shards: Sequence[Shard], rows: int, folder: Path) -> list[list[Shard]]:
    """Return shards in their order, in groups that are full as soon as they have so many rows.

    Each alone where the codes of all groups do not fit in the folder.
    """
    groups: list[list[Shard]] = []
    for shard in shards:
        if groups and sum(s.rows for s in groups[-1]) < rows:
            groups[-1].append(shard)
        else:
            groups.append([shard])
    size = sum(s.files[CODES].bytes for group in groups if len(group) > 1 for s in group)
    if size > FREE_SHARE * shutil.disk_usage(folder).free:
        return [[shard] for shard in shards]
    return groups


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
