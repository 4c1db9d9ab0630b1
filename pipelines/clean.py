"""Runs `facepipe.clean` over a dataset: DECISIONS, a row for every row of FACES."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from facepipe.clean import CleanFit, CleanSettings, LabelRules, clean_faces
from facepipe.commits import Commit, Plan, write_shard
from facepipe.config import Settings
from facepipe.constraint_lines import Kind
from facepipe.constraints import Constraints, label_rules
from facepipe.decisions import resolution_weight, row_order
from facepipe.obey import apply_constraints
from facepipe.schema import DECISIONS, LABEL_PAIRS
from facepipe.shards import Dataset
from facepipe.store import open_store
from facepipe.unlabelled import name_clusters
from pipelines import cluster, partition
from pipelines.constraints import has_list, own_labels
from pipelines.earlier import (
    SCHEMA,
    TABLE,
    Earlier,
    earlier_identities,
    names_found,
    read_earlier,
    store_earlier,
)
from pipelines.runners import ONE_CORE, Job, Resources, ShardTask
from pipelines.stage import Recorded, Stopwatch, WithoutModel, plan_of, resources_of, shard_key

STEP = "clean"
VERSION = 5  # of the rules; raised when the same faces would get other decisions
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

    @property
    def threads(self) -> int:
        """Return how many threads the one task has: as many as the cores that it asks for."""
        return max(1, int(self.resources.num_cpus))

    def open(self) -> CleanWorker:
        """Open the dataset."""
        return CleanWorker(self, Dataset(open_store(self.dataset)))


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanInputs:
    """The payload of the task, beside the tables: what was said, and what was found before."""

    constraints: Constraints
    digest: str  # of all inputs but the earlier identities


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleaned:
    """What clean decides, before it is committed."""

    found: pa.Table  # DECISIONS by the data
    table: pa.Table  # DECISIONS in which a person's list holds
    pairs: pa.Table  # LABEL_PAIRS
    fit: CleanFit
    passed_over: tuple[str, ...]  # lines of the list


@dataclass(slots=True)
class CleanWorker(WithoutModel):
    """Decides on all faces of a dataset in one task.

    Crops are never read, and vectors a block at a time, from the table that has them by label.
    """

    job: CleanJob
    dataset: Dataset

    def run(self, task: ShardTask, quarantined: frozenset[int]) -> Commit:
        """Decide and commit, with what was learned from the data as the record's facts."""
        watch = Stopwatch()
        earlier = read_earlier(self.dataset)
        done = self.decide(task.payload.constraints, earlier, watch)
        table, pairs = done.table, done.pairs
        tables = [
            ("decisions", "decisions", table, DECISIONS),
            ("label_pairs", "label_pairs", pairs, LABEL_PAIRS),
        ]
        counts = {
            "decisions": dict(Counter(table["decision"].to_pylist())),
            "label_pairs": dict(Counter(pairs["verdict"].to_pylist())),
        }
        if has_list(self.dataset):  # an empty one too: its table replaces the one before
            tables.append((TABLE, TABLE, names_found(done.found, table), SCHEMA))
        if done.passed_over:
            counts["lines"] = {"passed_over": len(done.passed_over)}
        return write_shard(
            self.dataset.store,
            step=STEP,
            shard=task.shard,
            key=task.key,
            tables=tables,
            counts=counts,
            seconds=watch.rounded(),
            facts=_facts(done),
        )

    def decide(self, constraints: Constraints, earlier: Earlier, watch: Stopwatch) -> Cleaned:
        """Decide on the committed tables; commit nothing."""
        faces = self.dataset.table("faces", FACE_COLUMNS)
        duplicates = self.dataset.table("duplicates", DUPLICATE_COLUMNS)
        known, vectors = partition.vectors_by_label(self.dataset)
        watch.lap("read")
        rules = _rules(self.dataset, constraints, earlier)
        settings = self.job.clean
        table, fit = clean_faces(
            faces,
            duplicates,
            known,
            settings,
            vectors,
            rules=rules,
            threads=self.job.threads,
        )
        watch.lap("clean")
        clusters, cluster_pairs = (self.dataset.table(n) for n in ("clusters", "cluster_pairs"))
        found, more = name_clusters(table, clusters, cluster_pairs, earlier.faces)
        obeyed = apply_constraints(found, constraints, _full_weight(faces))
        watch.lap("say")
        return Cleaned(
            found=found,
            table=obeyed.table,
            pairs=pa.concat_tables([fit.pairs, more]),
            fit=fit,
            passed_over=tuple(line.text for line in obeyed.passed_over),
        )


