"""Runs `facepipe.dedup` over a dataset: DUPLICATES, a row for every row of FACES."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from facepipe.commits import Commit, Plan, write_shard
from facepipe.config import Settings
from facepipe.dedup import DedupSettings, find_duplicates
from facepipe.schema import DUPLICATES
from facepipe.shards import Dataset
from facepipe.store import open_store
from pipelines.partition import vectors_by_shard
from pipelines.runners import ONE_CORE, Resources, ShardTask
from pipelines.stage import Recorded, Stopwatch, plan_of, resources_of, shard_key

STEP = "dedup"
VERSION = 1  # of the rules; raised when the same faces would get other decisions
FACE_COLUMNS = (
    "face_id",
    "photo_id",
    "uri",
    "member",
    "box_xyxy_px",
    "det_score",
    "eye_distance_px",
    "sharpness",
    "source_label",
    "status",
)
PHOTO_COLUMNS = ("photo_id", "width_px", "height_px", "phash")


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
class DedupWorker:
    """Compares all photos of a dataset in one task.

    Crops are never read, and vectors only of faces whose photos look alike.
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
        table = find_duplicates(faces, photos, known, self.job.dedup, vectors)
        watch.lap("dedup")
        return write_shard(
            self.dataset.store,
            step=STEP,
            shard=task.shard,
            key=task.key,
            tables=[("duplicates", "duplicates", table, DUPLICATES)],
            counts={"duplicates": dict(Counter(table["decision"].to_pylist()))},
            seconds=watch.rounded(),
        )

    def check(self) -> None:
        """There is no model to check."""

    def probe(self, task: ShardTask, item: int) -> None:
        """Nothing here depends on one item alone."""


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
