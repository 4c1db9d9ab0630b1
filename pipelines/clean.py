"""Runs `facepipe.clean` over a dataset: DECISIONS, a row for every row of FACES."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from facepipe.clean import CleanFit, CleanSettings, clean_faces
from facepipe.commits import Commit, Plan, write_shard
from facepipe.config import Settings
from facepipe.schema import DECISIONS
from facepipe.shards import Dataset
from facepipe.store import open_store
from pipelines import partition
from pipelines.runners import ONE_CORE, Job, Resources, ShardTask
from pipelines.stage import Recorded, Stopwatch, plan_of, resources_of, shard_key

STEP = "clean"
VERSION = 1  # of the rules; raised when the same faces would get other decisions
DUPLICATE_COLUMNS = (
    "face_id",
    "uri",
    "member",
    "decision",
    "reason",
    "confidence",
    "evidence",
    "similarity",
)
FACE_COLUMNS = ("face_id", "uri", "member", "eye_distance_px", "source_label", "status")


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanJob(Recorded):
    """How to open a worker that cleans labels."""

    dataset: str
    clean: CleanSettings
    model_id: str
    resources: Resources = ONE_CORE

    def open(self) -> CleanWorker:
        """Open the dataset."""
        return CleanWorker(self, Dataset(open_store(self.dataset)))


@dataclass(slots=True)
class CleanWorker:
    """Decides on all faces of a dataset in one task.

    Crops are never read, and vectors a block at a time, from the table that has them by label.
    """

    job: CleanJob
    dataset: Dataset

    def run(self, task: ShardTask, quarantined: frozenset[int]) -> Commit:
        """Decide and commit, with what was learned from the data as the record's facts."""
        watch = Stopwatch()
        faces = self.dataset.table("faces", FACE_COLUMNS)
        duplicates = self.dataset.table("duplicates", DUPLICATE_COLUMNS)
        known, vectors = partition.vectors_by_label(self.dataset)
        watch.lap("read")
        table, fit = clean_faces(faces, duplicates, known, self.job.clean, vectors)
        watch.lap("clean")
        return write_shard(
            self.dataset.store,
            step=STEP,
            shard=task.shard,
            key=task.key,
            tables=[("decisions", "decisions", table, DECISIONS)],
            counts={"decisions": dict(Counter(table["decision"].to_pylist()))},
            seconds=watch.rounded(),
            facts=_facts(fit),
        )

    def check(self) -> None:
        """There is no model to check."""

    def probe(self, task: ShardTask, item: int) -> None:
        """Nothing here depends on one item alone."""


def _facts(fit: CleanFit) -> dict[str, Any]:
    return {
        "threshold": fit.threshold,
        "impostor_quantiles": [list(q) for q in fit.impostor_quantiles],
        "labels": fit.labels,
        "labels_single": fit.labels_single,
        "labels_without_dominant": list(fit.labels_without_dominant),
        "reasons": [list(c) for c in fit.counts],
    }


def clean_steps(
    dataset: Dataset, settings: Settings
) -> Iterator[tuple[Job, Plan, list[ShardTask]]]:
    """Yield the parts of clean, each to be run before the next is asked for."""
    yield partition.partition_plan(dataset, settings)
    yield clean_plan(dataset, settings)


def clean_plan(dataset: Dataset, settings: Settings) -> tuple[CleanJob, Plan, list[ShardTask]]:
    """Return the job, plan and one task of clean over the committed tables.

    Raises StoreError unless dedup has finished, and the faces are by label.
    """
    model = dataset.current_model()
    dataset.require_embeddings(model)
    dataset.require("dedup", partition.STEP)
    job = CleanJob(
        dataset=dataset.uri,
        clean=settings.clean,
        model_id=model,
        resources=resources_of(settings, "clean"),
    )
    basis = {
        "version": VERSION,
        "clean": settings.clean.model_dump(mode="json"),
        "model_id": model,
    }
    files = dataset.files("faces") + dataset.files("duplicates")
    files += [file for file, _ in partition.run_files(dataset)]
    rows = sum(f.rows for f in dataset.files("faces"))
    key = shard_key(STEP, basis, [f.sha256 for f in files])
    tasks = [ShardTask(step=STEP, shard="000000", key=key, items=rows)]
    return job, plan_of(STEP, basis, tasks), tasks
