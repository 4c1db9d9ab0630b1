"""Writes the shard of a gallery: what a worker of `pipelines.index` does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from facepipe import ids
from facepipe.commits import Commit, record_key, write_parquet
from facepipe.gallery import (
    DECISION_COLUMNS,
    FACE_COLUMNS,
    GALLERY,
    Include,
    Selection,
    select_faces,
)
from facepipe.index import IndexSettings, encode_vectors
from facepipe.index_manifest import (
    NAME_CHARS,
    ROWS,
    VECTORS,
    Embedding,
    IndexFile,
    Manifest,
    Origin,
    Shard,
    Totals,
)
from facepipe.shards import Dataset
from facepipe.store import Store, open_store
from facepipe.threshold import calibrate
from pipelines.runners import ONE_CORE, Resources, ShardTask
from pipelines.stage import Stopwatch, recorded

STEP = "index"


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexJob:
    """How to open a worker that builds a gallery; a task's payload is the dataset's plan ids."""

    dataset: str
    out: str
    settings: IndexSettings
    include: Include
    resources: Resources = ONE_CORE

    def open(self) -> IndexWorker:
        """Open the dataset and the index."""
        return IndexWorker(self, Dataset(open_store(self.dataset)), open_store(self.out))

    def committed(self, tasks: Sequence[ShardTask]) -> Iterator[Commit]:
        """Yield the commits of those of these tasks that have one."""
        return recorded(open_store(self.out), tasks)


@dataclass(slots=True)
class IndexWorker:
    """Selects, calibrates and encodes all faces of a dataset in one task."""

    job: IndexJob
    dataset: Dataset
    store: Store

    def check(self) -> None:
        """There is no model to check."""

    def probe(self, task: ShardTask, item: int) -> None:
        """Nothing here depends on one item alone."""

    def run(self, task: ShardTask, quarantined: frozenset[int]) -> Commit:
        """Write the shard; the record says what the manifest will be."""
        watch = Stopwatch()
        plans: Mapping[str, str | None] = task.payload
        selection = select_faces(
            self.dataset.table("faces", FACE_COLUMNS),
            self.dataset.table("embeddings", ["face_id", "vector", "status"]),
            self.dataset.table("decisions", DECISION_COLUMNS) if plans["clean"] else None,
            self.job.include,
        )
        watch.lap("read")
        manifest = self._write(selection, plans, task.key)
        watch.lap("build")
        commit = Commit(
            step=task.step,
            shard=task.shard,
            key=task.key,
            files=(),
            counts={"rows": {"indexed": manifest.totals.indexed}},
            seconds=watch.rounded(),
            facts={"manifest": manifest.model_dump(mode="json")},
        )
        self.store.put_if_absent(record_key(STEP, task.shard, task.key), commit.to_json())
        return commit

    def _write(
        self, selection: Selection, plans: Mapping[str, str | None], inputs: str
    ) -> Manifest:
        """Calibrate, write the shard's files, and return the manifest that will name them."""
        settings, rows, vectors = self.job.settings, selection.rows, selection.vectors_ND
        identities = rows.column("identity_id").to_pylist()
        uris = rows.column("uri").to_pylist()
        threshold = calibrate(vectors, identities, uris, fpir=settings.fpir, seed=settings.seed)
        codes, faiss_version = encode_vectors(vectors)
        files = {VECTORS: codes, ROWS: write_parquet(rows, GALLERY)}
        plan = self.dataset.plan(self.dataset.step_of("embeddings"))
        embed = plan.basis.get("embed", {}) if plan is not None else {}
        model = self.dataset.current_model()
        return Manifest(
            inputs=inputs,
            embedding=Embedding(model_id=model, flip=embed.get("flip"), dim=vectors.shape[1]),
            dataset=Origin(plans=dict(plans), include=self.job.include, by=selection.by),
            totals=Totals(
                expected=selection.expected,
                indexed=len(rows),
                left_out=dict(selection.left_out),
                identities=len(set(identities) - {None}),
            ),
            faiss=faiss_version,
            threshold=threshold,
            shards=(_put_shard(self.store, files, len(rows)),),
        )


def _put_shard(store: Store, files: dict[str, bytes], rows: int) -> Shard:
    described = {
        name: IndexFile(bytes=len(data), sha256=ids.sha256_hex(data))
        for name, data in files.items()
    }
    digest = ids.digest({name: file.sha256 for name, file in described.items()})
    shard = Shard(name=digest[:NAME_CHARS], rows=rows, files=described)
    for name, data in files.items():  # also where it is there already: it may be damaged
        store.put(shard.key(name), data)
    return shard
