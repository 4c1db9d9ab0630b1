"""Which shards of which steps are committed: plans, records, the manifest, and what is retired.

    _plan/<step>.json                   which shards a step has, each with the key of its inputs
    _commits/<step>.jsonl               a finished step's records in one file, for quick readers
    _commits/<step>/<shard>-<key>.json  put only if absent: decides what a shard is
    MANIFEST.json                       written last: every committed file with rows and counts

Readers take the records that the plan names, never a glob; what an interrupted or superseded
run left is removed when the step next finishes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

from facepipe.commits import (
    SHARD_FILE,
    Commit,
    Plan,
    pack_commits,
    packed_key,
    record_key,
    total_counts,
    unpack_commits,
)
from facepipe.errors import CorruptData, StoreError
from facepipe.lease import Held
from facepipe.schema import SCHEMA_VERSION
from facepipe.store import Store

MANIFEST = "MANIFEST.json"


class Ledger:
    """The plans and commit records under one folder or prefix."""

    def __init__(self, store: Store) -> None:
        """Open without looking."""
        self.store = store
        self._held: Held | None = None
        self._seen: dict[str, int] | None = None  # every key there is, while a run holds it
        self._known: dict[str, list[Commit]] = {}  # by step, while a run holds it
        self._plans: dict[str, Plan | None] = {}  # the same

    @property
    def uri(self) -> str:
        """Return the folder or prefix."""
        return self.store.uri

    # -- a run's own view ----------------------------------------------------------------

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the store for one run, and look at it once: nobody else changes it meanwhile.

        Raises StoreError where another run has it.
        """
        with self.store.hold() as held:
            self._held, self._seen = held, self.store.list_all()
            try:
                yield
            finally:
                self._held, self._seen, self._known, self._plans = None, None, {}, {}

    def keys(self, folder: str) -> list[str]:
        """Return the keys directly in a folder, sorted."""
        if self._seen is None:
            return self.store.list(folder)
        start = len(folder) + 1
        return [k for k in self._seen if k.startswith(folder + "/") and "/" not in k[start:]]

    def has(self, key: str) -> bool:
        """Tell whether a key is there."""
        return self.store.exists(key) if self._seen is None else key in self._seen

    def put(self, key: str, data: bytes) -> None:
        """Write a key, unless it holds the same bytes. Raises StoreError where the lease is lost.

        What only the driver writes goes through here; shards are committed by their records.
        """
        if self.has(key) and self.store.get(key) == data:
            return
        self._still_ours()
        self.store.put(key, data)
        if self._seen is not None:
            self._seen[key] = len(data)

    def delete(self, key: str) -> None:
        """Remove a key. Raises StoreError where the lease is lost."""
        self._still_ours()
        self.store.delete(key)
        if self._seen is not None:
            self._seen.pop(key, None)

    def note(self, step: str, commits: Iterable[Commit]) -> None:
        """Know of records that this run's workers have put, and of their files."""
        self._known.pop(step, None)
        if self._seen is None:
            return
        for commit in commits:
            self._seen[record_key(step, commit.shard, commit.key)] = 1
            self._seen.update({f.file: f.bytes for f in commit.files})

    def _still_ours(self) -> None:
        if self._held is not None:
            self._held.check()

    # -- plans and commits ---------------------------------------------------------------

    def plan(self, step: str) -> Plan | None:
        """Return a step's plan, or None where it has never been planned."""
        if step not in self._plans:
            plan = self._read_plan(step)
            if self._seen is None:
                return plan
            self._plans[step] = plan
        return self._plans[step]

    def _read_plan(self, step: str) -> Plan | None:
        name = f"_plan/{step}.json"
        if not self.has(name):
            return None
        try:
            value = json.loads(self.store.get(name))
            return Plan(step=value["step"], shards=value["shards"], basis=value["basis"])
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptData(
                f"{self.uri}/{name} cannot be read: delete it and run the step again"
            ) from error

    def write_plan(self, plan: Plan) -> None:
        """Store a plan, unless the same one is there already."""
        self._known.pop(plan.step, None)
        self._plans.pop(plan.step, None)
        self.put(f"_plan/{plan.step}.json", plan.to_json())

    def commits(self, step: str) -> list[Commit]:
        """Return the committed shards of a step's plan, in the order of the plan."""
        if step in self._known:
            return self._known[step]
        plan = self.plan(step)
        if plan is None:
            return []
        present = set(self.keys(f"_commits/{step}"))
        packed = self._packed(plan)
        found = []
        for shard, key in plan.shards.items():
            name = record_key(step, shard, key)
            if name in present:
                found.append(packed.get(shard) or self._record(name))
        found = [c for c in found if plan.shards.get(c.shard) == c.key]
        if self._seen is not None:
            self._known[step] = found
        return found

    def _record(self, name: str) -> Commit:
        try:
            return Commit.from_json(self.store.get(name), name)
        except FileNotFoundError as error:
            raise StoreError(
                f"{self.uri}/{name} has just been removed: another run works on {self.uri}, or its "
                "workers do not see the folder that this command sees"
            ) from error

    def _packed(self, plan: Plan) -> dict[str, Commit]:
        name = packed_key(plan.step)
        if not self.has(name):
            return {}
        return unpack_commits(self.store.get(name), plan.plan_id)

    def pack(self, step: str) -> None:
        """Store a finished step's records as one file, so that nobody reads them one by one."""
        plan = self.plan(step)
        if plan is not None:
            self.put(packed_key(step), pack_commits(plan.plan_id, self.commits(step)))

    def unpack(self, step: str) -> None:
        """Remove that file before shards are done again: its copies would be the old records."""
        if self.has(packed_key(step)):
            self.delete(packed_key(step))
        self._known.pop(step, None)

    def finished(self, step: str) -> bool:
        """Tell whether every shard of a step's plan is committed."""
        plan = self.plan(step)
        return plan is not None and len(self.commits(step)) == len(plan.shards)

    def require(self, *steps: str) -> None:
        """Raise StoreError, with the remedy, unless every shard of the steps is committed."""
        for step in steps:
            plan = self.plan(step)
            done = len(self.commits(step))
            if plan is None or done < len(plan.shards):
                of = f"{done} of {len(plan.shards)} shards are" if plan else "nothing is"
                raise StoreError(
                    f"{step.split('-')[0]} of {self.uri} has not finished ({of} done): run the "
                    "command that was interrupted again"
                )

    def steps(self) -> list[str]:
        """Return the steps that have a plan, sorted."""
        names = (PurePosixPath(k) for k in self.keys("_plan"))
        return sorted(n.stem for n in names if n.suffix == ".json" and n.stem not in NOT_STEPS)

    # -- the end of a step ---------------------------------------------------------------

    def folders(self, commits: Iterable[Commit]) -> set[str]:
        """Return the folders that commits wrote to."""
        return {str(PurePosixPath(f.file).parent) for c in commits for f in c.files}

    def retire(self, step: str, *, look: bool = True) -> int:
        """Remove a finished step's superseded records and files; return how many files.

        ``look`` lists its folders anew, since other attempts may have written there.
        """
        commits = self.commits(step)
        keep = {record_key(step, c.shard, c.key) for c in commits}
        files = {f.file for c in commits for f in c.files}
        names = self.store.list if look else self.keys
        stale = [k for k in names(f"_commits/{step}") if k not in keep]
        for record in stale:  # the record goes first: a file without one is only an orphan
            self.delete(record)
        orphans = [
            k
            for folder in sorted(self.folders(commits))
            for k in names(folder)
            if k not in files and SHARD_FILE.fullmatch(PurePosixPath(k).name)
        ]
        for orphan in orphans:
            self.delete(orphan)
        return len(orphans)

    def write_manifest(self) -> dict[str, Any]:
        """Write MANIFEST.json from the records; return it. Holds no time, so it is reproducible."""
        manifest: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "steps": {}}
        for step in self.steps():
            commits = self.commits(step)
            plan = self.plan(step)
            if plan is None:
                raise StoreError(f"the plan of {step} went away while {self.uri} was written")
            manifest["steps"][step] = {
                "plan_id": plan.plan_id,
                "complete": len(commits) == len(plan.shards),
                "counts": total_counts(commits),
                "files": [f.as_json() for c in commits for f in c.files],
                **_generations(commits),
            }
        self.put(MANIFEST, (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode())
        return manifest


NOT_STEPS = {"embed", "forecast", "retries"}  # files of _plan that are no plan of a step


def _generations(commits: Sequence[Commit]) -> dict[str, Any]:
    """Return the counts of each generation of photos, for the step that knows them."""
    numbers = sorted({c.facts["generation"] for c in commits if "generation" in c.facts})
    if not numbers:
        return {}
    of = {n: [c for c in commits if c.facts.get("generation") == n] for n in numbers}
    return {"generations": {str(n): total_counts(of[n]) for n in numbers}}
