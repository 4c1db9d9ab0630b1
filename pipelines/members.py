"""Lists what lies in containers: one task a container, run by workers like any other step.

The driver never holds the names of an archive's photos; it learns how many there are, and
gives workers stretches of rows of the members table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from facepipe.commits import Commit, Plan, write_shard
from facepipe.config import Settings
from facepipe.containers import Member
from facepipe.schema import MEMBERS
from facepipe.shards import Dataset
from facepipe.source_kinds import LIST, open_container
from facepipe.sources import Entry, SourceSettings
from facepipe.store import open_store
from facepipe.url_guard import UrlSettings
from pipelines.listing import Listing, shard_rows
from pipelines.runners import ONE_CORE, Resources, ShardTask
from pipelines.stage import Recorded, Stopwatch, plan_of, resources_of, shard_key

STEP = "members"
VERSION = 1  # of the rules; raised when the same container would give other rows
GROUP_ROWS = 4096  # of the members table: what a worker reads to find its 256
EMPTY = "there is no photo in it"
_BATCH = 1 << 16  # members held as Python objects
# A compressed archive is read from its beginning for every part of it: few, large parts.
_SEQUENTIAL_PARTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class MembersJob(Recorded):
    """How to open a worker that lists containers."""

    dataset: str
    sources: SourceSettings
    urls: UrlSettings
    shard_photos: int | None
    resources: Resources = ONE_CORE

    def open(self) -> MembersWorker:
        """Open the dataset."""
        return MembersWorker(self, Dataset(open_store(self.dataset)))


@dataclass(slots=True)
class MembersWorker:
    """Turns containers into committed MEMBERS."""

    job: MembersJob
    dataset: Dataset

    def check(self) -> None:
        """There is no model to check."""

    def probe(self, task: ShardTask, item: int) -> None:
        """List the container and forget it."""
        for _ in self._rows(task.payload, []):
            pass

    def run(self, task: ShardTask, quarantined: frozenset[int]) -> Commit:
        """List one container; one that kills its worker, or holds nothing, is one bad row."""
        watch = Stopwatch()
        entry: Entry = task.payload
        sequential: list[bool] = []
        if quarantined:
            batches = [_batch([_bad(entry, "listing it killed the process, also when alone")])]
        else:
            batches = list(self._rows(entry, sequential))
        if not any(b.num_rows for b in batches):
            batches = [_batch([_bad(entry, EMPTY)])]
        table = pa.Table.from_batches(batches, MEMBERS)
        if self.job.sources.labels == "folder":
            table = _below_top(entry, table)
        watch.lap("list")
        problems = table.num_rows - table["problem"].null_count
        size = shard_rows(table.num_rows, self.job.shard_photos)
        if any(sequential):
            size = max(size, -(-table.num_rows // _SEQUENTIAL_PARTS))
        return write_shard(
            self.dataset.store,
            step=STEP,
            shard=task.shard,
            key=task.key,
            tables=[("members", "members", table, MEMBERS)],
            counts={"members": {"ok": table.num_rows - problems, "problem": problems}},
            seconds=watch.rounded(),
            facts={"part_rows": size, "unlisted": _unlisted(table)},
            group_rows=GROUP_ROWS,
        )

    def _rows(self, entry: Entry, sequential: list[bool]) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a container, and note whether it has to be read in sequence."""
        if entry.problem is not None:
            yield _batch([_bad(entry, entry.problem)])
            return
        rows: list[dict[str, Any]] = []
        try:
            container = open_container(entry, self.job.sources, self.job.urls)
        except OSError as error:
            yield _batch([_bad(entry, _damage(error))])
            return
        try:
            sequential.append(container.sequential)
            for member in container.members():
                rows.append(self._row(entry, member))
                if len(rows) == _BATCH:
                    yield _batch(rows)
                    rows = []
        except OSError as error:
            rows.append(_bad(entry, _damage(error)))
        finally:
            container.close()
        yield _batch(rows)

    def _row(self, entry: Entry, member: Member) -> dict[str, Any]:
        label = None
        if self.job.sources.labels == "folder":
            label = member.label or _folder(entry, member.name, 0) or entry.source_label
        listed = entry.kind == LIST and member.problem is None
        return {
            "uri": member.name if listed else entry.uri,
            "member": None if listed or not member.name else member.name,
            "offset": member.offset,
            "bytes": member.bytes,
            "source_label": label,
            "problem": member.problem,
        }


