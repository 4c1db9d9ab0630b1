"""Which inputs a dataset has, in which shards: the list that every later run adds to.

A photo keeps its shard for good. New photos fill new shards, a changed photo changes the
key of its shard, and a photo that is no longer listed stays: its source may simply not be
one of tonight's. What could never be read, and now is gone or mended, leaves. A container
has a shard to itself, which `pipelines.members` opens into the shards of its photos.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq

from facepipe.commits import write_parquet
from facepipe.errors import CorruptData
from facepipe.object_client import OBJECT_SCHEMES
from facepipe.shards import Dataset
from facepipe.source_kinds import LIST
from facepipe.sources import Entry, open_file, path_of

_KEY = "_plan/listing.parquet"
_SCHEMA = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("source_label", pa.string()),
        pa.field("problem", pa.string()),
        pa.field("kind", pa.string()),  # of a container
        pa.field("shard", pa.string(), nullable=False),
        pa.field("generation", pa.int32(), nullable=False),  # the run that brought the shard
    ]
)
# Photos a shard, and how many shards are aimed at: few photos are shared out among all workers,
# but not in shards of less than a second, since every later run opens their files; many make
# shards of about five seconds, which is what a death costs and what a worker holds; from a
# million photos on shards grow instead, for files that a table's readers can still list.
_FEWEST, _MOST, _SHARDS = 16, 64, 24
_MOST_EVER, _MANY_SHARDS = 256, 16_384
_LAST_SHARDS, _LAST_PARTS = 2, 4  # the last are cut in parts: workers end at about one time


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The inputs of a dataset by shard, and which run each shard came with."""

    shards: dict[str, list[Entry]] = field(default_factory=dict)
    generation: dict[str, int] = field(default_factory=dict)

    def containers(self) -> dict[str, Entry]:
        """Return the containers by shard."""
        return {s: e[0] for s, e in self.shards.items() if e and e[0].kind is not None}

    def photos(self) -> dict[str, list[Entry]]:
        """Return the shards of photos that are files of their own."""
        return {s: e for s, e in self.shards.items() if e and e[0].kind is None}


def read_listing(dataset: Dataset) -> Listing:
    """Return the inputs of earlier runs. Raises CorruptData."""
    if not dataset.has(_KEY):
        return Listing()
    listing = Listing()
    try:
        rows = pq.read_table(io.BytesIO(dataset.store.get(_KEY))).to_pylist()
        for row in rows:
            shard = row.pop("shard")
            listing.generation[shard] = row.pop("generation")
            listing.shards.setdefault(shard, []).append(Entry(**row))
    except (pa.ArrowException, TypeError, KeyError) as error:
        raise CorruptData(
            f"{dataset.uri}/{_KEY} cannot be read ({error}): it is damaged, or was made by another "
            "version of facepipe. Restore it from a copy, or start a new dataset with another "
            "--out; the tables that are there can still be read"
        ) from error
    return listing


def write_listing(dataset: Dataset, listing: Listing) -> None:
    """Store the inputs, unless they are stored already."""
    named = [(e, shard) for shard, entries in listing.shards.items() for e in entries]
    # Column by column: rows as dictionaries would be the most that the driver ever holds.
    columns = [
        pa.array([_value(e, shard, listing, column.name) for e, shard in named], column.type)
        for column in _SCHEMA
    ]
    dataset.put(_KEY, write_parquet(pa.Table.from_arrays(columns, schema=_SCHEMA), _SCHEMA))


def _value(entry: Entry, shard: str, listing: Listing, column: str) -> str | int | None:
    if column == "shard":
        return shard
    if column == "generation":
        return listing.generation[shard]
    value: str | int | None = getattr(entry, column)
    return value


def extend(
    listing: Listing, entries: Sequence[Entry], shard_photos: int | None, *, drop_gone: bool = False
) -> Listing:
    """Return the listing with changed entries in place and new ones in new shards.

    With ``drop_gone`` entries leave whose file is no longer there.
    """
    now = {e.uri: e for e in entries}
    shards = {
        shard: [kept for e in old if (kept := _tonight(e, now, drop_gone)) is not None]
        for shard, old in listing.shards.items()
    }
    new = [now[uri] for uri in sorted(now)]
    generation = dict(listing.generation)
    next_generation = max(generation.values(), default=-1) + 1
    loose = [e for e in new if e.kind is None]
    rest = iter(loose)
    groups = [list(islice(rest, size)) for size in _sizes(len(loose), shard_photos)]
    first = max((int(shard) for shard in shards), default=-1) + 1
    shards = {shard: entries for shard, entries in shards.items() if entries}
    for number, group in enumerate([*groups, *([e] for e in new if e.kind is not None)], first):
        name = f"{number:06d}"
        shards[name], generation[name] = group, next_generation
    return Listing(shards=shards, generation=generation)


def shard_rows(photos: int, asked: int | None) -> int:
    """Return how many photos a shard has."""
    few = min(_MOST, max(_FEWEST, -(-photos // _SHARDS)))
    return asked or max(few, min(_MOST_EVER, -(-photos // _MANY_SHARDS)))


def _sizes(photos: int, asked: int | None) -> list[int]:
    """Return how many photos each new shard has; without a wish the last ones are smaller."""
    size = shard_rows(photos, asked)
    small = size if asked else max(_FEWEST, size // _LAST_PARTS)
    whole = max(0, photos // size - _LAST_SHARDS) if small < size else photos // size
    full, rest = divmod(photos - whole * size, small)
    return [size] * whole + [small] * full + [rest] * (rest > 0)


def _tonight(old: Entry, now: dict[str, Entry], drop_gone: bool) -> Entry | None:
    """Return the entry as it is tonight, taken out of ``now``; None where it leaves its shard.

    A file that turns from a photo into a container, or back, comes as a new one: a shard
    holds either photos or one container. A container that cannot be looked into tonight, and
    a list of which only the folder is listed, stay what they were.
    """
    new = now.get(old.uri)
    if new is None:
        return old if _stays(old, drop_gone) else None
    if old.kind is not None and new.problem is not None:
        del now[old.uri]
        return old
    if old.kind == LIST and new.kind is None:
        return replace(now.pop(old.uri), kind=LIST)
    return now.pop(old.uri) if old.kind == new.kind else None


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
        if entry.uri.startswith(OBJECT_SCHEMES):
            open_file(entry.uri).close()
        else:
            os.stat(path_of(entry.uri))  # noqa: PTH116
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