def _rules(dataset: Dataset, constraints: Constraints, earlier: Earlier) -> LabelRules:
    """Return what a person, and an earlier run, say about labels."""
    same, different = label_rules(constraints, own_labels(dataset, constraints.faces))
    return LabelRules(same=same, different=different, survivors=earlier.labels)


def _full_weight(faces: pa.Table) -> npt.NDArray[np.float32]:
    """Return the weight of each row if it is certain, in the order of DECISIONS."""
    eyes_px = faces["eye_distance_px"].take(row_order(faces))
    return resolution_weight(eyes_px.to_numpy()).astype(np.float32)


def _facts(done: Cleaned) -> dict[str, Any]:
    fit, passed_over = done.fit, list(done.passed_over)
    return {
        "threshold": fit.threshold,
        "impostor_quantiles": [list(q) for q in fit.impostor_quantiles],
        "labels": fit.labels,
        "labels_single": fit.labels_single,
        "labels_without_dominant": list(fit.labels_without_dominant),
        "reasons": [list(r) for r in _reasons(done.table)],
        **({"lines_passed_over": passed_over} if passed_over else {}),
    }


def _reasons(table: pa.Table) -> list[tuple[str, str, int]]:
    rows = table.group_by(["decision", "reason"]).aggregate([([], "count_all")]).to_pylist()
    return sorted((r["decision"], r["reason"], r["count_all"]) for r in rows)


def clean_steps(
    dataset: Dataset, settings: Settings, constraints: Constraints
) -> Iterator[tuple[Job, Plan, list[ShardTask]]]:
    """Yield the parts of clean, each to be run before the next is asked for."""
    yield partition.partition_plan(dataset, settings)
    yield cluster.cluster_plan(dataset, settings, constraints)
    yield clean_plan(dataset, settings, constraints)


def clean_plan(
    dataset: Dataset, settings: Settings, constraints: Constraints
) -> tuple[CleanJob, Plan, list[ShardTask]]:
    """Return the job, plan and one task of clean over the committed tables.

    Raises StoreError unless dedup has finished, and the faces are by label and in clusters.
    """
    model = dataset.current_model()
    dataset.require_embeddings(model)
    dataset.require("dedup", partition.STEP, cluster.STEP)
    job = CleanJob(
        dataset=dataset.uri,
        clean=settings.clean,
        model_id=model,
        resources=resources_of(settings, "clean"),
    )
    basis = {
        "version": VERSION,
        "clean": settings.clean.model_dump(mode="json"),
        "cluster": settings.cluster.model_dump(mode="json"),
        "model_id": model,
    }
    files = dataset.files("faces") + dataset.files("duplicates") + dataset.files("clusters")
    files += dataset.files("cluster_pairs")
    files += [file for file, _ in partition.run_files(dataset)]
    rows = sum(f.rows for f in dataset.files("faces"))
    inputs = shard_key(STEP, basis, [[f.sha256 for f in files], _lines(constraints)])
    earlier = earlier_of(dataset, inputs, constraints)
    key = shard_key(STEP, basis, [inputs, earlier.digest])
    payload = CleanInputs(constraints=constraints, digest=inputs)
    tasks = [ShardTask(step=STEP, shard="000000", key=key, items=rows, payload=payload)]
    return job, plan_of(STEP, basis, tasks), tasks


def earlier_of(dataset: Dataset, inputs: str, constraints: Constraints) -> Earlier:
    """Return the identities that names are taken from, for these inputs."""
    named = {line.b for line in constraints.of_kind(Kind.NAME)}
    return earlier_identities(dataset, inputs, named)


def before_clean(dataset: Dataset, task: ShardTask) -> None:
    """Store what the task needs beside the tables; only while the dataset is held."""
    payload: CleanInputs = task.payload
    earlier = earlier_of(dataset, payload.digest, payload.constraints)
    store_earlier(dataset, payload.digest, earlier)


def decide_only(
    dataset: Dataset, settings: Settings, constraints: Constraints
) -> dict[str, dict[str, int]]:
    """Return how many faces clean would decide how, decision -> reason -> rows; commit nothing."""
    job, _, (task,) = clean_plan(dataset, settings, constraints)
    earlier = earlier_of(dataset, task.payload.digest, constraints)
    table = job.open().decide(constraints, earlier, Stopwatch()).table
    counts: dict[str, dict[str, int]] = {}
    for decision, reason, rows in _reasons(table):
        counts.setdefault(decision, {})[reason] = rows
    return counts


def _lines(constraints: Constraints) -> list[str]:
    return sorted(line.text for line in constraints.lines)
