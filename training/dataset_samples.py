"""Samples straight from a dataset: the crops of FACES that DECISIONS keep, with who they are.

The same faces, people and numbers of people as `facepipe export` writes, without writing them.
While the list is made it takes up to 250 bytes a kept face, after that 12.

Legend: N samples, M kept faces, G shards of FACES, R rows of a shard.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from facepipe import ids
from facepipe.commits import ShardFile
from facepipe.errors import CorruptData, StoreError
from facepipe.export_choice import CHOICE_COLUMNS, EXPORTED, Choice, choose
from facepipe.face_places import FacePlaces
from facepipe.shards import Dataset
from training.samples import USED, Int64, Samples, check_trainable, samples_digest

_BATCH_ROWS = 1 << 15
_BUFFER_BYTES = 1 << 20
_OVERLAP = "overlap"

Bool = npt.NDArray[np.bool_]


class SampleSettings(BaseModel):
    """Which kept faces are trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_weight: float = Field(0.0, ge=0, le=1, description="leave out faces of less weight")
    min_faces: int = Field(1, ge=1, description="leave out people with fewer faces than this")
    overlap: bool | None = Field(
        None,
        description="true: train on faces that are in test sets too; false: refuse a dataset "
        "that facepipe overlap has not looked at; null: leave them out where they are marked",
    )


class DatasetCrops:
    """The crops of FACES, a committed file a group."""

    def __init__(self, dataset: Dataset, files: list[ShardFile]) -> None:
        """Read nothing yet."""
        self._dataset, self._files = dataset, files

    def read(self, group: int, rows: Int64) -> list[bytes | None]:
        """Return the crops of some rows; one of no bytes is empty. Raises CorruptData."""
        column = self._dataset.read(self._files[group], ["crop"])["crop"]
        crops = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        _, ends, data = crops.buffers()
        # Slices of the buffer: Arrow's own way copies each crop twice.
        end_R1 = np.frombuffer(ends, np.int32, len(crops) + 1, 4 * crops.offset)
        view = memoryview(data)
        bounds = zip(end_R1[rows].tolist(), end_R1[rows + 1].tolist(), strict=True)
        return [bytes(view[start:end]) for start, end in bounds]

    def name(self, group: int, row: int) -> str:
        """Return the file and the face's id."""
        file = self._files[group]
        face_id = self._dataset.read(file, ["face_id"])["face_id"][row].as_py()
        return f"{file.file}: {face_id}"

    def close(self) -> None:
        """Nothing stays open between reads."""


def dataset_samples(dataset: Dataset, settings: SampleSettings | None = None) -> Samples:
    """Return the kept faces of a cleaned dataset as samples, in the order of FACES.

    Labels are 0 .. L - 1 in the sorted order of identity_id; ``counts`` has every row of
    DECISIONS once, under ``used`` or who left it out (export_choice.RemovedBy). Raises StoreError
    unless clean has finished on these faces, CorruptData where tables do not belong together,
    UsageError where fewer than two people are left.
    """
    settings = settings or SampleSettings()
    dataset.require("detect", "clean")
    files = dataset.files("faces")
    _check_rows(dataset, files)
    choice = choose(
        _decision_batches(dataset),
        min_weight=settings.min_weight,
        min_faces=settings.min_faces,
        overlapping=_overlapping(dataset, settings.overlap),
    )
    start_G1, row_N, place_N = _found(dataset, files, choice)
    label_N = choice.label_M[place_N]
    weight_N = choice.weight_M[place_N]
    content = [f.sha256 for f in files]
    return check_trainable(
        Samples(
            groups=DatasetCrops(dataset, files),
            start_G1=start_G1,
            row_N=row_N,
            label_N=label_N,
            weight_N=weight_N,
            people=choice.people,
            counts=_counts(choice.exported, choice.counts),
            digest=samples_digest(content, start_G1, row_N, label_N, weight_N, choice.people),
        ),
        dataset.uri,
        "lower data.samples.min_weight or min_faces, keep faces of test sets with --set "
        "data.samples.overlap=true, or label the photos and run facepipe curate again",
    )


