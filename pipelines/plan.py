"""What a job will find and take, from a sample of its photos; and afterwards, how right it was.

The sample goes through the real steps (`pipelines.plan_sample`), the numbers come from
`facepipe.forecast`, times on many workers from `facepipe.simulation`.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facepipe.config import Settings
from facepipe.errors import CorruptData, SourceNotFound
from facepipe.forecast import Interval, added
from facepipe.packs import Pack
from facepipe.shards import Dataset, new_or_open_dataset
from facepipe.simulation import Costs
from facepipe.source_listing import list_sources
from facepipe.sources import Entry
from pipelines import partition
from pipelines.engines import open_engine
from pipelines.listing import shard_rows
from pipelines.plan_measure import (
    BY_PHOTO,
    DriverCosts,
    SampledRows,
    driver_costs,
    gallery,
    sampled_rows,
)
from pipelines.plan_numbers import VERSION, forecast_of, wall_times
from pipelines.plan_sample import Sample, SampleRun, draw, run_sample
from pipelines.progress import Progress
from pipelines.stage import StepReport

KEY = "_plan/forecast.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """The job to plan, and with what."""

    sources: Sequence[str]
    settings: Settings
    pack: Pack
    out: str | None = None  # the dataset to be
    sample: int = 200  # photos
    workers: int = 1
    hours: float | None = None  # by when it is to be done: asks for the workers


def plan_job(request: PlanRequest, progress: Progress) -> dict[str, Any]:
    """Return the forecast of a job, as it is stored; with ``out`` it is stored there.

    Nothing else is written to ``out``: the sample has a temporary dataset of its own. Raises
    the errors of a run: SourceNotFound, UsageError, ModelMismatch and so on.
    """
    dataset = None if request.out is None else new_or_open_dataset(request.out)
    started = time.perf_counter()
    found = list_sources(
        request.sources, request.settings.sources, leave_out=dataset.uri if dataset else None
    )
    listed_s = time.perf_counter() - started
    if not found:
        raise SourceNotFound(
            f"no file below {', '.join(request.sources)}: give a folder with photos"
        )
    with tempfile.TemporaryDirectory(prefix="facepipe-plan-") as folder:
        forecast = _forecast(request, found, listed_s, Path(folder), progress)
    if dataset is not None:
        with dataset.held():
            dataset.put(KEY, (json.dumps(forecast, indent=1, sort_keys=True) + "\n").encode())
    return forecast


def read_forecast(dataset: Dataset) -> dict[str, Any] | None:
    """Return the forecast that is stored in a dataset, if any. Raises CorruptData."""
    if not dataset.has(KEY):
        return None
    try:
        value = json.loads(dataset.store.get(KEY))
        return value if value["version"] == VERSION else None
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptData(
            f"{dataset.uri}/{KEY} cannot be read ({error}): delete it, or run facepipe plan again"
        ) from error


def _forecast(
    request: PlanRequest, found: Sequence[Entry], listed_s: float, folder: Path, progress: Progress
) -> dict[str, Any]:
    dataset = new_or_open_dataset(str(folder / "dataset"))
    settings = request.settings
    with (
        open_engine("local", 1, settings.run.retries) as runner,
        dataset.held(),
    ):
        sample = draw(dataset, runner, found, request.sample, settings, progress)
        progress.say(f"plan: sampling {sample.size:,} of {sample.photos.photos.value:,.0f} photos")
        ran = run_sample(dataset, runner, sample, request.pack, settings, progress)
        rows = sampled_rows(dataset)
        gallery_s, gallery_bytes = gallery(dataset, folder / "gallery", settings)
        driver = driver_costs(dataset, found, listed_s, request.pack, settings)
    rows.bytes_n["gallery"] = rows.faces_n * gallery_bytes / max(1, rows.faces)
    loose = [e for e in found if e.kind is None]
    return forecast_of(
        sample,
        ran,
        rows,
        _costs(sample, ran, rows, driver, loose, gallery_s),
        shard_photos=shard_rows(
            len(loose) or round(sample.photos.photos.value), settings.run.shard_photos
        ),
        workers=request.workers,
        hours=request.hours,
    )


def _costs(
    sample: Sample,
    ran: SampleRun,
    rows: SampledRows,
    driver: DriverCosts,
    loose: Sequence[Entry],
    gallery_s: float,
) -> Costs:
    """Return what was measured, as a simulation takes it."""
    labels = len({e.source_label for e in loose} - {None}) + sample.container_labels
    seconds = {r.step: sum(r.seconds.values()) for r in ran.reports}
    wall = {r.step: r.wall_s for r in ran.reports}
    sharded = ran.reports[:2]  # detect and embed
    committing = sum(r.wall_s - seconds[r.step] for r in sharded)
    return Costs(
        detect_photo_s=tuple(ran.seconds["detect"]),
        embed_photo_s=tuple(ran.seconds["embed"]),
        group_photos=sample.size / len(sample.groups),
        faces_a_photo=float(rows.faces_n.mean()),
        labels_a_photo=labels / sample.photos.photos.value,
        container_photos=sample.container_photos,
        contained=sample.contained,
        list_photo_s=sample.list_photo_s,
        shard_s=max(0.0, committing / sum(r.shards for r in sharded)),
        sort_face_s=seconds[partition.STEP] / max(1, rows.faces),
        dedup_s=wall["dedup"],
        clean_s=wall["clean"],
        index_s=gallery_s,
        start_s=ran.start_s,
        driver_photo_s=driver.photo_s,
        driver_shard_s=driver.shard_s,
        worker_bytes=ran.worker_bytes,
        driver_bytes=driver.own_bytes,
        driver_photo_bytes=driver.photo_bytes,
        driver_shard_bytes=driver.shard_bytes,
        photo_bytes=sum(float(rows.bytes_n[t].mean()) for t in _by_photo(rows)),
        face_bytes=_face_bytes(rows),
    )


def _by_photo(rows: SampledRows) -> list[str]:
    return [name for name in rows.bytes_n if name in BY_PHOTO]


def _face_bytes(rows: SampledRows) -> float:
    stored = sum(float(b.sum()) for name, b in rows.bytes_n.items() if name not in _by_photo(rows))
    return stored / max(1, rows.faces)


# -- afterwards --------------------------------------------------------------------------


def compare(
    dataset: Dataset, reports: Sequence[StepReport], workers: int | None = None
) -> dict[str, Any] | None:
    """Return what a finished run found and took beside what was planned.

    None where nothing was planned, or where this run did nothing or not all steps. Wall time
    is there only where this run did every shard; ``workers``: of this run, as planned if None.
    """
    steps = {r.step.split("-")[0] for r in reports}
    whole = {"detect", "embed", "dedup", "clean"} <= steps
    if not whole or not any(r.shards_run for r in reports):  # asked first: costs nothing
        return None
    forecast = read_forecast(dataset)
    if forecast is None:
        return None
    counts = {table: c for r in reports for table, c in r.counts.items()}
    actual: dict[str, float] = {
        "photos": sum(counts["photos"].values()),
        "faces": sum(counts["faces"].values()),
        "duplicates": counts["duplicates"].get("duplicate", 0),
        "kept": sum(counts["decisions"].get(d, 0) for d in ("keep", "relabel", "merge")),
        "work_s": sum(sum(r.seconds.values()) for r in reports),
        "bytes": sum(f.bytes for s in dataset.steps() for c in dataset.commits(s) for f in c.files),
    }
    planned = {name: Interval.of(forecast[name]) for name in ("photos", "faces", "kept")}
    planned["duplicates"] = Interval.of(forecast["duplicates"])
    planned["work_s"] = Interval.of(forecast["work_s"]["total"])
    stored = [Interval.of(b) for n, b in forecast["bytes"].items() if n not in ("gallery", "total")]
    planned["bytes"] = added(stored)
    workers = workers or int(forecast["workers"])
    if all(r.shards_run == r.shards for r in reports):
        actual["wall_s"] = sum(r.wall_s for r in reports)
        planned["wall_s"] = _planned_wall(forecast, workers)
    return {
        "same_settings": _same_basis(dataset, forecast["basis"]),
        "workers": workers,
        **{
            name: {
                "actual": round(value, 3),
                "planned": planned[name].as_json(),
                "right": planned[name].holds(value),
            }
            for name, value in actual.items()
        },
    }


def _planned_wall(forecast: Mapping[str, Any], workers: int) -> Interval:
    if workers == forecast["workers"]:
        return Interval.of(forecast["steps_wall_s"])
    work = {name: Interval.of(value) for name, value in forecast["work_s"].items()}
    photos = Interval.of(forecast["photos"])
    shard_photos = int(forecast["shard_photos"])
    return wall_times(costs_of(forecast), photos, work, shard_photos, workers)["steps_wall_s"]


def costs_of(forecast: Mapping[str, Any]) -> Costs:
    """Return the measured costs that a forecast has, for another simulation."""
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in forecast["costs"].items()
    }
    return Costs(**values)


def _same_basis(dataset: Dataset, basis: Mapping[str, Any]) -> bool:
    detect = dataset.plan("detect")
    embed = dataset.plan(dataset.step_of("embeddings"))
    plans = {"detect": detect, "embed": embed}
    return all(p is not None and dict(p.basis) == basis[name] for name, p in plans.items())


def machine_memory_bytes() -> float:
    """Return the memory of this machine."""
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
