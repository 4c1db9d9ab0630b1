"""Runs `facepipe.overlap`: OVERLAPS and OVERLAP_IDENTITIES, a shard for each set of probes.

The vectors of the dataset are read shard by shard, those of one set of probes are held; of each
face of the dataset some 40 bytes of numbers and its id are.

Legend: N rows of FACES, I identities.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from facepipe import ids
from facepipe.commits import Commit, Plan, write_shard
from facepipe.neighbors import has_vector, vector_matrix
from facepipe.overlap import LEVELS, OverlapSettings, mark_faces
from facepipe.person_search import Hits, PersonSearch
from facepipe.schema import OVERLAP_IDENTITIES, OVERLAPS
from facepipe.shards import Dataset, open_dataset
from facepipe.store import open_store
from pipelines.overlap_rows import (
    FACE_COLUMNS,
    Identities,
    ProbeRows,
    aligned_files,
    cleaned,
    read_identities,
    read_probes,
)
from pipelines.overlap_table import Compared, face_table, people_table
from pipelines.progress import Progress
from pipelines.runners import ONE_CORE, Resources, Runner, ShardTask
from pipelines.stage import Recorded, Stopwatch, WithoutModel, plan_of, run_step, shard_key

STEP = "overlap"
VERSION = 1  # of the rules; raised when the same faces would get other marks

Bool = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedProbes:
    """A set of probes that has its vectors: a task's payload."""

    name: str
    dataset: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlapJob(Recorded):
    """How to open a worker that compares a dataset with probes."""

    dataset: str
    overlap: OverlapSettings
    model_id: str
    resources: Resources = ONE_CORE

    def open(self) -> OverlapWorker:
        """Open the dataset."""
        return OverlapWorker(self, Dataset(open_store(self.dataset)))


@dataclass(slots=True)
class OverlapWorker(WithoutModel):
    """Compares all faces of a dataset with one set of probes."""

    job: OverlapJob
    dataset: Dataset

    def run(self, task: ShardTask, quarantined: frozenset[int]) -> Commit:
        """Compare and commit, with the thresholds as the record's facts."""
        watch = Stopwatch()
        named: NamedProbes = task.payload
        rows = read_probes(open_dataset(named.dataset), self.job.model_id)
        identities = read_identities(self.dataset)
        watch.lap("read")
        fpir = self.job.overlap.fpir
        search = PersonSearch(rows.probes, fpir) if len(rows.faces) else None
        watch.lap("calibrate")
        compared = self._compare(rows, identities, search)
        watch.lap("search")
        marks = mark_faces(
            compared.hits,
            compared.photo_N >= 0,
            compared.identity_N,
            len(identities.names),
            rows.probes.named,
            fpir,
        )
        faces = face_table(
            self.dataset, self.job.model_id, named.name, rows, identities, compared, marks
        )
        people = people_table(named.name, rows, identities, compared, marks)
        watch.lap("table")
        levels = Counter(faces["level"].to_pylist())
        return write_shard(
            self.dataset.store,
            step=STEP,
            shard=task.shard,
            key=task.key,
            tables=[
                ("overlaps", "overlaps", faces, OVERLAPS),
                ("overlap_identities", "overlap_identities", people, OVERLAP_IDENTITIES),
            ],
            counts={
                "overlaps": {level.value: levels[level] for level in LEVELS},
                "overlap_identities": dict(
                    Counter(
                        "overlaps" if o else "some_faces" for o in people["overlaps"].to_pylist()
                    )
                ),
            },
            seconds=watch.rounded(),
            facts=_facts(named.name, rows, search, fpir),
        )

    def _compare(
        self, rows: ProbeRows, identities: Identities, search: PersonSearch | None
    ) -> Compared:
        files = aligned_files(self.dataset, self.job.model_id)
        count = sum(faces.rows for faces, _ in files)
        hits = Hits.none(count)
        identity_N, photo_N = np.empty(count, np.int32), np.empty(count, np.int32)
        start = 0
        for file, vectors in files:
            faces = self.dataset.read(file, FACE_COLUMNS)
            here = slice(start, start + len(faces))
            identity_N[here] = identities.codes(faces)
            photo_N[here] = rows.photo_places.find(faces["photo_id"])
            embedded = self.dataset.read(vectors, ["vector", "status"])
            usable = np.flatnonzero(has_vector(embedded))
            if search is not None and len(usable):
                hits.put(start + usable, search.search(vector_matrix(embedded)[usable]))
            start = here.stop
        return Compared(hits=hits, identity_N=identity_N, photo_N=photo_N)


