"""The main job: detect, embed, dedup and clean, one after the other, on one dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from facepipe.commits import Plan
from facepipe.config import Settings
from facepipe.errors import QuarantineExceeded
from facepipe.models import require_device
from facepipe.packs import Pack
from facepipe.schema import PhotoStatus
from facepipe.shards import Dataset, new_or_open_dataset, open_dataset
from facepipe.store import locked
from pipelines import clean, dedup, detect, embed
from pipelines.progress import Progress
from pipelines.runners import Job, Runner, ShardTask
from pipelines.stage import StepReport, missing, run_step

STEPS = ("detect", "embed", "dedup", "clean")
_NO_PIXELS = (
    PhotoStatus.TRUNCATED,
    PhotoStatus.CORRUPT,
    PhotoStatus.TOO_LARGE,
    PhotoStatus.UNREADABLE,
    PhotoStatus.CRASHED,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to run: some of the steps, in order, on one dataset."""

    steps: Sequence[str]
    out: str
    settings: Settings
    pack: Pack | None = None  # None where no step needs a model
    sources: Sequence[str] = ()


def run(
    request: Request, runner: Runner, progress: Progress
) -> tuple[list[StepReport], QuarantineExceeded | None]:
    """Run the steps that are asked for; what is committed already is not done again.

    The error, to be raised once everything else is done, is there where too many photos gave
    no pixels. Raises the errors of its steps, and StoreError where another run holds the
    dataset.
    """
    dataset = _dataset(request)
    reports = []
    if "detect" in request.steps:  # what is wrong must not leave an empty dataset behind
        _check_models(dataset, request, runner)
    with locked(dataset.store):
        dataset.store.sweep()
        for step in request.steps:
            job, plan, tasks = _plan(step, dataset, request)
            _before(dataset, plan, tasks)
            reports.append(run_step(dataset, runner, job, plan, tasks, progress))
    return reports, _exceeded(reports, request.settings.run.max_quarantined)


def dry_run(request: Request) -> list[dict[str, Any]]:
    """Return, for each step, how much there is and how much of it is left to do.

    Writes nothing. Steps whose input does not exist yet say so with ``after``.
    """
    dataset = _dataset(request)
    rows: list[dict[str, Any]] = []
    waiting: str | None = None
    for step in request.steps:
        if waiting is not None:
            rows.append({"step": step, "after": waiting})
            continue
        _, plan, tasks = _plan(step, dataset, request)
        todo = missing(dataset, plan.step, tasks)
        rows.append(
            {
                "step": step,
                "shards": len(tasks),
                "items": sum(t.items for t in tasks),
                "shards_to_do": len(todo),
                "items_to_do": sum(t.items for t in todo),
            }
        )
        waiting = step if todo else None
    return rows


def _check_models(dataset: Dataset, request: Request, runner: Runner) -> None:
    """Try every model where photos are to be done: hours later is too late to find out."""
    job, plan, tasks = _plan("detect", dataset, request)
    if request.pack is None or not missing(dataset, plan.step, tasks):
        return
    jobs: list[Job] = [job]
    if "embed" in request.steps:
        jobs.append(embed.embed_job(dataset, request.pack, request.settings))
    runner.check(jobs)


def _dataset(request: Request) -> Dataset:
    """Return the dataset; only detect may start a new one."""
    if "detect" in request.steps:
        return new_or_open_dataset(request.out)
    return open_dataset(request.out)


def _plan(step: str, dataset: Dataset, request: Request) -> tuple[Job, Plan, list[ShardTask]]:
    settings = request.settings
    if step in ("detect", "embed"):
        require_device(settings.models)
        if request.pack is None:
            raise ValueError(f"{step} needs a model pack")
        if step == "detect":
            return detect.detect_plan(dataset, request.sources, request.pack, settings)
        return embed.embed_plan(dataset, request.pack, settings)
    if step == "dedup":
        return dedup.dedup_plan(dataset, settings)
    return clean.clean_plan(dataset, settings)


def _before(dataset: Dataset, plan: Plan, tasks: Sequence[ShardTask]) -> None:
    """Store what a step's later readers need to know, before its first shard."""
    if plan.step == detect.STEP:
        detect.save_listing(dataset, tasks)
    if plan.step.startswith("embed-"):
        dataset.set_current_model(plan.basis["model_id"])


def quarantined_share(photos: Mapping[str, int]) -> float:
    """Return the share of image files that gave no pixels, from PHOTOS' counts by status."""
    images = sum(n for status, n in photos.items() if status != PhotoStatus.NOT_AN_IMAGE)
    return sum(photos.get(status, 0) for status in _NO_PIXELS) / images if images else 0.0


def _exceeded(reports: Sequence[StepReport], allowed: float) -> QuarantineExceeded | None:
    for report in reports:
        share = quarantined_share(report.counts.get("photos", {}))
        if report.step == "detect" and share > allowed:
            return QuarantineExceeded(
                f"finished, but {share:.0%} of the image files gave no pixels and "
                f"run.max_quarantined allows {allowed:.0%}: see status and error in the photos "
                "table; everything else is there to be used"
            )
    return None
