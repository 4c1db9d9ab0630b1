"""Runs `facepipe.embed` over the shards of FACES: EMBEDDINGS, row for row."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from facepipe.align import CROP_PX, decode_crop
from facepipe.builtin_pack import default_note
from facepipe.commits import Commit, Plan, ShardFile, write_shard
from facepipe.config import Settings
from facepipe.embed import EmbedSettings, Recogniser, model_id, normalise
from facepipe.errors import DatasetNotFound
from facepipe.models import ModelSettings
from facepipe.packs import Pack
from facepipe.schema import EmbeddingStatus, embeddings
from facepipe.shards import Dataset
from facepipe.store import open_store
from pipelines.runners import ONE_CORE, Resources, ShardTask
from pipelines.stage import Recorded, Stopwatch, plan_of, resources_of, shard_key

VERSION = 2  # of the rules; raised when the same crops would give other vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedJob(Recorded):
    """How to open an embedding worker."""

    dataset: str
    pack: Pack
    embed: EmbedSettings
    models: ModelSettings
    model_id: str
    resources: Resources = ONE_CORE

    def open(self) -> EmbedWorker:
        """Open the recogniser and the store."""
        return EmbedWorker(
            self, Dataset(open_store(self.dataset)), Recogniser(self.pack, self.embed, self.models)
        )


@dataclass(slots=True)
class EmbedWorker:
    """Turns shards of FACES into committed EMBEDDINGS, in the same order of rows."""

    job: EmbedJob
    dataset: Dataset
    recogniser: Recogniser

    def check(self) -> None:
        """Embed a blank crop."""
        self.recogniser.embed([np.zeros((CROP_PX, CROP_PX, 3), dtype=np.uint8)])

    def run(self, task: ShardTask, quarantined: frozenset[int]) -> Commit:
        """Decode, embed and normalise one shard's crops, and commit them."""
        watch = Stopwatch()
        faces = self.dataset.read(task.payload, ["face_id", "crop"])
        face_ids = faces["face_id"].to_pylist()
        crops = [
            None if i in quarantined else decode_crop(data.as_py())
            for i, data in enumerate(faces["crop"])
        ]
        watch.lap("decode")
        good = [i for i, crop in enumerate(crops) if crop is not None]
        raw = self.recogniser.embed([c for c in crops if c is not None])
        watch.lap("embed")
        unit, norms, sound = normalise(raw)
        status = np.full(len(crops), str(EmbeddingStatus.BAD_CROP), dtype=object)
        status[good] = np.where(
            sound, str(EmbeddingStatus.OK), str(EmbeddingStatus.NON_FINITE)
        ).astype(object)
        table = _table(self.job.model_id, face_ids, good, unit, norms, status)
        watch.lap("table")
        return write_shard(
            self.dataset.store,
            step=task.step,
            shard=task.shard,
            key=task.key,
            tables=[("embeddings", f"embeddings/{self.job.model_id[:12]}", table, table.schema)],
            counts={"embeddings": dict(Counter(status.tolist()))},
            seconds=watch.rounded(),
            facts={"faces": task.payload.sha256},  # Dataset.require_embeddings compares it
        )

    def probe(self, task: ShardTask, item: int) -> None:
        """Embed one crop and forget it."""
        crop = decode_crop(self.dataset.read(task.payload, ["crop"])["crop"][item].as_py())
        if crop is not None:
            self.recogniser.embed([crop])


def _table(
    model: str,
    face_ids: list[str],
    good: list[int],
    unit: np.ndarray[Any, np.dtype[np.float16]],
    norms: np.ndarray[Any, np.dtype[np.float32]],
    status: np.ndarray[Any, np.dtype[np.object_]],
) -> pa.Table:
    dim = unit.shape[1]
    vectors = np.zeros((len(face_ids), dim), dtype=np.float16)
    lengths = np.zeros(len(face_ids), dtype=np.float32)
    vectors[good], lengths[good] = unit, norms
    missing = status != str(EmbeddingStatus.OK)
    # Zeros and no null: pyarrow writes a null fixed-size list, and then cannot read the file.
    vectors[missing] = lengths[missing] = 0
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float16()), dim)
    schema = embeddings(dim, model)
    return pa.Table.from_arrays(
        [pa.array(face_ids, pa.string()), column, pa.array(lengths), pa.array(status.tolist())],
        schema=schema,
    )


def embed_job(dataset: Dataset, pack: Pack, settings: Settings) -> EmbedJob:
    """Return the job of embed, which its plan and a check of the models share."""
    return EmbedJob(
        dataset=dataset.uri,
        pack=pack,
        embed=settings.embed,
        models=settings.models,
        model_id=model_id(pack, settings.embed),
        resources=resources_of(settings, "embed"),
    )


def model_change(dataset: Dataset, job: EmbedJob) -> str | None:
    """Return what to say where a dataset's current vectors are another model's than the job's."""
    try:
        before = dataset.current_model()
    except DatasetNotFound:
        return None
    if before == job.model_id:
        return None
    return (
        f"embed: dedup, clean, index and evaluate used the vectors of model {before[:12]} in "
        f"{dataset.uri}; once this has finished they use those of "
        f"{job.pack.need_recogniser().file} of {job.pack.folder} with "
        f"embed.flip={job.embed.flip} ({job.model_id[:12]}), a table of their own"
        f"{default_note(job.pack.folder)}"
    )


def embed_plan(
    dataset: Dataset, pack: Pack, settings: Settings
) -> tuple[EmbedJob, Plan, list[ShardTask]]:
    """Return the job, plan and tasks of embed over the committed FACES."""
    dataset.require("detect")
    job = embed_job(dataset, pack, settings)
    model = job.model_id
    step = dataset.step_of("embeddings", model)
    basis = {
        "version": VERSION,
        "model_id": model,
        "embed": settings.embed.model_dump(mode="json"),
        "device": settings.models.device,
    }
    tasks = [
        ShardTask(
            step=step,
            shard=commit.shard,
            key=shard_key(step, basis, file.sha256),
            items=file.rows,
            payload=file,
        )
        for commit in dataset.commits("detect")
        for file in _faces(commit)
    ]
    return job, plan_of(step, basis, tasks), tasks


def _faces(commit: Commit) -> list[ShardFile]:
    return [f for f in commit.files if f.table == "faces"]
