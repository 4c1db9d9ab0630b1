"""The main job: detect, embed, dedup and clean, one after the other, on one dataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from facepipe.commits import Plan
from facepipe.config import Settings
from facepipe.constraints import Constraints
from facepipe.errors import QuarantineExceeded, SourceNotFound
from facepipe.packs import Pack
from facepipe.schema import PhotoStatus
from facepipe.shards import Dataset, new_or_open_dataset, open_dataset
from facepipe.source_listing import list_sources
from facepipe.sources import Entry
from pipelines import clean, dedup, detect, embed, members
from pipelines.constraints import check_constraints, read_constraints, store_constraints
from pipelines.detect_plan import (
    Retries,
    all_there,
    detect_plan,
    read_retries,
    retry_failed,
    save_retries,
)
from pipelines.listing import Listing, extend, read_listing, write_listing
from pipelines.progress import Progress
from pipelines.runners import Job, Runner, ShardTask
from pipelines.runners.process import give_memory_back
from pipelines.stage import StepReport, missing, run_step

STEPS = ("detect", "embed", "dedup", "clean")
_NO_PIXELS = (
    PhotoStatus.TRUNCATED,
    PhotoStatus.CORRUPT,
    PhotoStatus.TOO_LARGE,
    PhotoStatus.UNREADABLE,
    PhotoStatus.REFUSED,
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
    retry_failed: bool = False
    constraints: Constraints = field(default_factory=Constraints)  # added to the dataset's own


@dataclass(frozen=True, slots=True, kw_only=True)
class _Inputs:
    """What the sources hold today, and with it the dataset's own lists."""

    found: Sequence[Entry] = ()
    listing: Listing = field(default_factory=Listing)
    retries: Retries = field(default_factory=Retries)
    constraints: Constraints = field(default_factory=Constraints)


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
    found = _found(dataset, request)
    if "detect" in request.steps:  # what is wrong must not leave an empty dataset behind
        _check_models(dataset, request, _inputs(dataset, request, found), runner)
    with dataset.held():
        dataset.store.sweep()
        inputs = _inputs(dataset, request, found)
        for step in _steps(request, inputs):
            for job, plan, tasks in _plans(step, dataset, request, inputs):
                _say_which_model(dataset, job, progress)
                _before(dataset, plan, tasks, inputs)
                reports.append(run_step(dataset, runner, job, plan, tasks, progress))
                _after(dataset, plan)
    return reports, _exceeded(reports, request.settings.run.max_quarantined)


def dry_run(request: Request) -> list[dict[str, Any]]:
    """Return, for each step, how much there is and how much of it is left to do.

    Writes nothing. Steps whose input does not exist yet say so with ``after``.
    """
    dataset = _dataset(request)
    rows: list[dict[str, Any]] = []
    waiting: str | None = None
    inputs = _inputs(dataset, request, _found(dataset, request))
    for step in _steps(request, inputs):
        if waiting is not None:
            rows.append({"step": step, "after": waiting})
            continue
        for _, plan, tasks in _plans(step, dataset, request, inputs):
            todo = missing(dataset, plan.step, tasks)
            row: dict[str, Any] = {
                "step": plan.step.split("-")[0],
                "shards": len(tasks),
                "items": sum(t.items for t in tasks),
                "shards_to_do": len(todo),
                "items_to_do": sum(t.items for t in todo),
            }
            if plan.step == clean.STEP and todo:  # it is cheap: say what it would decide
                row["decisions"] = clean.decide_only(dataset, request.settings, inputs.constraints)
            rows.append(row)
            if todo:
                waiting = step
                break
    return rows


def _steps(request: Request, inputs: _Inputs) -> list[str]:
    """Return the steps to run: containers are listed before their photos are looked at."""
    lists = "detect" in request.steps and inputs.listing.containers()
    return [members.STEP, *request.steps] if lists else list(request.steps)


def _found(dataset: Dataset, request: Request) -> list[Entry]:
    if "detect" not in request.steps:
        return []
    return list_sources(request.sources, request.settings.sources, leave_out=dataset.uri)


