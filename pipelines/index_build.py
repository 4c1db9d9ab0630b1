"""What every command that makes a version does: shards, then measures, then one swap.

with Build.begin(store, ...) as build:
    template = build.template(...)
    shards = build.shards([...])
    version = build.publish(build.measured(draft))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from facepipe import ids
from facepipe.commits import Commit
from facepipe.errors import CorruptData, GateFailed
from facepipe.index_manifest import Manifest, Recall, Search, Shard, Template, Threshold
from facepipe.index_settings import IndexSettings
from facepipe.lease import Held
from facepipe.recall import least_id_at_1
from facepipe.shards import Dataset
from facepipe.store import Store, locked
from pipelines.index_calibrate import Calibration
from pipelines.index_files import check_bytes, check_size, shard_files, version_files
from pipelines.index_job import IndexJob, run_tasks
from pipelines.index_shards import Making
from pipelines.index_training import Training
from pipelines.index_versions import (
    STEP,
    Version,
    absolute,
    current_etag,
    in_force,
    put_in_force,
    retire,
    waiting,
    write_version,
)
from pipelines.progress import Progress
from pipelines.runners import ONE_CORE, Resources, Runner, ShardTask


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """Who does the tasks: a runner, or this process where there is none."""

    runner: Runner | None = None
    resources: Resources = ONE_CORE


@dataclass(frozen=True, slots=True)
class Build:
    """An index that is held by this run."""

    store: Store
    held: Held
    job: IndexJob
    workers: Workers
    progress: Progress
    etag: str | None  # of CURRENT, when the index was taken hold of
    before: Version | None  # what was in force then

    @classmethod
    @contextmanager
    def begin(
        cls,
        store: Store,
        settings: IndexSettings,
        *,
        dataset: Dataset | None = None,
        workers: Workers | None = None,
        progress: Progress | None = None,
    ) -> Iterator[Build]:
        """Hold an index. Raises StoreError where another run has it."""
        workers = workers or Workers()
        job = IndexJob(
            out=absolute(store),
            settings=settings,
            dataset=None if dataset is None else dataset.uri,
            resources=workers.resources,
        )
        with locked(store) as held:
            store.sweep()
            progress = progress or Progress(quiet=True)
            # The etag first: a version that is put in force in between makes the swap fail.
            etag, before = current_etag(store), in_force(store)
            yield cls(store, held, job, workers, progress, etag, before)

    # -- parts ---------------------------------------------------------------------------

    def template(self, training: Training) -> Template:
        """Train the template, unless an earlier run has."""
        items = sum(work.rows for work in training.works)
        (facts,) = self._run([_task("template", training, items)]).values()
        return Template.model_validate(facts["template"])

    def shards(self, makings: Sequence[Making], *, whole: bool) -> tuple[Shard, ...]:
        """Make shards; one that the version in force has is taken over.

        ``whole``: only after its bytes have been checked; otherwise after their number.
        """
        reusable = self._reusable(makings, whole)
        tasks = [
            _task(f"{number:06d}", making, making.rows)
            for number, making in enumerate(makings)
            if making.inputs not in reusable
        ]
        total = sum(making.rows for making in makings)
        self.progress.begin(STEP, total, total - sum(task.items for task in tasks))
        made = self._run(tasks, lambda task, _: self.progress.advance(task.items))
        self.progress.end(f"{len(tasks)} shards made, {len(makings) - len(tasks)} taken over")
        return tuple(
            reusable.get(making.inputs) or Shard.model_validate(made[f"{number:06d}"]["shard"])
            for number, making in enumerate(makings)
        )

    def _reusable(self, makings: Sequence[Making], whole: bool) -> dict[str, Shard]:
        if self.before is None:
            return {}
        wanted = {making.inputs for making in makings}
        found = {s.inputs: s for s in self.before[1].shards if s.inputs in wanted and not s.dead}
        return {k: s for k, s in found.items() if _sound(self.store, s, whole)}

    def measured(self, draft: Manifest) -> Manifest:
        """Return a draft with its threshold, search and recall."""
        calibration = Calibration(draft=draft)
        settings = self.job.settings
        key = ids.digest([calibration.inputs, settings.fpir, settings.seed, settings.recall])
        (facts,) = self._run([_task("calibrate", calibration, draft.totals.indexed, key)]).values()
        recall = facts["recall"]
        return changed(
            draft,
            threshold=Threshold.model_validate(facts["threshold"]),
            search=Search.model_validate(facts["search"]),
            recall=None if recall is None else Recall.model_validate(recall),
        )

    def _run(
        self,
        tasks: Sequence[ShardTask],
        on_done: Callable[[ShardTask, Commit], None] = lambda task, commit: None,
    ) -> dict[str, Mapping[str, Any]]:
        return run_tasks(self.job, self.workers.runner, tasks, on_done)

    # -- the end -------------------------------------------------------------------------

    def publish(self, manifest: Manifest, *, in_force: bool = True, erase: bool = False) -> str:
        """Write a version and put it in force; return its name.

        Not ``in_force``: only write it. ``erase``: keep no other version. Raises GateFailed
        where it finds less than it should: it is written then, and not in force.
        """
        version = write_version(self.store, self.held, manifest)
        if in_force:
            for named in version_files(manifest):
                check_size(self.store, named)
            need_recall(manifest, version)
            waited = waiting(self.store) - {version}
            put_in_force(self.store, self.held, version, self.etag)
            say_dropped(self.progress, waited)
        # A build over a version that cannot be read has obeyed every list, or was told not to.
        retire(self.store, self.held, only_current=erase, forget=in_force and self.before is None)
        return version


def say_dropped(progress: Progress, versions: Iterable[str]) -> None:
    """Say which versions will never be in force, as another one is that was made beside them."""
    for version in sorted(versions):
        progress.say(
            f"index: version {version[:12]}, which is not in force, is dropped: what it "
            "changed is not in the one that is in force now"
        )


def changed(manifest: Manifest, **fields: Any) -> Manifest:
    """Return a manifest with other fields, checked as a new one is."""
    kept = {name: getattr(manifest, name) for name in Manifest.model_fields if name not in fields}
    return Manifest(**kept, **fields)


def described(version: str, manifest: Manifest, **more: Any) -> dict[str, Any]:
    """Return a version as the commands print it."""
    return {"version": version, **more, **manifest.model_dump(mode="json")}


def need_recall(manifest: Manifest, version: str) -> None:
    """Raise GateFailed where a version was measured to find less than it was built to."""
    recall = manifest.recall
    if recall is None:
        return
    remedy = (
        "give a larger --memory-budget, another --kind or a lower --recall; the version in "
        "force stays"
    )
    if recall.rth < recall.target:
        raise GateFailed(
            f"version {version[:12]} finds {recall.rth:.4f} of the pairs with a cosine of "
            f"{recall.min_cosine} or more, and should find {recall.target}: {remedy}"
        )
    least = least_id_at_1(recall.target)
    if recall.id_at_1_high < least:
        raise GateFailed(
            f"version {version[:12]} finds the right person in {recall.id_at_1:.4f} of "
            f"{recall.people_queries} searches, and should in {least:.4f}: {remedy}"
        )


def _task(name: str, payload: Any, items: int, key: str | None = None) -> ShardTask:
    return ShardTask(step=STEP, shard=name, key=key or payload.inputs, items=items, payload=payload)


def _sound(store: Store, shard: Shard, whole: bool) -> bool:
    try:
        for named in shard_files(shard):
            check_bytes(store, named) if whole else check_size(store, named)
    except CorruptData:
        return False
    return True
