"""A step over shards: plan it, run what is missing, retire what it replaces.

Every step of the product runs through `run_step`: what is committed under the plan is not
done again, so that a second run does nothing and a run after a crash does the rest.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from facepipe import ids
from facepipe.commits import Commit, Plan, record_key, total_counts
from facepipe.config import Settings
from facepipe.errors import FacepipeError
from facepipe.schema import SCHEMA_VERSION
from facepipe.shards import Dataset
from facepipe.store import Store, open_store
from pipelines.progress import Progress
from pipelines.runners import Job, Resources, Runner, ShardTask


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What a step found, and how much of it this run did."""

    step: str
    shards: int
    shards_run: int
    counts: Mapping[str, Mapping[str, int]]
    seconds: Mapping[str, float] = field(default_factory=dict)  # over all workers
    wall_s: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the report as --json prints it."""
        return {
            "step": self.step,
            "shards": self.shards,
            "shards_run": self.shards_run,
            "counts": {t: dict(c) for t, c in self.counts.items()},
            "seconds": {k: round(v, 3) for k, v in self.seconds.items()},
            "wall_s": round(self.wall_s, 3),
        }


def recorded(store: Store, tasks: Sequence[ShardTask]) -> Iterator[Commit]:
    """Yield the commits of those of these tasks that have one under their key."""
    if len(tasks) == 1:  # a listing may be long
        name = record_key(tasks[0].step, tasks[0].shard, tasks[0].key)
        with suppress(FileNotFoundError):
            yield Commit.from_json(store.get(name), name)
        return
    present: dict[str, set[str]] = {}
    for task in tasks:
        if task.step not in present:
            present[task.step] = set(store.list(f"_commits/{task.step}"))
        name = record_key(task.step, task.shard, task.key)
        if name in present[task.step]:
            yield Commit.from_json(store.get(name), name)


class Recorded:
    """A job whose commits are in the records of its dataset."""

    __slots__ = ()
    dataset: str

    def committed(self, tasks: Sequence[ShardTask]) -> Iterator[Commit]:
        """Yield the commits of those of these tasks that have one."""
        return recorded(open_store(self.dataset), tasks)


class WithoutModel:
    """A worker that opens no model, and whose shards no single item can spoil."""

    __slots__ = ()

    def check(self) -> None:
        """There is no model to check."""

    def probe(self, task: ShardTask, item: int) -> None:
        """Nothing here depends on one item alone."""


def resources_of(settings: Settings, step: str) -> Resources:
    """Return what one worker of a step keeps busy."""
    asked = getattr(settings.run.resources, step)
    uses_model = step in ("detect", "embed") and settings.models.device == "cuda"
    gpus = asked.num_gpus if asked.num_gpus is not None else float(uses_model)
    return Resources(num_cpus=asked.num_cpus, num_gpus=gpus, memory_bytes=asked.memory_bytes)


def shard_key(step: str, basis: Mapping[str, Any], inputs: Any) -> str:
    """Return the key of a shard: a digest of all that its bytes depend on."""
    return ids.digest([SCHEMA_VERSION, step, dict(basis), inputs])


def plan_of(step: str, basis: Mapping[str, Any], tasks: Sequence[ShardTask]) -> Plan:
    """Return the plan that a list of tasks makes up."""
    return Plan(step=step, shards={t.shard: t.key for t in tasks}, basis=dict(basis))


def missing(dataset: Dataset, step: str, tasks: Sequence[ShardTask]) -> list[ShardTask]:
    """Return the tasks that are not committed under their key."""
    present = set(dataset.keys(f"_commits/{step}"))
    return [t for t in tasks if record_key(step, t.shard, t.key) not in present]


def run_step(
    dataset: Dataset,
    runner: Runner,
    job: Job,
    plan: Plan,
    tasks: Sequence[ShardTask],
    progress: Progress,
) -> StepReport:
    """Run a step's missing tasks to their commits and make the result the step's own.

    Raises FacepipeError where the plan is not complete at the end.
    """
    started = time.monotonic()
    todo = missing(dataset, plan.step, tasks)
    total = sum(t.items for t in tasks)
    progress.begin(plan.step, total, total - sum(t.items for t in todo))
    if todo:
        _say_what_changed(dataset, plan, progress)
        dataset.unpack(plan.step)
    dataset.write_plan(plan)
    if todo:
        _map(dataset, runner, job, plan.step, todo, progress)
    commits = dataset.commits(plan.step)
    if len(commits) != len(tasks):
        raise FacepipeError(
            f"{plan.step}: {len(tasks) - len(commits)} of {len(tasks)} shards are not committed, "
            "though every one was run: check that nothing else writes to the dataset, "
            "then run the same command again"
        )
    dataset.pack(plan.step)
    # Also where nothing was to do: a run may have died just here.
    dataset.retire(plan.step, look=bool(todo))
    dataset.write_manifest()
    report = StepReport(
        step=plan.step,
        shards=len(tasks),
        shards_run=len(todo),
        counts=total_counts(commits),
        seconds=total_seconds(commits),
        wall_s=time.monotonic() - started,
    )
    progress.end(summary(report))
    return report


def _map(
    dataset: Dataset,
    runner: Runner,
    job: Job,
    step: str,
    todo: Sequence[ShardTask],
    progress: Progress,
) -> None:
    """Run tasks to their commits, and know of those even where the run ends with an error."""
    done: list[Commit] = []

    def on_done(task: ShardTask, commit: Commit) -> None:
        done.append(commit)
        progress.advance(task.items)

    try:
        runner.map(job, todo, on_done)
    finally:
        dataset.note(step, done)


def _say_what_changed(dataset: Dataset, plan: Plan, progress: Progress) -> None:
    """Name the settings that make work that was done before be done again."""
    before = dataset.plan(plan.step)
    if before is None or before.basis == plan.basis:
        return
    old, new = _flat(before.basis), _flat(plan.basis)
    changed = sorted(k for k in {*old, *new} if old.get(k) != new.get(k))
    progress.say(f"{plan.step.split('-')[0]}: done again, since {', '.join(changed)} changed")


def _flat(basis: Mapping[str, Any]) -> dict[str, Any]:
    return {
        f"{name}.{key}" if key else name: below
        for name, value in basis.items()
        for key, below in (value.items() if isinstance(value, Mapping) else [("", value)])
    }


def total_seconds(commits: Sequence[Commit]) -> dict[str, float]:
    """Return the sum of commits' timings by part."""
    totals: dict[str, float] = {}
    for commit in commits:
        for part, seconds in commit.seconds.items():
            totals[part] = totals.get(part, 0.0) + seconds
    return dict(sorted(totals.items()))


def summary(report: StepReport) -> str:
    """Return a step's counts in a line."""
    tables = [
        f"{sum(counts.values())} {table} ("
        + ", ".join(f"{n} {status}" for status, n in counts.items())
        + ")"
        for table, counts in report.counts.items()
        if counts
    ]
    nothing = "nothing to do, " if report.shards and not report.shards_run else ""
    return nothing + ("; ".join(tables) or "no rows")


@dataclass(slots=True)
class Stopwatch:
    """Adds up seconds by part of the work."""

    seconds: dict[str, float] = field(default_factory=dict)
    _since: float = field(default_factory=time.perf_counter)

    def lap(self, part: str) -> None:
        """Count the time since the last lap to ``part``."""
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._since
        self._since = now

    def rounded(self) -> dict[str, float]:
        """Return the seconds to a tenth of a millisecond."""
        return {part: round(value, 4) for part, value in self.seconds.items()}
