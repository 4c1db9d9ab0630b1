"""The shards of an open gallery: their vectors, and the rows that say who they are.

A *row* here is a number over all shards, in the order of the manifest: the shard's first plus
the place in it. Legend: P rows that are asked for, F faces, D dimensions, N rows of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from facepipe.exact_scores import NO_ROW, Float16, Int64
from facepipe.gallery import GALLERY
from facepipe.id_keys import text_keys
from facepipe.index_filter import Filter
from facepipe.shard_rows import Names, ShardRows

Mask = NDArray[np.bool_]

IDENTITY = "identity_id"


@dataclass(frozen=True, slots=True)
class OpenShard:
    """One shard: row ``first + i`` of the gallery is vector i and row i of its table."""

    first: int
    vectors: Float16  # memory-mapped
    rows: ShardRows
    dead: Int64  # deleted places, rising

    def __len__(self) -> int:
        """Return its rows, the deleted ones too."""
        return len(self.vectors)


@dataclass(frozen=True, slots=True)
class Shards:
    """All shards of a gallery."""

    all: tuple[OpenShard, ...]
    dim: int
    living: Mask | None  # N; None where nothing is deleted
    _firsts: Int64 = field(repr=False)

    @classmethod
    def of(cls, shards: Sequence[OpenShard], dim: int) -> Shards:
        """Put shards together; each begins where the one before it ends."""
        living = None
        if any(len(shard.dead) for shard in shards):
            living = np.ones(sum(len(shard) for shard in shards), dtype=bool)
            for shard in shards:
                living[shard.first + shard.dead] = False
        firsts = np.array([shard.first for shard in shards], dtype=np.int64)
        return cls(tuple(shards), dim, living, firsts)

    def __len__(self) -> int:
        """Return N."""
        return sum(len(shard) for shard in self.all)

    def split(self, rows: Int64) -> Iterator[tuple[OpenShard, Int64, Int64]]:
        """Yield each shard that has some of the rows, which ones, and their places in it."""
        shard_P = np.searchsorted(self._firsts, rows, side="right") - 1
        # A shard without rows begins where the next one does, and the last of those is found.
        for number in np.unique(shard_P):
            which = np.flatnonzero(shard_P == number)
            yield self.all[number], which, rows[which] - self.all[number].first

    def gather(self, rows: Int64, out_PD: Float16) -> None:
        """Write the vectors of rows into ``out_PD`` (P x D)."""
        if len(self.all) == 1:
            np.take(self.all[0].vectors, rows, axis=0, out=out_PD, mode="clip")  # no copy between
            return
        shard_P = np.searchsorted(self._firsts, rows, side="right") - 1
        order = np.argsort(shard_P, kind="stable")
        places = rows[order] - self._firsts[shard_P[order]]
        ends = np.cumsum(np.bincount(shard_P, minlength=len(self.all))).tolist()
        by_shard_PD = np.empty_like(out_PD)
        for shard, start, end in zip(self.all, [0, *ends], ends, strict=False):
            if start < end:
                some = slice(start, end)
                np.take(shard.vectors, places[some], axis=0, out=by_shard_PD[some], mode="clip")
        back = np.empty(len(rows), np.int64)
        back[order] = np.arange(len(rows))
        np.take(by_shard_PD, back, axis=0, out=out_PD, mode="clip")

    def vectors(self, rows: Int64) -> Float16:
        """Return the vectors of rows (P x D)."""
        vectors_PD = np.empty((len(rows), self.dim), np.float16)
        self.gather(rows, vectors_PD)
        return vectors_PD

    def face_ids(self, rows: Int64) -> Names:
        """Return the face ids of rows as bytes."""
        width = max((shard.rows.face_ids.itemsize for shard in self.all), default=1)
        found = np.zeros(len(rows), f"S{width}")
        for shard, which, places in self.split(rows):
            found[which] = shard.rows.face_ids[places]
        return found

    def table(self, rows: Int64) -> pa.Table:
        """Return the columns of GALLERY for rows, in the order they are asked for."""
        parts = list(self.split(rows))
        if not parts:
            return GALLERY.empty_table()
        table = pa.concat_tables([shard.rows.take(places) for shard, _, places in parts])
        order = np.argsort(np.concatenate([which for _, which, _ in parts]))
        return table.take(pa.array(order))

    def mask(self, where: Filter) -> Mask:
        """Return which rows fulfil a filter (N), deleted ones too. Raises UsageError."""
        where.need_columns(GALLERY)
        return np.concatenate([np.zeros(0, bool), *(s.rows.mask(where) for s in self.all)])

    def rows_of(self, face_ids: Sequence[str]) -> Int64:
        """Return the living row of each face, NO_ROW where there is none."""
        wanted = np.array([face.encode() for face in face_ids] or [b""])
        found = np.full(len(wanted), NO_ROW)
        for shard in self.all:
            known = shard.rows.face_ids
            places = np.searchsorted(known, wanted)
            inside = np.flatnonzero(places < len(known))
            inside = inside[known[places[inside]] == wanted[inside]]
            rows = shard.first + places[inside]
            alive = np.ones(len(rows), bool) if self.living is None else self.living[rows]
            found[inside[alive]] = rows[alive]
        return found[: len(face_ids)]

    def identities(self) -> tuple[NDArray[np.int32], int]:
        """Return a number for each row's identity (N; -1: nobody known), and how many there are."""
        codes, number_of = np.full(len(self), -1, np.int32), dict[str, int]()
        done = 0
        for shard in self.all:
            for part in shard.rows.parts([IDENTITY]):
                encoded = pc.dictionary_encode(part.column(IDENTITY).combine_chunks())
                names = encoded.dictionary.to_pylist()
                numbers = [number_of.setdefault(name, len(number_of)) for name in names]
                local = encoded.indices.fill_null(len(numbers)).to_numpy()
                codes[done : done + len(part)] = np.array([*numbers, -1], np.int32)[local]
                done += len(part)
        return codes, len(number_of)

    def keys(self, salt: int) -> NDArray[np.uint64]:
        """Return a hash of each row's face id (N), that of `facepipe.index_sample`."""
        parts = (part.column("face_id") for s in self.all for part in s.rows.parts(["face_id"]))
        keys = [text_keys(part, salt) for part in parts]
        return np.concatenate([np.zeros(0, np.uint64), *keys])
