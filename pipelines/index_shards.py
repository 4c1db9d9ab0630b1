"""Writes the shards of a gallery: from a dataset's vectors, or from those of older shards.

A shard's rows are by face_id, and its vectors come in the order of their sources: they are laid
out in a nameless file, so that memory holds a block of them. Then they are checked, hashed and
encoded, which gives the shard and the file their names. Legend: N rows of a shard, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from facepipe import ids
from facepipe.commits import write_parquet
from facepipe.errors import CorruptData
from facepipe.gallery import GALLERY
from facepipe.index_codes import CODES_VERSION, ShardCodes
from facepipe.index_manifest import (
    CODES,
    INDEX_VERSION,
    ROWS,
    VECTORS,
    IndexFile,
    Shard,
    Template,
    shard_name,
)
from facepipe.index_template import Device, TrainedTemplate, read_template
from facepipe.neighbors import vector_matrix
from facepipe.shard_rows import GROUP_ROWS
from facepipe.shards import Dataset
from facepipe.store import Store
from facepipe.tombstones import living
from facepipe.vector_file import VectorWriter
from pipelines.index_files import read_dead, read_rows, read_template_bytes, vector_blocks
from pipelines.index_select import Work, read_work
from pipelines.runners.process import give_memory_back

BLOCK_ROWS = 8192  # checked, hashed and encoded at a time: 16 MB of float32 at 512 dimensions

Float16 = NDArray[np.float16]
Int64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """A shard to be made: of a stretch of the dataset, or of the living rows of older shards."""

    dim: int
    template: Template | None
    work: Work | None = None
    shards: tuple[Shard, ...] = ()

    @property
    def rows(self) -> int:
        """Return N."""
        return self.work.rows if self.work else sum(s.rows - s.dead for s in self.shards)

    @property
    def inputs(self) -> str:
        """Return a digest of all that the shard's bytes depend on."""
        code = None if self.template is None else [CODES_VERSION, self.template.file.sha256]
        older = [
            [s.name, None if s.tombstones is None else s.tombstones.sha256] for s in self.shards
        ]
        source = self.work.inputs if self.work else older
        return ids.digest([INDEX_VERSION, self.dim, code, source])


def make_shard(store: Store, dataset: Dataset | None, making: Making, device: Device) -> Shard:
    """Write the files of a shard; what it is follows from ``making`` alone.

    Raises CorruptData where a source is not what its record says or holds no unit vectors.
    """
    with store.scratch(_vector_bytes(making.rows, making.dim)) as file:
        vectors_ND = _mapped(file, making.rows, making.dim)
        if making.work is not None and dataset is not None:
            _lay_out(store, dataset, making.work, vectors_ND)
            give_memory_back()  # what face ids took
            rows = read_work(store, making.work, GALLERY.names)
        else:
            rows = _from_shards(store, making.shards, vectors_ND)
        data = write_parquet(rows, GALLERY, GROUP_ROWS)
        del rows  # three times its file, while the vectors are encoded
        give_memory_back()
        return _written(store, making, data, (file, vectors_ND), device)


@contextmanager
def room(store: Store, rows: int, dim: int) -> Iterator[Float16]:
    """Give room for vectors (rows x D) that the system can write out where memory is short."""
    with store.scratch(_vector_bytes(rows, dim)) as file:
        yield _mapped(file, rows, dim)


def _vector_bytes(rows: int, dim: int) -> int:
    return rows * dim * np.dtype(np.float16).itemsize


def _mapped(file: BinaryIO, rows: int, dim: int) -> Float16:
    if not rows:  # which cannot be mapped
        return np.empty((0, dim), np.float16)
    return np.memmap(file, np.float16, "w+", shape=(rows, dim))


