"""Chooses the faces of a gallery in the driver, and cuts them into shards to be made.

Read are ids, uris, labels and decisions, a shard of the dataset at a time, and never a vector.
What a worker needs of its shard is a file:

    INDEX/_work/<inputs16>/<shard>.parquet   WORK, by face_id
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from facepipe import ids
from facepipe.commits import ShardFile, write_parquet
from facepipe.errors import CorruptData, DatasetNotFound
from facepipe.gallery import (
    DECISION_COLUMNS,
    EMBEDDING_COLUMNS,
    FACE_COLUMNS,
    PICKED,
    Include,
    Selector,
    Verdicts,
)
from facepipe.index_manifest import NAME_CHARS
from facepipe.shards import Dataset
from facepipe.store import Store
from facepipe.suppressed import NOBODY, Suppressed

WORK_FOLDER = "_work"
BATCH_ROWS = 65536  # of DECISIONS, which is one file, at a time
Restore = Callable[[pa.Table], NDArray[np.bool_]]  # which rows (PICKED)
WORK = pa.schema([*PICKED, pa.field("file", pa.int32(), nullable=False)])  # place in Work.sources


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A shard to be made from a stretch of the dataset."""

    name: str
    rows: int
    key: str  # of its WORK
    sha256: str
    sources: tuple[ShardFile, ...]  # EMBEDDINGS

    @property
    def inputs(self) -> list[object]:
        """Return what its rows and vectors depend on."""
        return [self.sha256, [file.sha256 for file in self.sources]]


@dataclass(slots=True)
class Stretch:
    """A dataset's shards in their order, and which of their faces go into a gallery."""

    dataset: Dataset
    selector: Selector
    faces: list[ShardFile]
    embeddings: list[ShardFile]
    suppressed: Suppressed = NOBODY  # whom to leave out
    restore: Restore | None = None  # which rows of those are to come back
    names: set[str] = field(default_factory=set)  # of the people whose rows were noted
    restored: set[str] = field(default_factory=set)  # faces

    @property
    def dim(self) -> int:
        """Return D."""
        vector = self.dataset.read(self.embeddings[0], ["vector"], range(0)).column("vector")
        return int(vector.type.list_size)

    def tables(self) -> Iterator[pa.Table]:
        """Yield each shard's rows (PICKED)."""
        for shard in range(len(self.faces)):
            rows = self.selector.take(shard, *self._read(shard))
            yield rows.filter(pa.array(~self._left_out(rows))) if self.suppressed else rows

    @property
    def still_suppressed(self) -> Suppressed:
        """Return whom the gallery is to leave out from now on."""
        return self.suppressed.without(self.restored)

    def withhold(self) -> None:
        """Count those who are left out, which takes one more pass over the dataset."""
        for shard in range(len(self.faces) if self.suppressed else 0):
            rows = self.selector.take(shard, *self._read(shard))
            self.selector.withhold(shard, int(self._left_out(rows).sum()))

    def _left_out(self, rows: pa.Table) -> NDArray[np.bool_]:
        """Return which rows (PICKED) were deleted, and note those that are to come back."""
        mask = self.suppressed.mask(rows.column("face_id"))
        if self.restore is not None and mask.any():
            places = np.flatnonzero(mask)
            back = places[self.restore(rows.take(pa.array(places)))]
            self.restored.update(rows.column("face_id").take(pa.array(back)).to_pylist())
            mask[back] = False
        return mask

    def note(self, table: pa.Table) -> None:
        """Count the people of rows among those of the gallery."""
        people = pc.unique(table.column("identity_id")).to_pylist()
        self.names.update(name for name in people if name is not None)

    def _read(self, shard: int) -> tuple[pa.Table, pa.Table]:
        faces = self.dataset.read(self.faces[shard], FACE_COLUMNS)
        return faces, self.dataset.read(self.embeddings[shard], EMBEDDING_COLUMNS)


