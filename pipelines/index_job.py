"""The worker of index builds: a template, shards, and what they are measured to do.

Every task ends with a record, put only if absent, so that any engine may run it, twice or
anywhere, and a run after a crash does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from facepipe.commits import Commit, record_key
from facepipe.errors import CorruptData
from facepipe.index_manifest import Shard, Template
from facepipe.index_settings import IndexSettings
from facepipe.shards import Dataset
from facepipe.store import Store, open_store
from pipelines.index_calibrate import Calibration, calibrate_gallery
from pipelines.index_files import check_size, shard_files
from pipelines.index_shards import Making, make_shard
from pipelines.index_training import Training, make_template
from pipelines.index_versions import STEP
from pipelines.runners import ONE_CORE, Resources, Runner, ShardTask
from pipelines.runners.process import give_memory_back
from pipelines.stage import Stopwatch, WithoutModel, recorded

Payload = Training | Making | Calibration


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexJob:
    """How to open a worker that builds parts of an index; a task's payload says which."""

    out: str
    settings: IndexSettings
    dataset: str | None = None
    resources: Resources = ONE_CORE

    def open(self) -> IndexWorker:
        """Open the dataset and the index."""
        dataset = None if self.dataset is None else Dataset(open_store(self.dataset))
        return IndexWorker(self, dataset, open_store(self.out))

    def committed(self, tasks: Sequence[ShardTask]) -> Iterator[Commit]:
        """Yield the commits of those of these tasks that have one."""
        return recorded(open_store(self.out), tasks)


@dataclass(slots=True)
class IndexWorker(WithoutModel):
    """Runs one task of a build."""

    job: IndexJob
    dataset: Dataset | None
    store: Store

    def run(self, task: ShardTask, quarantined: frozenset[int]) -> Commit:
        """Do a task; the record says what it made."""
        watch = Stopwatch()
        facts = self._made(task.payload)
        watch.lap("index")
        commit = Commit(
            step=task.step,
            shard=task.shard,
            key=task.key,
            files=(),
            counts={"rows": {"done": task.items}},
            seconds=watch.rounded(),
            facts=facts,
        )
        where = record_key(STEP, task.shard, task.key)
        if self.store.put_if_absent(where, commit.to_json()):
            return commit
        return Commit.from_json(self.store.get(where), where)

    def _made(self, payload: Payload) -> dict[str, Any]:
        settings = self.job.settings
        if isinstance(payload, Making):
            shard = make_shard(self.store, self.dataset, payload, settings.device)
            return {"shard": shard.model_dump(mode="json")}
        if isinstance(payload, Calibration):
            return calibrate_gallery(self.store, payload, settings)
        if self.dataset is None:
            raise ValueError("a template is trained on a dataset, and none was given")
        template = make_template(self.store, self.dataset, payload, settings)
        return {"template": template.model_dump(mode="json")}


def run_tasks(
    job: IndexJob,
    runner: Runner | None,
    tasks: Sequence[ShardTask],
    on_done: Callable[[ShardTask, Commit], None] = lambda task, commit: None,
) -> dict[str, Mapping[str, Any]]:
    """Run the tasks that have no record yet; return what each made, by its shard's name."""
    found = {c.shard: c for c in job.committed(tasks)} if tasks else {}
    done: dict[str, Commit] = {}
    left = []
    for task in tasks:
        if task.shard in found and _there(open_store(job.out), found[task.shard]):
            done[task.shard] = found[task.shard]
        else:
            left.append(task)

    def collect(task: ShardTask, commit: Commit) -> None:
        done[task.shard] = commit
        on_done(task, commit)

    give_memory_back()  # what choosing the faces took
    if runner is None:
        worker = job.open() if left else None
        for task in left:
            if worker is not None:
                collect(task, worker.run(task, frozenset()))
                give_memory_back()
    elif left:
        runner.map(job, left, collect)
    return {task.shard: done[task.shard].facts for task in tasks}


def _there(store: Store, commit: Commit) -> bool:
    """Tell whether what a record names is still there; forget a record that outlived it."""
    try:
        if "shard" in commit.facts:
            for named in shard_files(Shard.model_validate(commit.facts["shard"])):
                check_size(store, named)
        elif "template" in commit.facts:
            template = Template.model_validate(commit.facts["template"])
            if store.size(template.key) != template.file.bytes:
                raise FileNotFoundError(template.key)
    except (FileNotFoundError, CorruptData):
        store.delete(record_key(STEP, commit.shard, commit.key))
        return False
    return True
