"""Stored tables: shards, the records that commit them, and the dataset they make up.

    DATASET/
      photos/ faces/ embeddings/<model>/ duplicates/ decisions/   <shard>-<sha8>.parquet
      members/                          what lies in archives and other containers
      by_label/                         vectors in the order of labels, for clean
      _plan/ _commits/ MANIFEST.json    see facepipe.ledger

A shard task is a pure function of its inputs, and its *key* is a digest of them. A step
commits all the tables it writes in one record (docs/adr/0004).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from facepipe.commits import ShardFile
from facepipe.errors import CorruptData, DatasetNotFound, StoreError, UsageError
from facepipe.half_pages import read_groups, take_rows
from facepipe.ledger import MANIFEST, Ledger
from facepipe.neighbors import vector_matrix
from facepipe.store import open_store

if TYPE_CHECKING:
    import pyarrow.dataset as pads

Float16 = NDArray[np.float16]
Int64 = NDArray[np.int64]

OWN_ENTRIES = {"_lock", "_lease.json", "_plan", "_tmp", "_commits"}  # left by any stopped run
CURRENT_MODEL = "_plan/embed.json"  # whose vectors readers get where they name no model
STEP_OF_TABLE = {
    "photos": "detect",
    "faces": "detect",
    "embeddings": "embed",
    "duplicates": "dedup",
    "clusters": "cluster",
    "cluster_pairs": "cluster",
    "decisions": "clean",
    "label_pairs": "clean",
    "members": "members",
    "overlaps": "overlap",
    "overlap_identities": "overlap",
    "by_label": "by_label",
}


class Dataset(Ledger):
    """The tables under one folder or prefix, as the commit records have them."""

    def require_embeddings(self, model: str) -> None:
        """Raise StoreError unless a model's vectors are those of the faces there are now."""
        step = self.step_of("embeddings", model)
        self.require("detect", step)
        faces = {c.shard: f.sha256 for c in self.commits("detect") for f in c.files[1:]}
        embedded = {c.shard: c.facts.get("faces") for c in self.commits(step)}
        if faces != embedded:
            raise StoreError(
                f"the faces of {self.uri} have changed since they were embedded: run facepipe "
                f"embed --out {self.uri} again"
            )

    def step_of(self, table: str, model: str | None = None) -> str:
        """Return the step that writes a table. Raises DatasetNotFound for an unknown table."""
        if table not in STEP_OF_TABLE:
            raise DatasetNotFound(f"no table {table!r}: there are {', '.join(STEP_OF_TABLE)}")
        if table != "embeddings":
            return STEP_OF_TABLE[table]
        model = model or self.current_model()
        return f"embed-{model[:12]}"

    def is_embedded(self) -> bool:
        """Return whether an embed has begun."""
        return self.has(CURRENT_MODEL)

    def current_model(self) -> str:
        """Return the model_id of the last embed run that has finished, or of the first one.

        Raises DatasetNotFound before the first.
        """
        if not self.is_embedded():
            raise DatasetNotFound(
                f"{self.uri} has no embeddings yet: run facepipe embed --out {self.uri}"
            )
        return str(json.loads(self.store.get(CURRENT_MODEL))["model_id"])

    def set_current_model(self, model_id: str) -> None:
        """Make a model's embeddings the ones that readers get by default."""
        data = (json.dumps({"model_id": model_id}) + "\n").encode()
        self.put(CURRENT_MODEL, data)

    def files(self, table: str, model: str | None = None) -> list[ShardFile]:
        """Return the committed files of a table, in shard order."""
        commits = self.commits(self.step_of(table, model))
        return [f for c in commits for f in c.files if f.table == table]

    def table(
        self,
        name: str,
        columns: Sequence[str] | None = None,
        model: str | None = None,
        *,
        partial: bool = False,
    ) -> pa.Table:
        """Return a table in memory, in shard order, rows by id within a shard.

        Raises DatasetNotFound where its step has not committed anything, StoreError where it
        has not finished (``partial`` returns what there is), UsageError for an unknown
        column, CorruptData where a file is missing or is not what its record says.
        """
        files = self._some_files(name, model, partial)
        return pa.concat_tables([self.read(f, columns) for f in files])

    def scan(self, name: str, model: str | None = None, *, partial: bool = False) -> pads.Dataset:
        """Return a table as a pyarrow dataset, to be filtered and streamed; as `table`."""
        import pyarrow.dataset as pads

        files = [f.file for f in self._some_files(name, model, partial)]
        return pads.dataset(files, format="parquet", filesystem=self.store.filesystem())

    def read(
        self,
        file: ShardFile,
        columns: Sequence[str] | None = None,
        rows: range | None = None,
    ) -> pa.Table:
        """Return one committed file, or the row groups of it that hold ``rows``, cut to them.

        Raises CorruptData.
        """
        with self._parquet(file) as (stream, parquet):
            unknown = set(columns or ()) - set(parquet.schema_arrow.names)
            if unknown:
                raise UsageError(
                    f"{file.table} has no column {', '.join(sorted(unknown))}: it has "
                    f"{', '.join(parquet.schema_arrow.names)}"
                )
            return _read_rows(stream, parquet, columns, rows, far=self.store.local is None)

    def vectors(self, file: ShardFile, rows_R: Int64) -> Float16:
        """Return some vectors of a committed file (R x D), whose rows rise; null: anything.

        On a disk no others are read. Raises CorruptData.
        """
        if self.store.local is None:
            return vector_matrix(self.read(file, ["vector"]))[rows_R]
        with self._parquet(file) as (stream, parquet):
            return take_rows(stream, parquet, "vector", rows_R)

    @contextmanager
    def _parquet(self, file: ShardFile) -> Iterator[tuple[BinaryIO, pq.ParquetFile]]:
        """Open a committed file, and give what is wrong with it a remedy."""
        # Reading ahead, all columns in few requests, is for far stores; here it costs a quarter.
        ahead = self.store.local is None
        try:
            with (
                self.store.open(file.file) as stream,
                pq.ParquetFile(stream, pre_buffer=ahead) as parquet,
            ):
                total = parquet.metadata.num_rows
                if total != file.rows:
                    raise CorruptData(
                        f"{self.uri}/{file.file} has {total} rows, its record says {file.rows}: "
                        f"run facepipe verify {self.uri} --repair"
                    )
                yield stream, parquet
        except (OSError, pa.ArrowException) as error:
            raise CorruptData(
                f"{self.uri}/{file.file} is committed but cannot be read ({error}): run "
                f"facepipe verify {self.uri} --repair, then the same command again"
            ) from error

    def _some_files(self, name: str, model: str | None, partial: bool) -> list[ShardFile]:
        files = self.files(name, model)
        if not files:
            step = STEP_OF_TABLE[name]
            raise DatasetNotFound(
                f"{self.uri} has no {name} yet: run facepipe {step} --out {self.uri} "
                "(or facepipe curate, which runs every step)"
            )
        if not partial:
            self.require(self.step_of(name, model))
        return files