def look(
    dataset: Dataset,
    include: Include,
    *,
    decided: bool,
    suppressed: Suppressed = NOBODY,
    restore: Restore | None = None,
) -> Stretch:
    """Judge every face of a dataset. ``decided``: by its DECISIONS.

    suppressed: who was deleted and stays out; restore: which rows of theirs come back.

    Raises DatasetNotFound where there are no embeddings, StoreError where the tables do not
    belong together.
    """
    faces = {c.shard: f for c in dataset.commits("detect") for f in c.files if f.table == "faces"}
    embed = dataset.commits(dataset.step_of("embeddings"))
    embedded = {c.shard: f for c in embed for f in c.files if f.table == "embeddings"}
    if not embedded:
        raise DatasetNotFound(
            f"{dataset.uri} has no embeddings yet: run facepipe embed --out {dataset.uri} "
            "(or facepipe curate, which runs every step)"
        )
    verdicts = Verdicts.read(lambda: _decisions(dataset)) if decided else None
    stretch = Stretch(
        dataset,
        Selector(verdicts, include),
        list(faces.values()),
        [embedded[s] for s in faces],
        suppressed,
        restore,
    )
    for shard in range(len(faces)):
        stretch.selector.look(*stretch._read(shard))
    for shard in stretch.selector.looked():
        stretch.selector.settle(shard, *stretch._read(shard))
    stretch.withhold()
    return stretch


def _decisions(dataset: Dataset) -> Iterator[pa.Table]:
    for file in dataset.files("decisions"):
        try:
            with dataset.store.open(file.file) as stream, pq.ParquetFile(stream) as parquet:
                columns = list(DECISION_COLUMNS)
                for batch in parquet.iter_batches(BATCH_ROWS, columns=columns, use_threads=False):
                    yield pa.Table.from_batches([batch])
        except (OSError, pa.ArrowException) as error:
            raise CorruptData(
                f"{dataset.uri}/{file.file} is committed but cannot be read ({error}): run "
                f"facepipe verify {dataset.uri} --repair, then the same command again"
            ) from error


def cut(
    store: Store,
    inputs: str,
    stretch: Stretch,
    shard_rows: int,
    keep: Callable[[pa.Table], pa.Table] = lambda table: table,
) -> list[Work]:
    """Write the WORK of each shard: the dataset's shards in order, up to ``shard_rows``.

    ``keep`` chooses among the rows of a shard of the dataset. Added photos make new shards of
    the dataset, so that they leave the full ones before them alone.
    """
    made: list[Work] = []
    parts: list[tuple[int, pa.Table]] = []

    def flush() -> None:
        if parts:
            made.append(_written(store, inputs, len(made), parts, stretch.embeddings))
            parts.clear()

    for shard, table in enumerate(map(keep, stretch.tables())):
        if not len(table):
            continue
        stretch.note(table)
        if sum(len(part) for _, part in parts) + len(table) > shard_rows:
            flush()
        parts.append((shard, table))
    flush()
    return made


def _written(
    store: Store,
    inputs: str,
    number: int,
    parts: Iterable[tuple[int, pa.Table]],
    embeddings: list[ShardFile],
) -> Work:
    shards, tables = zip(*parts, strict=True)
    place = np.repeat(np.arange(len(tables), dtype=np.int32), [len(t) for t in tables])
    rows = pa.concat_tables(tables).append_column("file", pa.array(place))
    rows = rows.take(pc.sort_indices(rows.column("face_id")))
    data = write_parquet(rows.select(WORK.names), WORK)
    key = f"{WORK_FOLDER}/{inputs[:NAME_CHARS]}/{number:06d}.parquet"
    store.put(key, data)
    return Work(
        name=f"{number:06d}",
        rows=len(rows),
        key=key,
        sha256=ids.sha256_hex(data),
        sources=tuple(embeddings[shard] for shard in shards),
    )


def read_work(store: Store, work: Work, columns: list[str] | None = None) -> pa.Table:
    """Return a shard's WORK. Raises CorruptData where it is not what the driver wrote."""
    import io

    data = store.get(work.key)
    if ids.sha256_hex(data) != work.sha256:
        raise CorruptData(f"{store.uri}/{work.key} has changed: run the same command again")
    return pq.read_table(io.BytesIO(data), columns=columns, use_threads=False)
