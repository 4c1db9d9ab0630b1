"""What processes out of the driver's hands report of shards, and what the driver makes of it."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from facepipe import errors
from facepipe.commits import Commit
from facepipe.errors import FacepipeError
from pipelines.runners import Job, RecordedJob, ShardTask
from pipelines.runners.quarantine import given_up

OnDone = Callable[[ShardTask, Commit], None]
# In base64: an engine may quote the text of an error, or break its lines.
_SEAL = re.compile(r"facepipe-error:([\w-]+=*)")


def report_of(run: str, task: ShardTask, result: Commit | BaseException) -> dict[str, Any]:
    """Return as JSON that a shard is committed, ends the run, or is given up."""
    report: dict[str, Any] = {"run": run, "shard": task.shard}
    if isinstance(result, Commit):
        return {**report, "commit": result.to_json().decode()}
    if isinstance(result, FacepipeError):
        return {**report, "fatal": {"kind": type(result).__name__, "text": str(result)}}
    return {**report, "failed": f"{type(result).__name__}: {result}"}


def sealed(fatal: Mapping[str, str]) -> str:
    """Return a fatal report as the text of an error that can be read and be found again."""
    code = base64.urlsafe_b64encode(json.dumps(fatal).encode()).decode()
    return f"{fatal['kind']}: {fatal['text']} (facepipe-error:{code})"


def unsealed(text: str) -> FacepipeError | None:
    """Return the error that is sealed in the text of another."""
    for code in _SEAL.findall(text):
        try:
            return rebuilt(json.loads(base64.urlsafe_b64decode(code)))
        except (binascii.Error, ValueError, KeyError):  # cut off
            continue
    return None


def rebuilt(fatal: Mapping[str, str]) -> FacepipeError:
    """Return the error that a worker met, as its own kind where facepipe.errors has it."""
    kind = getattr(errors, fatal["kind"], None)
    if isinstance(kind, type) and issubclass(kind, FacepipeError):
        return kind(fatal["text"])
    return FacepipeError(fatal["text"])


@dataclass(slots=True)
class Round:
    """The state of one `map`: which of its tasks are done, and why others are not."""

    job: Job
    left: dict[str, ShardTask]  # by shard; not committed, as far as is known
    on_done: OnDone
    causes: dict[str, str] = field(default_factory=dict)  # why a shard was given up

    def todo(self) -> list[ShardTask]:
        """Return the tasks that are neither done nor given up."""
        return [task for shard, task in self.left.items() if shard not in self.causes]

    def take(self, report: Mapping[str, Any]) -> None:
        """Take a report. Raises the error that ends the run."""
        if "fatal" in report:
            raise rebuilt(report["fatal"])
        if "failed" in report:
            self.causes[report["shard"]] = report["failed"]
        else:
            self._done(Commit.from_json(report["commit"].encode(), report["shard"]))

    def look(self) -> None:
        """Find the commits that nobody reported."""
        if self.left and isinstance(self.job, RecordedJob):
            for commit in self.job.committed(list(self.left.values())):
                self._done(commit)

    def _done(self, commit: Commit) -> None:
        """Count a commit, once however often it is reported."""
        self.causes.pop(commit.shard, None)
        task = self.left.pop(commit.shard, None)
        if task is not None:
            self.on_done(task, commit)

    def end(self, retries: int) -> None:
        """Raise FacepipeError where a shard is not committed."""
        causes = {shard: cause for shard, cause in self.causes.items() if shard in self.left}
        if causes:
            raise given_up(causes, retries)
        if self.left:
            raise FacepipeError(
                f"every shard was run, but {len(self.left)} are not committed, {min(self.left)} "
                "first: the workers' logs say why. Do they write to the dataset that this "
                "command reads?"
            )