def lineage(dataset: Dataset, settings: SampleSettings) -> dict[str, object]:
    """Return which tables and settings samples come from, as JSON: for a run's record.

    No place is in it, so that a copy of the dataset has the same lineage.
    """
    plans = {step: dataset.plan(step) for step in ("detect", "dedup", "clean", _OVERLAP)}
    return {
        "plans": {step: plan.plan_id for step, plan in plans.items() if plan is not None},
        "decisions": [f.sha256 for f in dataset.files("decisions")],
        "settings": settings.model_dump(mode="json"),
    }


def _counts(used: int, removed: Mapping[str, int]) -> dict[str, int]:
    return {USED: used, **removed}


def _check_rows(dataset: Dataset, files: list[ShardFile]) -> None:
    faces = sum(f.rows for f in files)
    decided = sum(f.rows for f in dataset.files("decisions"))
    if faces != decided:
        raise StoreError(
            f"{dataset.uri} has {faces} faces and {decided} decisions: run facepipe clean (or "
            "facepipe curate) again, so that every face has one"
        )


def _found(
    dataset: Dataset, files: list[ShardFile], choice: Choice
) -> tuple[Int64, npt.NDArray[np.uint32], Int64]:
    """Return start_G1, row_N and the place of each sample among the kept faces.

    A face that is there twice is one sample: its first row.
    """
    unseen_M: Bool = choice.cause_M == EXPORTED
    rows: list[npt.NDArray[np.uint32]] = [np.empty(0, np.uint32)]
    places: list[npt.NDArray[np.int32]] = [np.empty(0, np.int32)]
    start_G1 = np.zeros(len(files) + 1, np.int64)
    for number, file in enumerate(files):
        place_R = choice.places.find(dataset.read(file, ["face_id"])["face_id"])
        known = np.flatnonzero(place_R >= 0)
        known = known[unseen_M[place_R[known]]]
        first = np.sort(known[np.unique(place_R[known], return_index=True)[1]])
        unseen_M[place_R[first]] = False
        rows.append(first.astype(np.uint32))
        places.append(place_R[first].astype(np.int32))
        start_G1[number + 1] = start_G1[number] + len(first)
    if unseen_M.any():
        raise CorruptData(
            f"{int(unseen_M.sum())} faces that are to be trained on are not in the faces table "
            f"of {dataset.uri}: run facepipe curate again"
        )
    return start_G1, np.concatenate(rows), np.concatenate(places).astype(np.int64)


def _decision_batches(dataset: Dataset) -> Iterator[pa.RecordBatch]:
    """Yield DECISIONS, page by page: its one file is one row group."""
    for file in dataset.files("decisions"):
        try:
            with (
                dataset.store.open(file.file) as stream,
                pq.ParquetFile(stream, buffer_size=_BUFFER_BYTES, pre_buffer=False) as parquet,
            ):
                yield from parquet.iter_batches(
                    batch_size=_BATCH_ROWS, columns=list(CHOICE_COLUMNS), use_threads=False
                )
        except (OSError, pa.ArrowException) as error:
            raise CorruptData(
                f"{dataset.uri}/{file.file} is committed but cannot be read ({error}): run "
                f"facepipe verify {dataset.uri} --repair, then the same command again"
            ) from error


def _overlapping(dataset: Dataset, asked: bool | None) -> FacePlaces | None:
    """Return the faces that are in test sets and not to be trained on; None where all are."""
    plan = dataset.plan(_OVERLAP)
    if asked or (asked is None and plan is None):
        return None
    if plan is None:
        raise StoreError(
            f"data.samples.overlap = false, but {dataset.uri} has not been compared with a test "
            f"set: run facepipe overlap {dataset.uri} --probes ... first"
        )
    dataset.require(_OVERLAP)
    files = [f for name in ("faces", "embeddings", "decisions") for f in dataset.files(name)]
    if plan.basis.get("tables") != ids.digest([f.sha256 for f in files]):
        raise StoreError(
            f"the faces or decisions of {dataset.uri} have changed since they were compared with "
            "test sets: run facepipe overlap again, or --set data.samples.overlap=true"
        )
    overlaps = dataset.files("overlaps")
    return FacePlaces.of(dataset.read(file, ["face_id"])["face_id"] for file in overlaps)
