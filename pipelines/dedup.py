"""Runs `facepipe.dedup` over a dataset: DUPLICATES, a row for every row of FACES."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from facepipe.commits import Commit, Plan, ShardFile, write_shard
from facepipe.config import Settings
from facepipe.crop_rows import fixed_rows
from facepipe.dedup import DedupSettings, find_duplicates
from facepipe.schema import CROP_GREY_PX, DUPLICATES
from facepipe.shards import Dataset
from facepipe.store import open_store
from pipelines.partition import KEPT_BYTES, vectors_by_shard
from pipelines.runners import ONE_CORE, Resources, ShardTask
from pipelines.stage import Recorded, Stopwatch, WithoutModel, plan_of, resources_of, shard_key

STEP = "dedup"
VERSION = 2  # of the rules; raised when the same faces would get other decisions
FACE_COLUMNS = (
    "face_id",
    "uri",
    "member",
    "det_score",
    "eye_distance_px",
    "sharpness",
    "source_label",
    "status",
    "crop_hash",
)
PHOTO_COLUMNS = ("photo_id", "phash")


@dataclass(frozen=True, slots=True, kw_only=True)
class DedupJob(Recorded):
    """How to open a worker that finds duplicates."""

    dataset: str
    dedup: DedupSettings
    model_id: str
    resources: Resources = ONE_CORE

    def open(self) -> DedupWorker:
        """Open the dataset."""
        return DedupWorker(self, Dataset(open_store(self.dataset)))


@dataclass(slots=True)
class DedupWorker(WithoutModel):
    """Compares all photos of a dataset in one task.

    Crops are never read, and vectors and small grey pictures only of faces that look alike.
    """

    job: DedupJob
    dataset: Dataset

    def run(self, task: ShardTask, quarantined: frozenset[int]) -> Commit:
        """Find the duplicates and commit them."""
        watch = Stopwatch()
        faces = self.dataset.table("faces", FACE_COLUMNS)
        photos = self.dataset.table("photos", PHOTO_COLUMNS)
        known, vectors = vectors_by_shard(self.dataset, self.job.model_id)
        watch.lap("read")
        greys = StoredGreys(self.dataset, self.dataset.files("faces"))
        table = find_duplicates(faces, photos, known, self.job.dedup, vectors, greys)
        watch.lap("dedup")
        return write_shard(
            self.dataset.store,
            step=STEP,
            shard=task.shard,
            key=task.key,
            tables=[("duplicates", "duplicates", table, DUPLICATES)],
            counts={"duplicates": _counted(table.column("decision"))},
            seconds=watch.rounded(),
        )


def _counted(decisions: pa.ChunkedArray) -> dict[str, int]:
    return {c["values"]: c["counts"] for c in decisions.value_counts().to_pylist()}


class StoredGreys:
    """The small grey pictures of a dataset's crops; rows are read when asked for.

    Used as an array of shape (N, 48, 48) is: ``greys[rows]``, in the order of the shards. The
    files read last are kept, 32 MB of them.
    """

    def __init__(self, dataset: Dataset, files: Sequence[ShardFile]) -> None:
        """Point at the rows of committed shards of FACES, in this order."""
        self._dataset = dataset
        self._files = files
        self._starts = np.cumsum([0, *(f.rows for f in files)])
        most = max((f.rows for f in files), default=1) * CROP_GREY_PX**2
        self._pictures = lru_cache(max(1, KEPT_BYTES // max(1, most)))(self._read)

    def __getitem__(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Return the pictures of rows. Raises CorruptData."""
        found = np.empty((len(rows), CROP_GREY_PX**2), np.uint8)
        file_N = np.searchsorted(self._starts, rows, side="right") - 1
        order = np.argsort(file_N, kind="stable")
        ends = np.searchsorted(file_N[order], np.arange(len(self._files) + 1))
        for file in np.flatnonzero(np.diff(ends)).tolist():
            here = order[ends[file] : ends[file + 1]]
            found[here] = self._pictures(file)[rows[here] - self._starts[file]]
        return found.reshape(-1, CROP_GREY_PX, CROP_GREY_PX)

    def _read(self, file: int) -> npt.NDArray[np.uint8]:
        column = self._dataset.read(self._files[file], ["crop_grey"]).column("crop_grey")
        return fixed_rows(column, CROP_GREY_PX**2)


def dedup_plan(dataset: Dataset, settings: Settings) -> tuple[DedupJob, Plan, list[ShardTask]]:
    """Return the job, plan and one task of dedup over the committed tables."""
    model = dataset.current_model()
    dataset.require_embeddings(model)
    job = DedupJob(
        dataset=dataset.uri,
        dedup=settings.dedup,
        model_id=model,
        resources=resources_of(settings, "dedup"),
    )
    basis = {
        "version": VERSION,
        "dedup": settings.dedup.model_dump(mode="json"),
        "model_id": model,
    }
    files = dataset.files("photos") + dataset.files("faces") + dataset.files("embeddings", model)
    rows = sum(f.rows for f in dataset.files("faces"))
    key = shard_key(STEP, basis, [f.sha256 for f in files])
    tasks = [ShardTask(step=STEP, shard="000000", key=key, items=rows)]
    return job, plan_of(STEP, basis, tasks), tasks
