"""Runs `facepipe.partition`: the table BY_LABEL, and stored vectors read by the row.

Who decides over all faces holds numbers and names of them, never all their vectors: those
are read from the table that has them in the order in which they are needed.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facepipe.commits import Commit, Plan, ShardFile, write_shard
from facepipe.config import Settings
from facepipe.errors import CorruptData
from facepipe.neighbors import vector_matrix
from facepipe.partition import GROUP_ROWS, from_bytes, runs, sorted_run
from facepipe.schema import EmbeddingStatus
from facepipe.shards import Dataset
from facepipe.store import open_store
from pipelines.runners import ONE_CORE, Resources, ShardTask
from pipelines.stage import Recorded, Stopwatch, WithoutModel, plan_of, resources_of, shard_key

STEP = "by_label"
TABLE = "by_label"
VERSION = 1  # of the table; raised when the same faces would give other bytes
FACE_COLUMNS = ("face_id", "uri", "member", "source_label", "status")
EMBEDDING_COLUMNS = ("face_id", "vector", "status")
KEPT_BYTES = 1 << 25  # of what was read last: small sets are asked for the same files again

Int64 = npt.NDArray[np.int64]
Float16 = npt.NDArray[np.float16]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionJob(Recorded):
    """How to open a worker that sorts shards by label."""

    dataset: str
    model_id: str
    resources: Resources = ONE_CORE

    def open(self) -> PartitionWorker:
        """Open the dataset."""
        return PartitionWorker(self, Dataset(open_store(self.dataset)))


@dataclass(slots=True)
class PartitionWorker(WithoutModel):
    """Turns a stretch of shards of FACES and EMBEDDINGS into a run by label."""

    job: PartitionJob
    dataset: Dataset

    def run(self, task: ShardTask, quarantined: frozenset[int]) -> Commit:
        """Sort the shards and commit the run."""
        watch = Stopwatch()
        faces, embeddings = zip(*task.payload, strict=True)
        face_rows = pa.concat_tables([self.dataset.read(f, FACE_COLUMNS) for f in faces])
        vectors = pa.concat_tables([self.dataset.read(f, EMBEDDING_COLUMNS) for f in embeddings])
        watch.lap("read")
        table, stored = sorted_run(face_rows, vectors, self.job.model_id)
        watch.lap("sort")
        return write_shard(
            self.dataset.store,
            step=STEP,
            shard=task.shard,
            key=task.key,
            tables=[(TABLE, TABLE, table, table.schema)],
            counts={
                TABLE: dict(Counter(stored=stored, not_needed=len(table) - stored) + Counter())
            },
            seconds=watch.rounded(),
            facts={"stored": stored},
            group_rows=GROUP_ROWS,
        )


def partition_plan(
    dataset: Dataset, settings: Settings
) -> tuple[PartitionJob, Plan, list[ShardTask]]:
    """Return the job, plan and tasks of sorting the committed faces by label."""
    model = dataset.current_model()
    dataset.require_embeddings(model)
    basis = {"version": VERSION, "model_id": model}
    faces = _of_shards(dataset, "detect", "faces")
    vectors = _of_shards(dataset, dataset.step_of("embeddings", model), "embeddings")
    shards = [(shard, file, vectors[shard]) for shard, file in faces.items()]
    tasks = []
    for places in runs([(shard, file.rows) for shard, file, _ in shards]):
        members = [shards[place] for place in places]
        tasks.append(
            ShardTask(
                step=STEP,
                shard=members[0][0],
                key=shard_key(STEP, basis, [[f.sha256, v.sha256] for _, f, v in members]),
                items=sum(f.rows for _, f, _ in members),
                payload=tuple((f, v) for _, f, v in members),
            )
        )
    job = PartitionJob(
        dataset=dataset.uri, model_id=model, resources=resources_of(settings, "clean")
    )
    return job, plan_of(STEP, basis, tasks), tasks


def _of_shards(dataset: Dataset, step: str, table: str) -> dict[str, ShardFile]:
    return {c.shard: f for c in dataset.commits(step) for f in c.files if f.table == table}


def run_files(dataset: Dataset) -> list[tuple[ShardFile, int]]:
    """Return the committed runs, and how many of their rows have a vector."""
    return [(c.files[0], int(c.facts["stored"])) for c in dataset.commits(STEP)]


# -- reading ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Span:
    """Rows of a file that are read at once."""

    file: ShardFile
    rows: range


class StoredVectors:
    """The vectors of a table's rows, in float16; rows are read when asked for.

    Used as an array of shape (N, D) is: ``vectors[rows]``. Spans read last are kept: 32 MB of
    them, and at least as many as there are files and twice over, for readers that go through
    the rows in another order than the files have them: two at a time, each through the middle
    of every file.
    """

    def __init__(self, dataset: Dataset, spans: Sequence[_Span], files: int, dim: int) -> None:
        """Point at rows of committed files, in this order."""
        self._dataset = dataset
        self._spans = spans
        self._starts = np.cumsum([0, *(len(s.rows) for s in spans)])
        self._kept: OrderedDict[int, Float16] = OrderedDict()
        span_bytes = 2 * dim * max((len(s.rows) for s in spans), default=1)
        self._room = max(2 * files + 2, KEPT_BYTES // max(1, span_bytes))
        self.shape = (int(self._starts[-1]), dim)

    def __getitem__(self, rows: Int64) -> Float16:
        """Return the vectors of rows, (len(rows), D). Raises CorruptData."""
        found = np.empty((len(rows), self.shape[1]), np.float16)
        span_N = np.searchsorted(self._starts, rows, side="right") - 1
        order = np.argsort(span_N, kind="stable")
        spans, begin = np.unique(span_N[order], return_index=True)
        end = [*begin[1:].tolist(), len(order)]
        for span, vectors_ND in self._read(spans.tolist()):
            place = int(np.searchsorted(spans, span))
            here = order[begin[place] : end[place]]
            found[here] = vectors_ND[rows[here] - self._starts[span]]
        return found

    def _read(self, spans: Sequence[int]) -> Iterator[tuple[int, Float16]]:
        """Yield the vectors of spans, rising; neighbours in a file are read together."""
        absent = [s for s in spans if s not in self._kept]
        for span in spans:
            if span in self._kept:
                self._kept.move_to_end(span)
                yield span, self._kept[span]
        # A stretch is one whose numbers rise as fast as their places.
        for _, stretch in groupby(enumerate(absent), lambda p: (self._file(p[1]), p[1] - p[0])):
            together = [span for _, span in stretch]
            first, last = self._spans[together[0]], self._spans[together[-1]]
            rows = range(first.rows.start, last.rows.stop)
            vectors_ND = self._vectors(first.file, rows)
            for span in together:
                start = self._spans[span].rows.start - rows.start
                part_ND = vectors_ND[start : start + len(self._spans[span].rows)].copy()
                self._keep(span, part_ND)
                yield span, part_ND

    def _file(self, span: int) -> str:
        return self._spans[span].file.file

    def _keep(self, span: int, vectors_ND: Float16) -> None:
        self._kept[span] = vectors_ND
        while len(self._kept) > self._room:
            self._kept.popitem(last=False)

    def _vectors(self, file: ShardFile, rows: range) -> Float16:
        column = self._dataset.read(file, ["vector"], rows).column("vector")
        if pa.types.is_fixed_size_binary(column.type):
            return from_bytes(column)
        return vector_matrix(pa.table([column], names=["vector"]))


def vectors_by_shard(dataset: Dataset, model_id: str) -> tuple[pa.Table, StoredVectors]:
    """Return which faces have vectors, as ``vector_rows`` reads it, and those vectors.

    In the order of the shards, for readers of few rows.
    """
    files = dataset.files("embeddings", model_id)
    tables = [dataset.read(f, ["face_id", "status"]) for f in files]
    spans = [_Span(f, range(f.rows)) for f in files]
    table = pa.concat_tables(tables)
    known = pc.equal(table.column("status"), EmbeddingStatus.OK.value)
    dim = dataset.read(files[0], ["vector"], range(0)).column("vector").type.list_size
    return _known(table.column("face_id"), known), StoredVectors(dataset, spans, 0, dim)


def vectors_by_label(dataset: Dataset) -> tuple[pa.Table, StoredVectors]:
    """Return which faces have vectors, as ``vector_rows`` reads it, and those of usable ones.

    In the order of the runs. A face whose vector is there comes before all of those for
    which only that they have one is known.
    """
    stored, others, spans = [], [], []
    found = run_files(dataset)
    for file, count in found:
        table = dataset.read(file, ["face_id", "embedded"])
        stored.append(table.slice(0, count))
        others.append(table.slice(count))
        for start in range(0, count, GROUP_ROWS):
            spans.append(_Span(file, range(start, min(start + GROUP_ROWS, count))))
    if not found:
        raise CorruptData(f"{dataset.uri} has no faces by label: run facepipe clean again")
    table = pa.concat_tables([*stored, *others])
    width = dataset.read(found[0][0], ["vector"], range(0)).column("vector").type.byte_width
    vectors = StoredVectors(dataset, spans, len(found), width // 2)
    return _known(table.column("face_id"), table.column("embedded")), vectors


def _known(face_ids: pa.ChunkedArray, known: pa.ChunkedArray) -> pa.Table:
    marks = pc.if_else(known, True, pa.scalar(None, pa.bool_()))
    return pa.table([face_ids, marks], names=["face_id", "vector"])
