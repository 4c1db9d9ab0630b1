"""What a dataset's faces change in a gallery: which rows stay, and which are new or gone.

Rows are compared by 64-bit keys, so that memory holds some 28 bytes a row and no id. Legend:
N living rows of the gallery, F faces of one shard of the dataset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from facepipe.errors import CorruptData
from facepipe.gallery import GALLERY, SALTS, people_of
from facepipe.id_keys import UInt64, among, float_keys, joined, text_keys
from facepipe.neighbors import Float32

Int64 = NDArray[np.int64]
Part = tuple[int, Int64, pa.Table]  # shard, places in it, rows of GALLERY


def boxes(rows: pa.Table) -> Float32:
    """Return the boxes of rows as (F, 4)."""
    column = rows.column("box_xyxy_px").combine_chunks()
    flat = column.values.slice(column.offset * 4, len(column) * 4)
    return np.asarray(flat, dtype=np.float32).reshape(-1, 4)


def row_keys(rows: pa.Table) -> UInt64:
    """Return a key of each row of GALLERY, all its columns together."""
    texts = (text_keys(rows.column(n)) for n in GALLERY.names if n != "box_xyxy_px")
    return joined(*texts, float_keys(boxes(rows)))


@dataclass(slots=True)
class Indexed:
    """The living rows of a gallery by the key of their face, and which of them were seen."""

    salt: int
    keys: UInt64  # rising
    rows: UInt64  # row_keys
    shard: NDArray[np.int32]
    place: Int64
    seen: NDArray[np.bool_]

    @classmethod
    def read(cls, parts: Callable[[], Iterable[Part]]) -> Indexed:
        """Take in the rows of all shards, again with other keys where two are equal.

        Raises CorruptData where a face is in the gallery twice.
        """
        for salt in range(SALTS):
            found = cls._read(parts(), salt)
            if not (found.keys[1:] == found.keys[:-1]).any():
                return found
        raise CorruptData(
            "a face is in the gallery twice: run facepipe index verify, then build it again"
        )

    @classmethod
    def _read(cls, parts: Iterable[Part], salt: int) -> Indexed:
        keys, rows = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)]
        shards, places = [np.empty(0, np.int32)], [np.empty(0, np.int64)]
        for shard, place, table in parts:
            keys.append(text_keys(table.column("face_id"), salt))
            rows.append(row_keys(table))
            shards.append(np.full(len(place), shard, np.int32))
            places.append(place)
        joined_keys = np.concatenate(keys)
        order = np.argsort(joined_keys, kind="stable")
        return cls(
            salt,
            joined_keys[order],
            np.concatenate(rows)[order],
            np.concatenate(shards)[order],
            np.concatenate(places)[order],
            np.zeros(len(order), dtype=bool),
        )

    def __len__(self) -> int:
        """Return N."""
        return len(self.keys)

    def new(self, table: pa.Table) -> pa.Table:
        """Return the rows that the gallery does not have just so, and note the others as seen."""
        places_F = among(text_keys(table.column("face_id"), self.salt), self.keys)
        same_F = places_F >= 0
        same_F[same_F] = self.rows[places_F[same_F]] == row_keys(table)[same_F]
        self.seen[places_F[same_F]] = True
        return table.filter(pa.array(~same_F))

    def gone(self, shards: int) -> list[Int64]:
        """Return, for each shard, the places of the rows that were not seen."""
        unseen = np.flatnonzero(~self.seen)
        shard, place = self.shard[unseen], self.place[unseen]
        return [np.sort(place[shard == number]) for number in range(shards)]


SAME_BOX = 0.5  # intersection over union: a detector run again finds the same face so


@dataclass(slots=True)
class Named:
    """The living faces of a gallery by key, with their boxes and people: what a new one keeps."""

    keys: UInt64  # rising
    boxes: Float32  # N x 4
    people: NDArray[np.int32]  # place in names; -1: nobody
    names: pa.Array
    taken: int = 0

    @classmethod
    def read(cls, parts: Iterable[Part]) -> Named:
        """Take in the rows of all shards."""
        number: dict[str, int] = {}
        keys, found, people = [np.empty(0, np.uint64)], [np.empty((0, 4), np.float32)], []
        for _, _, table in parts:
            keys.append(text_keys(table.column("face_id")))
            found.append(boxes(table))
            people.append(people_of(table.column("identity_id"), number))
        all_keys = np.concatenate(keys)
        order = np.argsort(all_keys, kind="stable")
        codes = np.concatenate([np.empty(0, np.int32), *people])
        names = pa.array(list(number), pa.string())
        return cls(all_keys[order], np.concatenate(found)[order], codes[order], names)

    def keep(self, table: pa.Table) -> pa.Table:
        """Return the rows of faces that the gallery has, under the names they have there.

        A face of the same id in another place of its photo is another face: ids are by rank.
        """
        places_F = among(text_keys(table.column("face_id")), self.keys)
        rows = np.flatnonzero(places_F >= 0)
        same = overlaps(boxes(table)[rows], self.boxes[places_F[rows]]) >= SAME_BOX
        rows = rows[same]
        people = self.people[places_F[rows]]
        self.taken += len(rows)
        kept = table.take(pa.array(rows))
        at = kept.schema.get_field_index("identity_id")
        identity = self.names.take(pa.array(people, mask=people < 0))
        return kept.set_column(at, kept.schema.field(at), identity)


def overlaps(first_F4: Float32, second_F4: Float32) -> Float32:
    """Return the intersection over union of boxes (x1, y1, x2, y2), pair by pair."""
    low = np.maximum(first_F4[:, :2], second_F4[:, :2])
    high = np.minimum(first_F4[:, 2:], second_F4[:, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=1)
    areas = [np.prod(np.maximum(b[:, 2:] - b[:, :2], 0), axis=1) for b in (first_F4, second_F4)]
    whole = areas[0] + areas[1] - shared
    shares: Float32 = np.divide(shared, whole, out=np.ones_like(whole), where=whole > 0)
    return shares