def _read_rows(
    stream: BinaryIO,
    parquet: pq.ParquetFile,
    columns: Sequence[str] | None,
    rows: range | None,
    *,
    far: bool,
) -> pa.Table:
    if rows is None:
        return read_groups(stream, parquet, range(parquet.num_row_groups), columns, far=far)
    groups, start, first = [], 0, None
    for i in range(parquet.num_row_groups):
        end = start + parquet.metadata.row_group(i).num_rows
        if start < rows.stop and end > rows.start:
            first = start if first is None else first
            groups.append(i)
        start = end
    table = read_groups(stream, parquet, groups, columns, far=far)
    return table.slice(rows.start - (first or 0), len(rows))


def new_or_open_dataset(uri: str) -> Dataset:
    """Return the dataset at a folder or uri, or one to be started where there is nothing.

    Raises UsageError for no name, a file, and a folder that holds anything but a dataset:
    a dataset removes what it replaces, so it must have its folder for itself.
    """
    if not str(uri).strip():
        raise UsageError("--out is empty: give the folder of the dataset")
    store = open_store(_absolute(uri))
    if store.local is not None and store.local.exists() and not store.local.is_dir():
        raise UsageError(f"--out {uri} is a file: give the folder of the dataset")
    names = store.names()
    others = [name for name in names if name not in OWN_ENTRIES]
    if others and not _is_dataset(names):
        raise UsageError(
            f"--out {uri} holds other things ({others[0]}) and no dataset: give a new "
            "folder or one of its own"
        )
    return Dataset(store)


def open_dataset(uri: str | Path) -> Dataset:
    """Open the dataset at a folder or uri. Raises DatasetNotFound where there is none."""
    store = open_store(_absolute(uri))
    if not _is_dataset(store.names()):
        raise DatasetNotFound(
            f"no dataset in {uri}: make one with facepipe curate PHOTOS --out {uri}"
        )
    return Dataset(store)


def _absolute(uri: str | Path) -> str:
    """Return where a dataset is for workers too, which may have another current folder."""
    text = str(uri)
    return text if "://" in text else os.path.abspath(text)  # noqa: PTH100 - links stay


def _is_dataset(names: Sequence[str]) -> bool:
    return "_plan" in names or MANIFEST in names