def _facts(name: str, rows: ProbeRows, search: PersonSearch | None, fpir: float) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "probe": name,
        "probe_photos": rows.all_photos,
        "probe_faces": rows.all_faces,
        "probe_faces_searched": len(rows.faces),
        "probe_people": len(
            {rows.probes.label_of[p] for p in set(rows.probes.person_P.tolist())} - {None}
        ),
        "fpir": fpir,
    }
    if search is not None:
        facts["face_threshold"] = search.face_threshold.value
        facts["method"] = search.face_threshold.method
        if search.centre_threshold is not None:
            facts["centre_threshold"] = search.centre_threshold.value
    return facts


# -- the step ----------------------------------------------------------------------------


def tables_digest(dataset: Dataset) -> str:
    """Return a digest of the tables of a dataset that its overlaps depend on."""
    files = dataset.files("faces") + dataset.files("embeddings")
    files += dataset.files("decisions") if cleaned(dataset) else []
    return ids.digest([f.sha256 for f in files])


def overlap_plan(
    dataset: Dataset, probes: Sequence[NamedProbes], settings: OverlapSettings
) -> tuple[OverlapJob, Plan, list[ShardTask]]:
    """Return the job, plan and a task for each set of probes.

    Raises StoreError unless embed has finished on the dataset and on the probes.
    """
    model = dataset.current_model()
    dataset.require_embeddings(model)
    job = OverlapJob(dataset=dataset.uri, overlap=settings, model_id=model)
    basis = {
        "version": VERSION,
        "overlap": settings.model_dump(mode="json"),
        "model_id": model,
        "tables": tables_digest(dataset),
    }
    rows = sum(f.rows for f in dataset.files("faces"))
    tasks = []
    for place, named in enumerate(probes):
        other = open_dataset(named.dataset)
        other.require_embeddings(model)
        files = [*other.files("photos"), *other.files("faces"), *other.files("embeddings", model)]
        files += other.files("decisions") if cleaned(other) else []
        key = shard_key(STEP, basis, [named.name, *(f.sha256 for f in files)])
        tasks.append(ShardTask(step=STEP, shard=f"{place:06d}", key=key, items=rows, payload=named))
    return job, plan_of(STEP, basis, tasks), tasks


def run_overlap(
    dataset: Dataset,
    probes: Sequence[NamedProbes],
    settings: OverlapSettings,
    runner: Runner,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Mark what of a dataset is in each set of probes; return what was found, set by set.

    The sets of this call are those of the tables: what others an earlier call named is replaced.
    """
    with dataset.held():
        dataset.store.sweep()
        job, plan, tasks = overlap_plan(dataset, probes, settings)
        run_step(dataset, runner, job, plan, tasks, progress)
        return [{**c.facts, **c.counts} for c in dataset.commits(STEP)]


def overlap_tables(dataset: Dataset) -> Iterator[tuple[str, pa.Table]]:
    """Yield the tables that the step has committed, by name. Raises StoreError before that."""
    dataset.require(STEP)
    for commit in dataset.commits(STEP):
        for file in commit.files:
            yield file.table, dataset.read(file)


def current(dataset: Dataset) -> bool:
    """Tell whether the overlaps are of the faces, vectors and decisions there are now."""
    plan = dataset.plan(STEP)
    return plan is not None and plan.basis.get("tables") == tables_digest(dataset)


def identity_list(dataset: Dataset) -> pa.Table:
    """Return OVERLAP_IDENTITIES of all sets, the surest first."""
    tables = [t for name, t in overlap_tables(dataset) if name == "overlap_identities"]
    keys = [
        ("overlaps", "descending"),
        ("confidence", "descending"),
        ("identity_id", "ascending"),
        ("probe", "ascending"),
    ]
    return pa.concat_tables([OVERLAP_IDENTITIES.empty_table(), *tables]).sort_by(keys)
