"""Writes the cleaned faces of a dataset for training: folders, webdataset or insightface's .rec.

Memory is about 60 bytes a kept face, and one stretch of pictures that are put in order.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from facepipe.errors import StoreError, UsageError
from facepipe.export_choice import CHOICE_COLUMNS, Choice, ExportSettings, choose
from facepipe.face_places import FacePlaces
from facepipe.shards import Dataset
from facepipe.source_rec import EXACT_FLOAT32
from pipelines.batches import table_batches
from pipelines.export_formats import FORMATS, ExportRun
from pipelines.export_lists import write_labels, write_lists
from pipelines.export_target import check_target, open_target
from pipelines.overlap import STEP as OVERLAP
from pipelines.overlap import current, overlap_tables
from pipelines.progress import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What to export, and where to."""

    out: str
    format: str = "folders"  # one of FORMATS
    min_weight: float = 0.0
    min_faces: int = 1
    overlap: bool | None = None  # True: with faces of test sets; None: without if they are marked
    limit: int | None = None
    settings: ExportSettings


def run_export(
    dataset: Dataset, asked: Export, progress: Progress, *, dry: bool = False
) -> dict[str, Any]:
    """Write an export, or with ``dry`` only count; return the counts, which add up to all faces.

    Raises UsageError for an unknown format and for a folder that is not new, or a prefix of a
    bucket that holds anything but the beginning of this very export, StoreError unless clean
    has finished on these faces, and overlap too where its marks are to count, CorruptData where
    tables do not belong together, StoreFull.
    """
    if asked.format not in FORMATS:
        raise UsageError(f"--format {asked.format}: there are {', '.join(FORMATS)}")
    check_target(asked.out)
    choice = _choice(dataset, asked)
    if asked.format == "rec" and choice.exported + len(choice.people) + 2 > EXACT_FLOAT32:
        raise UsageError(
            f"{choice.exported} faces do not fit in a .rec, whose ids are float32: up to "
            f"{EXACT_FLOAT32} do; use --format webdataset, or --min-weight or --min-faces"
        )
    result = _counts(asked, choice)
    if dry:
        return result
    record = json.dumps({**_origin(dataset, asked), **result}, indent=1, sort_keys=True) + "\n"
    with open_target(asked.out, record.encode()) as target:
        run = ExportRun(dataset, choice, target, asked.settings.shard_faces, progress)
        whereabouts = FORMATS[asked.format](run)
        write_lists(dataset, choice, target, whereabouts)
        if whereabouts is not None:
            write_labels(choice, target)
    return {**result, "out": asked.out}


def _choice(dataset: Dataset, asked: Export) -> Choice:
    dataset.require("detect", "clean")
    faces = sum(f.rows for f in dataset.files("faces"))
    decided = sum(f.rows for f in dataset.files("decisions"))
    if faces != decided:
        raise StoreError(
            f"{dataset.uri} has {faces} faces and {decided} decisions: run facepipe clean (or "
            "facepipe curate) again, so that every face has one"
        )
    return choose(
        table_batches(dataset, "decisions", CHOICE_COLUMNS),
        min_weight=asked.min_weight,
        min_faces=asked.min_faces,
        overlapping=_overlapping(dataset, asked.overlap),
        limit=asked.limit,
    )


def _overlapping(dataset: Dataset, asked: bool | None) -> FacePlaces | None:
    """Return the faces that are in test sets and not to be exported; None where all are."""
    marked = dataset.plan(OVERLAP) is not None
    if asked or (asked is None and not marked):
        return None
    if not marked:
        raise StoreError(
            f"--without-overlap, but {dataset.uri} has not been compared with a test set: run "
            f"facepipe overlap {dataset.uri} --probes ... first"
        )
    if not current(dataset):
        raise StoreError(
            f"the faces or decisions of {dataset.uri} have changed since they were compared with "
            "test sets: run facepipe overlap again, or export --with-overlap"
        )
    tables = overlap_tables(dataset)
    return FacePlaces.of(t["face_id"] for name, t in tables if name == "overlaps")


def _counts(asked: Export, choice: Choice) -> dict[str, Any]:
    return {
        "format": asked.format,
        "faces": choice.total,
        "exported": choice.exported,
        "people": len(choice.people),
        "removed": choice.total - choice.exported,
        "removed_by": dict(choice.counts),
    }


def _origin(dataset: Dataset, asked: Export) -> dict[str, Any]:
    """Return what an export was made of and how; not where, so that it is the same anywhere."""
    plans = {step: dataset.plan(step) for step in ("detect", "clean", OVERLAP)}
    return {
        "plans": {step: plan.plan_id for step, plan in plans.items() if plan is not None},
        "min_weight": asked.min_weight,
        "min_faces": asked.min_faces,
        "limit": asked.limit,
        "with_overlap": asked.overlap,
        "settings": asked.settings.model_dump(mode="json"),
    }


def format_export(result: dict[str, Any]) -> str:
    """Return the counts of an export as text."""
    parts: Sequence[str] = [f"{n:,} by {by}" for by, n in result["removed_by"].items() if n]
    lines = [
        f"{result['exported']:,} of {result['faces']:,} faces, {result['people']:,} people",
        f"{result['removed']:,} removed: {', '.join(parts) or 'none'}",
    ]
    return "\n".join([*([result["out"]] if "out" in result else []), *lines])