def _inputs(dataset: Dataset, request: Request, found: Sequence[Entry]) -> _Inputs:
    constraints = read_constraints(dataset).added(request.constraints.lines)
    if "detect" not in request.steps:
        return _Inputs(constraints=constraints)
    settings = request.settings
    drop = settings.sources.gone == "drop"
    listing = extend(read_listing(dataset), found, settings.run.shard_photos, drop_gone=drop)
    if not any(listing.shards.values()):
        raise SourceNotFound(
            f"no file below {', '.join(request.sources)}: give a folder with photos"
        )
    again = request.retry_failed
    retries = retry_failed(dataset, listing) if again else read_retries(dataset)
    return _Inputs(found=found, listing=listing, retries=retries, constraints=constraints)


def _check_models(dataset: Dataset, request: Request, inputs: _Inputs, runner: Runner) -> None:
    """Try every model where photos are to be done: hours later is too late to find out."""
    if request.pack is None:
        raise ValueError("detect needs a model pack")
    job, plan, tasks = detect_plan(
        dataset, inputs.listing, inputs.retries, request.pack, request.settings
    )
    _, _, lists = members.members_plan(
        dataset, inputs.listing, inputs.retries.containers, request.settings
    )
    if not missing(dataset, plan.step, tasks) and not missing(dataset, members.STEP, lists):
        return
    jobs: list[Job] = [job]  # the last: a worker keeps one job open, and detect comes next
    if "embed" in request.steps:
        jobs.insert(0, embed.embed_job(dataset, request.pack, request.settings))
    runner.check(jobs)


def _dataset(request: Request) -> Dataset:
    """Return the dataset; only detect may start a new one."""
    if "detect" in request.steps:
        return new_or_open_dataset(request.out)
    return open_dataset(request.out)


def _plans(
    step: str, dataset: Dataset, request: Request, inputs: _Inputs
) -> Iterator[tuple[Job, Plan, list[ShardTask]]]:
    """Yield the work of a step, part after part: a later part stands on the one before."""
    settings = request.settings
    listed = {e.uri for e in inputs.found}
    if step == members.STEP:
        retries = inputs.retries.containers
        lists = members.members_plan(dataset, inputs.listing, retries, settings)
        all_there(dataset, lists[2], listed)
        yield lists
    elif step in ("detect", "embed"):
        if request.pack is None:
            raise ValueError(f"{step} needs a model pack")
        if step == "embed":
            yield embed.embed_plan(dataset, request.pack, settings)
            return
        planned = detect_plan(dataset, inputs.listing, inputs.retries, request.pack, settings)
        all_there(dataset, planned[2], listed)
        yield planned
    elif step == "dedup":
        yield dedup.dedup_plan(dataset, settings)
    else:
        yield from clean.clean_steps(dataset, settings, inputs.constraints)


def _say_which_model(dataset: Dataset, job: Job, progress: Progress) -> None:
    said = embed.model_change(dataset, job) if isinstance(job, embed.EmbedJob) else None
    if said is not None:
        progress.say(said)


def _before(dataset: Dataset, plan: Plan, tasks: Sequence[ShardTask], inputs: _Inputs) -> None:
    """Store what a step's later readers need to know, before its first shard."""
    if plan.step in (members.STEP, detect.STEP):
        write_listing(dataset, inputs.listing)
        give_memory_back()  # what the listing took as a table
    if plan.step == detect.STEP:
        save_retries(dataset, inputs.retries)
    if plan.step.startswith("embed-") and not dataset.is_embedded():
        dataset.set_current_model(plan.basis["model_id"])  # readers of what is there already
    if plan.step == clean.STEP:
        check_constraints(dataset, inputs.constraints)
        store_constraints(dataset, inputs.constraints)
        clean.before_clean(dataset, tasks[0])


def _after(dataset: Dataset, plan: Plan) -> None:
    """Let readers go over to what a step has finished: an embed that fails changes nothing."""
    if plan.step.startswith("embed-") and dataset.current_model() != plan.basis["model_id"]:
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
