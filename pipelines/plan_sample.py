"""Runs a random sample of a job's photos through its steps, in a dataset of its own.

The steps are those of a run, on one worker; what they take and what comes out is measured,
to be scaled up by `pipelines.plan`.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from facepipe.commits import ShardFile
from facepipe.config import Settings
from facepipe.constraints import Constraints
from facepipe.errors import SourceNotFound
from facepipe.forecast import Population, population
from facepipe.models import require_device
from facepipe.packs import Pack
from facepipe.shards import Dataset
from facepipe.sources import Entry
from pipelines import clean, dedup, embed, members
from pipelines.detect import STEP as DETECT
from pipelines.detect import Photos
from pipelines.detect_plan import Retries, detect_plan
from pipelines.listing import Listing, extend, shard_rows
from pipelines.progress import Progress
from pipelines.runners import Job, Runner, ShardTask
from pipelines.stage import StepReport, plan_of, run_step, shard_key

GROUPS = 25  # of sampled photos, timed one by one: what the bootstrap of times draws from
LISTED_CONTAINERS = 8  # at least, where there are more than LISTED_BYTES of them
LISTED_BYTES = 1 << 30
SEED = 20_002  # of the sample

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Which photos were drawn, in groups that are timed, and what they were drawn from."""

    groups: list[list[Entry]]
    photos: Population
    containers: int = 0  # of all inputs
    container_photos: float = 0.0  # of one
    contained: float = 0.0  # share of the photos
    list_photo_s: float = 0.0
    container_labels: float = 0.0  # people in all containers

    @property
    def size(self) -> int:
        """Return how many photos were drawn."""
        return sum(len(group) for group in self.groups)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRun:
    """What running the sample took."""

    reports: Sequence[StepReport]
    start_s: float  # from the first process to models that answer
    worker_bytes: float  # peak memory of a worker
    basis: Mapping[str, Any]  # what the results depend on
    seconds: Mapping[str, list[float]] = field(default_factory=dict)  # a photo, by step and group


def draw(
    dataset: Dataset,
    runner: Runner,
    found: Sequence[Entry],
    size: int,
    settings: Settings,
    progress: Progress,
) -> Sample:
    """Draw photos at random, without replacement, seeded; lists containers as a run does.

    Where containers are many and large a random part of them is listed. Raises SourceNotFound
    where there is no photo.
    """
    loose = [e for e in found if e.kind is None]
    containers = [e for e in found if e.kind is not None]
    rng = np.random.default_rng(SEED)
    chosen = _chosen(containers, rng)
    files, list_s = _list(dataset, runner, chosen, settings, progress)
    rows = [file.rows for _, file, _ in files]
    of = population(
        len(loose), rows, [e.bytes for e, _, _ in files], sum(e.bytes for e in containers)
    )
    if not of.photos.value:
        raise SourceNotFound("no photo in the sources: give a folder with photos")
    inside = of.photos.value - len(loose)
    from_loose = min(len(loose), round(size * len(loose) / of.photos.value))
    shuffled = [loose[i] for i in _without_replacement(len(loose), from_loose, rng)]
    in_order: list[Entry] = []
    for container, file, row in _members_of(files, size - from_loose, rng):
        (values,) = dataset.read(file, rows=range(row, row + 1)).to_pylist()
        entry = Entry(kind=container.kind, **values)
        (in_order if _sequential(files, file, settings) else shuffled).append(entry)
    labels = sum(_labels(dataset, file) for _, file, _ in files)
    return Sample(
        groups=_groups(shuffled, in_order),
        photos=of,
        containers=len(containers),
        container_photos=inside / len(containers) if containers else 0.0,
        contained=inside / of.photos.value,
        list_photo_s=list_s / max(1, sum(rows)),
        container_labels=labels * inside / max(1, sum(rows)),
    )


def _chosen(containers: Sequence[Entry], rng: np.random.Generator) -> list[Entry]:
    if len(containers) <= LISTED_CONTAINERS or sum(e.bytes for e in containers) <= LISTED_BYTES:
        return list(containers)
    picked = rng.choice(len(containers), LISTED_CONTAINERS, replace=False)
    return [containers[i] for i in sorted(picked.tolist())]


_Listed = tuple[Entry, ShardFile, int]  # a container, its members, photos a shard


def _list(
    dataset: Dataset,
    runner: Runner,
    chosen: Sequence[Entry],
    settings: Settings,
    progress: Progress,
) -> tuple[list[_Listed], float]:
    """List containers through the step that does so in a run, and tell how long it took."""
    if not chosen:
        return [], 0.0
    listing = extend(Listing(), chosen, None)
    job, plan, tasks = members.members_plan(dataset, listing, {}, settings)
    report = run_step(dataset, runner, job, plan, tasks, progress)
    containers = listing.containers()
    files = [
        (containers[c.shard], c.files[0], int(c.facts["part_rows"]))
        for c in dataset.commits(members.STEP)
    ]
    return files, sum(report.seconds.values())