def _lay_out(store: Store, dataset: Dataset, work: Work, vectors_ND: Float16) -> None:
    """Lay out the vectors of a stretch of the dataset in the order of its rows."""
    rows = read_work(store, work, ["face_id", "file", "row"])
    file_N, row_N = np.asarray(rows.column("file")), np.asarray(rows.column("row"))
    by_file = np.lexsort((row_N, file_N))
    ends = np.searchsorted(file_N[by_file], np.arange(len(work.sources) + 1))
    face_id = rows.column("face_id").combine_chunks()  # once, and not for each file again
    for place, source in enumerate(work.sources):
        own = by_file[ends[place] : ends[place + 1]]
        table = dataset.read(source, ["face_id", "vector"])
        found, vectors_RD = table.column("face_id").combine_chunks(), vector_matrix(table)
        if len(own) < len(table):
            found, vectors_RD = found.take(pa.array(row_N[own])), vectors_RD[row_N[own]]
        if not found.equals(face_id.take(pa.array(own))):
            raise CorruptData(
                f"{dataset.uri}/{source.file} does not have the faces in their order: run "
                f"facepipe verify {dataset.uri} --repair, then the same command again"
            )
        vectors_ND[own] = vectors_RD


def _from_shards(store: Store, shards: Sequence[Shard], vectors_ND: Float16) -> pa.Table:
    """Lay out the living vectors of shards, and return their rows."""
    alive = [living(shard, read_dead(store, shard)) for shard in shards]
    tables = [
        read_rows(store, shard).filter(pa.array(alive_S))
        for shard, alive_S in zip(shards, alive, strict=True)
    ]
    rows = pa.concat_tables(tables) if tables else GALLERY.empty_table()
    order = np.asarray(pc.sort_indices(rows.column("face_id"))).astype(np.int64)
    place_N = np.empty(len(order), np.int64)
    place_N[order] = np.arange(len(order))
    done = 0
    for shard, alive_S in zip(shards, alive, strict=True):
        for start, block in vector_blocks(store, shard, vectors_ND.shape[1]):
            fit = block[alive_S[start : start + len(block)]]
            vectors_ND[place_N[done : done + len(fit)]] = fit
            done += len(fit)
    return rows.take(pa.array(order))


def _written(
    store: Store, making: Making, data: bytes, laid_out: tuple[BinaryIO, Float16], device: Device
) -> Shard:
    """Check, hash and encode a shard, and write its files once that has given it its name.

    data: its rows, as they are stored; laid_out: its vectors, and the file they are in.
    """
    file, vectors_ND = laid_out
    files = {ROWS: IndexFile(bytes=len(data), sha256=ids.sha256_hex(data))}
    with store.scratch() as lists:
        files[VECTORS], codes = _encoded(store, making, vectors_ND, device)
        if codes is not None:
            files[CODES] = codes.write(lists)
        shard = Shard(
            name=shard_name(files), rows=len(vectors_ND), files=files, inputs=making.inputs
        )
        # Also where they are there already: they may be damaged.
        store.adopt(shard.key(VECTORS), file)
        if codes is not None:
            store.adopt(shard.key(CODES), lists)
        store.put(shard.key(ROWS), data)
    return shard


def _encoded(
    store: Store, making: Making, vectors_ND: Float16, device: Device
) -> tuple[IndexFile, ShardCodes | None]:
    """Check and hash the vectors, and encode them."""
    writer = VectorWriter(cast(BinaryIO, Nowhere()), making.dim)
    codes = None
    if making.template is not None:
        template = open_template(store, making.template, making.dim)
        codes = ShardCodes(template, len(vectors_ND), device=device)
    for block in _blocks(vectors_ND):
        writer.add(block)
        if codes is not None:
            codes.add(block)
    return writer.close(), codes


_OPEN: dict[str, TrainedTemplate] = {}  # one, by its hash: a worker makes many shards with it


def open_template(store: Store, template: Template, dim: int) -> TrainedTemplate:
    """Return a template, opened once in this process. Raises CorruptData."""
    if template.file.sha256 not in _OPEN:
        opened = read_template(read_template_bytes(store, template), template, dim)
        _OPEN.clear()
        _OPEN[template.file.sha256] = opened
    return _OPEN[template.file.sha256]


class Nowhere:
    """A stream for who only wants the hash."""

    def write(self, data: bytes) -> int:
        """Take bytes."""
        return len(data)


def _blocks(vectors_ND: Float16) -> Iterator[Float16]:
    for start in range(0, len(vectors_ND), BLOCK_ROWS):
        yield np.asarray(vectors_ND[start : start + BLOCK_ROWS])