def _folder(entry: Entry, name: str, depth: int) -> str | None:
    """Return the first folder of a name in an archive, or one further down."""
    if entry.kind not in ("tar", "zip"):
        return None
    parts = [p for p in name.split("/") if p not in ("", ".", "..")]
    return parts[depth] if len(parts) > depth + 1 else None


def _below_top(entry: Entry, table: pa.Table) -> pa.Table:
    """Return the rows with the labels below the one folder that all of an archive lies in.

    lfw/Ann/1.jpg is Ann's, as it would be of the folder lfw that was packed. Where nothing
    lies deeper, the one folder is the label.
    """
    names = table["member"].to_pylist()
    first = {_folder(entry, n, 0) for n in names if n is not None}
    if len(first) != 1 or None in first:
        return table
    below = [None if n is None else _folder(entry, n, 1) for n in names]
    stated = table["source_label"].to_pylist()
    if not any(below) or any(s not in first for s in stated if s is not None):
        return table
    column = table.schema.get_field_index("source_label")
    return table.set_column(column, MEMBERS.field("source_label"), pa.array(below, pa.string()))


def _damage(error: OSError) -> str:
    """Return what is wrong with a container. Raises the error where it is not the container's.

    An error of the system (a file that is gone, a disk that does not answer) must not become
    the lasting row of an archive: the task fails, and is tried again.
    """
    if error.errno is not None:
        raise error
    return str(error)


def _bad(entry: Entry, problem: str) -> dict[str, Any]:
    return {
        "uri": entry.uri,
        "member": None,
        "offset": 0,
        "bytes": entry.bytes,
        "source_label": entry.source_label,
        "problem": problem,
    }


def _unlisted(table: pa.Table) -> bool:
    """Tell whether a container could not be listed to its end, which another try may mend."""
    whole = pc.and_(table["problem"].is_valid(), pc.is_null(table["member"]))
    return bool(pc.any(pc.and_(whole, pc.not_equal(table["problem"], EMPTY))).as_py())


def _batch(rows: list[dict[str, Any]]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(rows, schema=MEMBERS)


# -- in the driver -----------------------------------------------------------------------


def members_plan(
    dataset: Dataset, listing: Listing, retries: Mapping[str, int], settings: Settings
) -> tuple[MembersJob, Plan, list[ShardTask]]:
    """Return the job, plan and tasks that list a dataset's containers."""
    job = MembersJob(
        dataset=dataset.uri,
        sources=settings.sources,
        urls=settings.urls,
        shard_photos=settings.run.shard_photos,
        resources=resources_of(settings, STEP),
    )
    # How many photos a shard has is decided once, when a container is first listed.
    basis = {
        "version": VERSION,
        "sources": settings.sources.model_dump(mode="json", exclude={"gone", "containers"}),
    }
    tasks = [
        ShardTask(
            step=STEP,
            shard=shard,
            key=shard_key(STEP, basis, _inputs(entry, settings, retries.get(shard, 0))),
            items=1,
            payload=entry,
        )
        for shard, entry in listing.containers().items()
    ]
    return job, plan_of(STEP, basis, tasks), tasks


def _inputs(entry: Entry, settings: Settings, tries: int) -> list[Any]:
    """Return what decides a container's rows: of a list also which URLs are allowed."""
    urls = [settings.urls.model_dump(mode="json")] if entry.kind == LIST else []
    return [*inputs_of(entry), *urls, *([tries] if tries else [])]


def inputs_of(entry: Entry) -> list[Any]:
    """Return what of an input decides its rows."""
    return [entry.uri, entry.bytes, entry.version, entry.source_label, entry.problem, entry.kind]