def _members_of(
    files: Sequence[_Listed], size: int, rng: np.random.Generator
) -> list[tuple[Entry, ShardFile, int]]:
    """Draw rows of the members tables: container, table, row."""
    ends = np.cumsum([0, *(file.rows for _, file, _ in files)])
    drawn = np.sort(_without_replacement(int(ends[-1]), size, rng))
    at = np.searchsorted(ends, drawn, side="right") - 1
    return [(files[f][0], files[f][1], int(i - ends[f])) for i, f in zip(drawn, at, strict=True)]


def _without_replacement(of: int, size: int, rng: np.random.Generator) -> Int64:
    return rng.choice(of, max(0, min(size, of)), replace=False) if of else np.empty(0, np.int64)


def _sequential(files: Sequence[_Listed], file: ShardFile, settings: Settings) -> bool:
    """Tell whether a container is read from its beginning for every part: it has larger ones."""
    part = next(rows for _, other, rows in files if other is file)
    return part > shard_rows(file.rows, settings.run.shard_photos)


def _labels(dataset: Dataset, file: ShardFile) -> int:
    labels = dataset.read(file, ["source_label"])["source_label"]
    return len(labels.unique().drop_null())


def _groups(shuffled: Sequence[Entry], in_order: Sequence[Entry]) -> list[list[Entry]]:
    """Deal photos into groups of like size, each in the order in which it is read."""
    count = max(1, min(GROUPS, len(shuffled) + len(in_order)))
    entries = [*shuffled, *in_order]
    cuts = np.array_split(np.arange(len(entries)), count)
    return [sorted((entries[i] for i in cut), key=lambda e: (e.uri, e.offset)) for cut in cuts]


# -- the steps ---------------------------------------------------------------------------


def run_sample(
    dataset: Dataset,
    runner: Runner,
    sample: Sample,
    pack: Pack,
    settings: Settings,
    progress: Progress,
) -> SampleRun:
    """Take the sample through detect, embed, dedup and clean; one shard a group."""
    require_device(settings.models)
    job, basis, tasks = _detect(dataset, sample.groups, pack, settings)
    started = time.perf_counter()
    runner.check([job, embed.embed_job(dataset, pack, settings)])
    start_s = time.perf_counter() - started
    plan = plan_of(DETECT, basis, tasks)
    reports = [run_step(dataset, runner, job, plan, tasks, progress)]
    embedding = embed.embed_plan(dataset, pack, settings)
    dataset.set_current_model(embedding[1].basis["model_id"])
    reports.append(run_step(dataset, runner, *embedding, progress))
    reports.append(run_step(dataset, runner, *dedup.dedup_plan(dataset, settings), progress))
    for part in clean.clean_steps(dataset, settings, Constraints()):
        if part[1].step == clean.STEP:
            clean.before_clean(dataset, part[2][0])
        reports.append(run_step(dataset, runner, *part, progress))
    return SampleRun(
        reports=reports,
        start_s=start_s,
        worker_bytes=max(map(_peak_bytes, _children()), default=0.0),
        basis={"detect": basis, "embed": dict(embedding[1].basis)},
        seconds={
            "detect": _photo_seconds(dataset, DETECT, sample),
            "embed": _photo_seconds(dataset, embedding[1].step, sample),
        },
    )


def _detect(
    dataset: Dataset, groups: Sequence[Sequence[Entry]], pack: Pack, settings: Settings
) -> tuple[Job, Mapping[str, Any], list[ShardTask]]:
    """Return detect's job and basis as a run has them, and a task for each group."""
    job, plan, _ = detect_plan(dataset, Listing(), Retries(), pack, settings)
    tasks = [
        ShardTask(
            step=DETECT,
            shard=f"{number:06d}",
            key=shard_key(DETECT, plan.basis, number),
            items=len(group),
            payload=Photos(entries=tuple(group)),
        )
        for number, group in enumerate(groups)
    ]
    return job, plan.basis, tasks


def _photo_seconds(dataset: Dataset, step: str, sample: Sample) -> list[float]:
    """Return each group's seconds a photo."""
    commits = {c.shard: sum(c.seconds.values()) for c in dataset.commits(step)}
    return [
        commits[f"{number:06d}"] / max(1, len(group)) for number, group in enumerate(sample.groups)
    ]


def _children() -> list[int]:
    return [p.pid for p in multiprocessing.active_children() if p.pid is not None]


def _peak_bytes(pid: int) -> float:
    return status_bytes(pid, "VmHWM")


def status_bytes(pid: int | str, field_name: str) -> float:
    """Return a process's memory by the kernel's account; 0 where it has ended."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{field_name}:"):
                return float(line.split()[1]) * 1024
    except OSError:
        pass
    return 0.0
