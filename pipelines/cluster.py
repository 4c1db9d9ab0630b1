"""Runs `facepipe.cluster` over the faces that have no label: CLUSTERS and CLUSTER_PAIRS."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from facepipe.cluster import ClusterSettings
from facepipe.commits import Commit, Plan, write_shard
from facepipe.config import Settings
from facepipe.constraint_lines import Kind
from facepipe.constraints import Constraints
from facepipe.schema import CLUSTER_PAIRS, CLUSTERS
from facepipe.shards import Dataset
from facepipe.store import open_store
from facepipe.unlabelled import FacePairs, cluster_faces
from pipelines.partition import vectors_by_shard
from pipelines.runners import ONE_CORE, Resources, ShardTask
from pipelines.stage import Recorded, Stopwatch, WithoutModel, plan_of, resources_of, shard_key

STEP = "cluster"
VERSION = 1  # of the rules; raised when the same faces would get other people
FACE_COLUMNS = ("face_id", "photo_id", "uri", "member", "source_label", "status")
DUPLICATE_COLUMNS = ("face_id", "uri", "member", "decision")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterJob(Recorded):
    """How to open a worker that finds people without labels."""

    dataset: str
    cluster: ClusterSettings
    model_id: str
    resources: Resources = ONE_CORE

    def open(self) -> ClusterWorker:
        """Open the dataset."""
        return ClusterWorker(self, Dataset(open_store(self.dataset)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """The payload of the task: what a person said about faces."""

    same: FacePairs = ()
    different: FacePairs = ()

    @classmethod
    def of(cls, constraints: Constraints) -> Said:
        """Take the lines about two faces; what a label says is `facepipe.obey`'s."""
        pairs = {
            kind: tuple((line.a, line.b) for line in constraints.of_kind(kind) if not line.labels)
            for kind in (Kind.SAME, Kind.DIFFERENT)
        }
        return cls(same=pairs[Kind.SAME], different=pairs[Kind.DIFFERENT])


@dataclass(slots=True)
class ClusterWorker(WithoutModel):
    """Finds the people in one task; vectors are read a block at a time."""

    job: ClusterJob
    dataset: Dataset

    def run(self, task: ShardTask, quarantined: frozenset[int]) -> Commit:
        """Find people among the faces without a label and commit them."""
        watch = Stopwatch()
        clusters, pairs = self._find(task.payload, watch)
        known = pc.greater_equal(clusters.column("cluster"), 0).to_pylist()
        return write_shard(
            self.dataset.store,
            step=STEP,
            shard=task.shard,
            key=task.key,
            tables=[
                ("clusters", "clusters", clusters, CLUSTERS),
                ("cluster_pairs", "cluster_pairs", pairs, CLUSTER_PAIRS),
            ],
            counts={
                "clusters": dict(Counter("clustered" if k else "alone" for k in known)),
                "cluster_pairs": dict(Counter(pairs.column("verdict").to_pylist())),
            },
            seconds=watch.rounded(),
            facts={"people": _people(clusters)},
        )

    def _find(self, said: Said, watch: Stopwatch) -> tuple[pa.Table, pa.Table]:
        # Most datasets have labels: nothing but the few rows without one is held.
        faces = self.dataset.scan("faces").to_table(
            columns=list(FACE_COLUMNS), filter=pc.field("source_label").is_null()
        )
        watch.lap("read")
        if not len(faces):
            return CLUSTERS.empty_table(), CLUSTER_PAIRS.empty_table()
        duplicates = self.dataset.table("duplicates", DUPLICATE_COLUMNS)
        known, vectors = vectors_by_shard(self.dataset, self.job.model_id)
        watch.lap("read")
        found = cluster_faces(
            faces, duplicates, known, self.job.cluster, vectors, said.same, said.different
        )
        watch.lap("cluster")
        return found


def _people(clusters: pa.Table) -> int:
    return (pc.max(clusters.column("cluster")).as_py() if len(clusters) else -1) + 1


def cluster_plan(
    dataset: Dataset, settings: Settings, constraints: Constraints
) -> tuple[ClusterJob, Plan, list[ShardTask]]:
    """Return the job, plan and one task of finding people over the committed tables."""
    model = dataset.current_model()
    dataset.require_embeddings(model)
    dataset.require("dedup")
    job = ClusterJob(
        dataset=dataset.uri,
        cluster=settings.cluster,
        model_id=model,
        resources=resources_of(settings, "clean"),
    )
    said = Said.of(constraints)
    basis = {
        "version": VERSION,
        "cluster": settings.cluster.model_dump(mode="json"),
        "model_id": model,
    }
    files = dataset.files("faces") + dataset.files("duplicates")
    files += dataset.files("embeddings", model)
    inputs = [[f.sha256 for f in files], said.same, said.different]
    rows = sum(f.rows for f in dataset.files("faces"))
    key = shard_key(STEP, basis, inputs)
    tasks = [ShardTask(step=STEP, shard="000000", key=key, items=rows, payload=said)]
    return job, plan_of(STEP, basis, tasks), tasks
