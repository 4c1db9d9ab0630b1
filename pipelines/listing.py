"""Which photos a dataset has, in which shards: the list that every later run adds to.

A photo keeps its shard for good. New photos fill new shards, a changed photo changes the
key of its shard, and a photo that is no longer listed stays: its source may simply not be
one of tonight's. What could never be read, and now is gone or mended, leaves.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from facepipe.commits import write_parquet
from facepipe.errors import CorruptData
from facepipe.shards import Dataset
from facepipe.sources import Entry, path_of

_KEY = "_plan/listing.parquet"
_SCHEMA = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("mtime_ns", pa.int64(), nullable=False),
        pa.field("source_label", pa.string()),
        pa.field("problem", pa.string()),
        pa.field("shard", pa.string(), nullable=False),
    ]
)
_FEWEST, _MOST, _SHARDS = 4, 256, 24  # photos a shard, and shards aimed at for few photos

Shards = dict[str, list[Entry]]


def read_listing(dataset: Dataset) -> Shards:
    """Return the entries of each shard of earlier runs. Raises CorruptData."""
    if not dataset.store.exists(_KEY):
        return {}
    try:
        rows = pq.read_table(io.BytesIO(dataset.store.get(_KEY))).to_pylist()
        shards: Shards = {}
        for row in rows:
            shards.setdefault(row.pop("shard"), []).append(Entry(**row))
    except (pa.ArrowException, TypeError, KeyError) as error:
        raise CorruptData(
            f"{dataset.uri}/{_KEY} cannot be read ({error}): restore it from a copy, or start a "
            "new dataset with another --out"
        ) from error
    return shards


def write_listing(dataset: Dataset, shards: Shards) -> None:
    """Store the shards, unless they are stored already."""
    rows = [
        {
            "uri": e.uri,
            "bytes": e.bytes,
            "mtime_ns": e.mtime_ns,
            "source_label": e.source_label,
            "problem": e.problem,
            "shard": shard,
        }
        for shard, entries in shards.items()
        for e in entries
    ]
    data = write_parquet(pa.Table.from_pylist(rows, schema=_SCHEMA), _SCHEMA)
    if not dataset.store.exists(_KEY) or dataset.store.get(_KEY) != data:
        dataset.store.put(_KEY, data)


def extend(
    shards: Shards, entries: Sequence[Entry], shard_photos: int | None, *, drop_gone: bool = False
) -> Shards:
    """Return the shards with changed entries in place and new ones in new shards.

    With ``drop_gone`` entries leave whose file is no longer there.
    """
    now = {e.uri: e for e in entries}
    kept = {
        shard: [now.pop(e.uri, e) for e in old if e.uri in now or _stays(e, drop_gone)]
        for shard, old in shards.items()
    }
    new = [now[uri] for uri in sorted(now)]
    size = shard_photos or min(_MOST, max(_FEWEST, -(-len(new) // _SHARDS)))
    for start in range(0, len(new), size):
        kept[f"{len(kept):06d}"] = new[start : start + size]
    return kept


def _stays(entry: Entry, drop_gone: bool) -> bool:
    """Tell whether an entry that is not listed today keeps its row."""
    if entry.problem is not None:  # an unreadable folder that is readable or gone by now
        path = path_of(entry.uri)
        mended = os.path.isdir(path) and os.access(path, os.R_OK | os.X_OK)  # noqa: PTH112
        return not mended and not is_gone(entry)
    return not (drop_gone and is_gone(entry))


def is_gone(entry: Entry) -> bool:
    """Tell whether an entry's file is no longer there; one that may not be looked at is."""
    try:
        os.stat(path_of(entry.uri))  # noqa: PTH116
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
