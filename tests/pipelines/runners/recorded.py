"""Jobs for engines whose workers are far away: with records to look up, and shards to hold."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from facepipe.commits import Commit
from pipelines.runners import ShardTask
from tests.pipelines.runners import contract


@dataclass(frozen=True)
class RecordedJob(contract.Job):
    """The contract's job, whose commits are files; the first runs of "held" never end."""

    hold: int = 0

    def open(self) -> RecordingWorker:
        return RecordingWorker(self)

    def committed(self, tasks: Sequence[ShardTask]) -> Iterator[Commit]:
        for task in tasks:
            record = Path(self.folder) / f"{task.shard}.json"
            if record.exists():
                yield Commit.from_json(record.read_bytes(), record.name)


@dataclass
class RecordingWorker(contract.Worker):
    job: RecordedJob

    def run(self, task: ShardTask, quarantined: frozenset[int]) -> Commit:
        if task.shard == "held" and self._count("held-runs") <= self.job.hold:
            with (Path(self.job.folder) / "held-pids").open("w") as pipe:  # waits for a reader
                pipe.write(f"{os.getpid()} {os.getppid()}")
            signal.pause()
        commit = super().run(task, quarantined)
        record = Path(self.job.folder) / f"{task.shard}.json"
        record.with_suffix(".part").write_bytes(commit.to_json())
        record.with_suffix(".part").rename(record)
        return commit


def held_pids(folder: Path) -> tuple[int, int]:
    """Wait until "held" is run, and return its process and the parent of that."""
    child, parent = (folder / "held-pids").read_text().split()
    return int(child), int(parent)
