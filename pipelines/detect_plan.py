"""Which shards of photos there are for detect, and which of their photos are tried again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from facepipe.builtin_pack import default_note
from facepipe.commits import Commit, Plan, record_key
from facepipe.config import Settings
from facepipe.errors import CorruptData, ModelMismatch, SourceNotFound
from facepipe.packs import Pack
from facepipe.schema import PhotoStatus
from facepipe.shards import Dataset
from facepipe.sources import Entry
from pipelines import members
from pipelines.detect import STEP, VERSION, Again, DetectJob, Photos
from pipelines.listing import Listing, is_gone
from pipelines.runners import ShardTask
from pipelines.stage import missing, plan_of, resources_of, shard_key

FAILED = (PhotoStatus.UNREADABLE, PhotoStatus.CRASHED)  # what another try may mend
_KEY = "_plan/retries.json"
Names = list[list[str | None]]  # [uri, member] of photos


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """What was tried again, by shard: of detect which photos each time, of members how often."""

    photos: Mapping[str, list[Names]] = field(default_factory=dict)
    containers: Mapping[str, int] = field(default_factory=dict)


def read_retries(dataset: Dataset) -> Retries:
    """Return what earlier runs have tried again. Raises CorruptData."""
    if not dataset.has(_KEY):
        return Retries()
    try:
        return Retries(**json.loads(dataset.store.get(_KEY)))
    except (ValueError, TypeError) as error:
        raise CorruptData(
            f"{dataset.uri}/{_KEY} cannot be read ({error}): delete it; what was tried again is "
            "then done once more"
        ) from error


def retry_failed(dataset: Dataset, listing: Listing) -> Retries:
    """Return the retries with all that failed on top of them; `save_retries` stores them.

    Photos whose file could not even be listed are left out: the next listing decides.
    """
    before = read_retries(dataset)
    photos = {shard: list(tries) for shard, tries in before.photos.items()}
    never = {e.uri for entries in listing.shards.values() for e in entries if e.problem}
    for commit in dataset.commits(STEP):
        names = sorted(_failed_in(dataset, commit), key=lambda n: (n[0] or "", n[1] or ""))
        names = [n for n in names if n[0] not in never]
        done = commit.facts.get("tries", 0)  # fewer: the last try is still to be done
        if names and done == len(photos.get(commit.shard, [])):
            photos[commit.shard] = [*photos.get(commit.shard, []), names]
    containers = dict(before.containers)
    for commit in dataset.commits(members.STEP):
        if commit.facts["unlisted"]:
            containers[commit.shard] = containers.get(commit.shard, 0) + 1
    return Retries(photos=photos, containers=containers)


def save_retries(dataset: Dataset, retries: Retries) -> None:
    """Store what is tried again, before the first of it is run."""
    if retries != Retries():
        value = {"photos": dict(retries.photos), "containers": dict(retries.containers)}
        dataset.put(_KEY, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def _failed_in(dataset: Dataset, commit: Commit) -> Iterator[list[str | None]]:
    if not any(commit.counts["photos"].get(status) for status in FAILED):
        return
    for row in dataset.read(commit.files[0], ["uri", "member", "status"]).to_pylist():
        if row["status"] in FAILED:
            yield [row["uri"], row["member"]]


def detect_plan(
    dataset: Dataset, listing: Listing, retries: Retries, pack: Pack, settings: Settings
) -> tuple[DetectJob, Plan, list[ShardTask]]:
    """Return the job, plan and tasks of detect; containers are listed already.

    Raises SourceNotFound where there is nothing to do or photos to be redone are gone, and
    ModelMismatch where the dataset was made with another detector.
    """
    job = _job(dataset, pack, settings)
    basis = _basis(pack, settings)
    _same_detector(dataset, str(basis["detector"]), pack)
    tasks = [
        *_loose_tasks(dataset, listing, retries, basis),
        *_container_tasks(dataset, listing, retries, basis),
    ]
    tasks.sort(key=lambda task: task.shard)
    return job, plan_of(STEP, basis, tasks), tasks


def all_there(dataset: Dataset, tasks: Sequence[ShardTask], listed: set[str]) -> None:
    """Refuse to redo shards some of whose photos are gone: their rows would be lost.

    Raises SourceNotFound.
    """
    gone = [
        entry.uri
        for step in {task.step for task in tasks}
        for task in missing(dataset, step, tasks)
        for entry in _to_be_read(task.payload)
        if entry.uri not in listed and entry.problem is None and is_gone(entry)
    ]
    if gone:
        raise SourceNotFound(
            f"{len(gone)} photos of earlier runs are no longer there ({gone[0]} first), and their "
            "shards have to be done again: bring their source back, or let them leave the "
            "dataset with --set sources.gone=drop"
        )


def _to_be_read(photos: Photos | Entry) -> Iterator[Entry]:
    """Yield the files that a task reads: of one that is tried again, those that failed."""
    if isinstance(photos, Entry):  # a container that is to be listed
        yield photos
        return
    again = None if photos.again is None else {uri for uri, _ in photos.again.failed}
    yield from (e for e in photos.entries if again is None or e.uri in again)
    if photos.container is not None:
        yield photos.container


def _loose_tasks(
    dataset: Dataset, listing: Listing, retries: Retries, basis: Mapping[str, Any]
) -> Iterator[ShardTask]:
    for shard, entries in listing.photos().items():
        inputs = [members.inputs_of(e)[:-1] for e in entries]
        photos = Photos(entries=tuple(entries), generation=listing.generation[shard])
        yield _task(dataset, shard, basis, inputs, len(entries), photos, retries)


def _container_tasks(
    dataset: Dataset, listing: Listing, retries: Retries, basis: Mapping[str, Any]
) -> Iterator[ShardTask]:
    containers = listing.containers()
    for commit in dataset.commits(members.STEP):
        if commit.shard not in containers:  # all of them are gone: nothing is listed any more
            continue
        entry, file = containers[commit.shard], commit.files[0]
        for part, start in enumerate(range(0, file.rows, commit.facts["part_rows"])):
            rows = range(start, min(start + commit.facts["part_rows"], file.rows))
            inputs = [members.inputs_of(entry), file.sha256, rows.start, rows.stop]
            photos = Photos(
                container=entry,
                members=file,
                rows=rows,
                generation=listing.generation[commit.shard],
            )
            shard = f"{commit.shard}.{part:04d}"
            yield _task(dataset, shard, basis, inputs, len(rows), photos, retries)


def _task(
    dataset: Dataset,
    shard: str,
    basis: Mapping[str, Any],
    inputs: list[Any],
    items: int,
    photos: Photos,
    retries: Retries,
) -> ShardTask:
    """Return a task; of one that was done before, to be tried again, only what failed is done."""
    tries = retries.photos.get(shard, [])
    if tries:
        before = record_key(STEP, shard, _key(basis, inputs, tries[:-1]))
        if dataset.has(before):
            commit = Commit.from_json(dataset.store.get(before), before)
            names = frozenset((str(uri), member) for uri, member in tries[-1])
            photos = replace(photos, again=Again(files=commit.files, failed=names))
        photos = replace(photos, tries=len(tries))
    return ShardTask(
        step=STEP, shard=shard, key=_key(basis, inputs, tries), items=items, payload=photos
    )


def _key(basis: Mapping[str, Any], inputs: list[Any], tries: list[Names]) -> str:
    return shard_key(STEP, basis, [inputs, tries] if tries else inputs)


def _job(dataset: Dataset, pack: Pack, settings: Settings) -> DetectJob:
    return DetectJob(
        dataset=dataset.uri,
        pack=pack,
        decode=settings.decode,
        detect=settings.detect,
        align=settings.align,
        quality=settings.quality,
        models=settings.models,
        sources=settings.sources,
        urls=settings.urls,
        photo_timeout_s=settings.run.photo_timeout_s,
        resources=resources_of(settings, STEP),
    )


def _basis(pack: Pack, settings: Settings) -> dict[str, Any]:
    return {
        "version": VERSION,
        "detector": pack.digest(pack.need_detector()),
        "decode": settings.decode.model_dump(mode="json"),
        "detect": settings.detect.model_dump(mode="json"),
        "align": settings.align.model_dump(mode="json"),
        "quality": settings.quality.model_dump(mode="json"),
        "device": settings.models.device,
    }


def _same_detector(dataset: Dataset, detector: str, pack: Pack) -> None:
    before = dataset.plan(STEP) if dataset.commits(STEP) else None
    if before is not None and before.basis.get("detector") != detector:
        raise ModelMismatch(
            f"{dataset.uri} was made with another detector ({str(before.basis['detector'])[:12]}) "
            f"than {pack.need_detector().file} of {pack.folder} ({detector[:12]}): "
            f"use the same --models, or another --out{default_note(pack.folder)}"
        )
