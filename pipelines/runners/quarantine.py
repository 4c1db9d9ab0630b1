"""Finding what kills workers: a suspect shard runs alone, then each of its items.

The same on every engine, since all it needs is processes of its own to lose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any, Protocol

from facepipe.commits import Commit
from facepipe.errors import FacepipeError
from pipelines.runners import Job, ShardTask, WorkerDied
from pipelines.runners.process import probe_item, run_task


def cannot_open(workers: int) -> FacepipeError:
    """Return the error of a job whose opening kills its process."""
    return FacepipeError(
        "opening the models kills the process: is there memory enough for "
        f"{workers} workers, and does onnxruntime run on this machine?"
    )


def given_up(causes: Mapping[str, str], retries: int) -> FacepipeError:
    """Return the error of a run some of whose shards failed to the last; causes are by shard."""
    shard, cause = min(causes.items())
    return FacepipeError(
        f"{len(causes)} shards failed {retries + 1} times, {shard} first with {cause}; the others "
        "are kept: run the same command again once the cause is mended"
    )


class Pool(Protocol):
    """Worker processes that run calls."""

    @property
    def broken(self) -> bool:
        """Tell whether a death has made the whole pool useless."""
        ...

    def submit(self, call: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Run a call of `pipelines.runners.process` in one of the processes.

        The future fails with WorkerDied where the process did not live to answer, and with
        the call's own exception otherwise. Raises WorkerDied where the pool is broken.
        """
        ...

    def end(self, kill: bool) -> None:
        """End the processes; with ``kill`` without waiting for their tasks."""
        ...


# How often an item has to kill a process that has run nothing else: machines are taken away and
# memory runs out at any moment, and a photo must not be blamed for that.
_CONFIRMATIONS = 2


class KillsWorker(Exception):
    """A shard's process died twice, and no single item is to blame: to be tried again later."""


# Opens a pool of one new process that has run nothing yet.
Fresh = Callable[[], AbstractContextManager[Pool]]


def run_alone(job: Job, task: ShardTask, fresh: Fresh) -> Commit:
    """Run a suspect in a process of its own; where that dies too, find what kills it.

    Raises KillsWorker where the shard's process died again and no single item did it.
    """
    commit = _alone(job, task, frozenset(), fresh)
    if commit is not None:
        return commit
    quarantined = frozenset(_poisonous(job, task, fresh))
    commit = _alone(job, task, quarantined, fresh) if quarantined else None
    if commit is None:
        raise KillsWorker(
            f"shard {task.shard} of {task.step} kills its worker, and no single item of it "
            "does: most likely memory runs out. Use fewer --workers or a smaller "
            "run.shard_photos, then run the same command again"
        )
    return commit


def _alone(job: Job, task: ShardTask, quarantined: frozenset[int], fresh: Fresh) -> Commit | None:
    """Run a task in a fresh process; None where it dies."""
    with fresh() as pool:
        try:
            commit: Commit = pool.submit(run_task, job, task, quarantined).result()
        except WorkerDied:
            return None
        return commit


def _poisonous(job: Job, task: ShardTask, fresh: Fresh) -> Iterator[int]:
    """Yield the items that kill a process, also when they are its only one."""
    start = 0
    while start < task.items:
        with fresh() as pool:
            for item in range(start, task.items):
                if _dies(pool, job, task, item):
                    if all(_dies_alone(job, task, item, fresh) for _ in range(_CONFIRMATIONS)):
                        yield item
                    start = item + 1
                    break
            else:
                return


def _dies_alone(job: Job, task: ShardTask, item: int, fresh: Fresh) -> bool:
    with fresh() as pool:
        return _dies(pool, job, task, item)


def _dies(pool: Pool, job: Job, task: ShardTask, item: int) -> bool:
    """Tell whether probing an item kills the process; an error it raises is no death."""
    return isinstance(pool.submit(probe_item, job, task, item).exception(), WorkerDied)
