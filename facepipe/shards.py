"""Stored tables: shards, the records that commit them, and the dataset they make up.

    DATASET/
      photos/ faces/ embeddings/<model>/ duplicates/ decisions/   <shard>-<sha8>.parquet
      _plan/<step>.json                 which shards a step has, each with the key of its inputs
      _commits/<step>/<shard>-<key>.json  put only if absent: decides what a shard is
      MANIFEST.json                     written last: every committed file with rows and counts

A shard task is a pure function of its inputs, and its *key* is a digest of them. A step
commits all the tables it writes in one record (docs/adr/0004). Readers take the records
that the plan names, never a glob; what an interrupted or superseded run left is removed
when the step next finishes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from facepipe.commits import SHARD_FILE, Commit, Plan, ShardFile, record_key, total_counts
from facepipe.errors import CorruptData, DatasetNotFound, StoreError, UsageError
from facepipe.schema import SCHEMA_VERSION
from facepipe.store import LocalStore

if TYPE_CHECKING:
    import pyarrow.dataset as pads

MANIFEST = "MANIFEST.json"
OWN_ENTRIES = {"_lock", "_plan", "_tmp", "_commits"}  # what even a run stopped at once leaves
STEP_OF_TABLE = {
    "photos": "detect",
    "faces": "detect",
    "embeddings": "embed",
    "duplicates": "dedup",
    "decisions": "clean",
}


class Dataset:
    """The tables under one folder, as the commit records have them."""

    def __init__(self, store: LocalStore) -> None:
        """Open without looking; `open_dataset` is the public door."""
        self.store = store

    @property
    def uri(self) -> str:
        """Return the folder."""
        return str(self.store.root)

    # -- plans and commits ---------------------------------------------------------------

    def plan(self, step: str) -> Plan | None:
        """Return a step's plan, or None where it has never been planned."""
        name = f"_plan/{step}.json"
        if not self.store.exists(name):
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
        if self.plan(plan.step) != plan:
            self.store.put(f"_plan/{plan.step}.json", plan.to_json())

    def commits(self, step: str) -> list[Commit]:
        """Return the committed shards of a step's plan, in the order of the plan."""
        plan = self.plan(step)
        if plan is None:
            return []
        present = set(self.store.list(f"_commits/{step}"))
        names = [record_key(step, shard, key) for shard, key in plan.shards.items()]
        found = [Commit.from_json(self.store.get(n), n) for n in names if n in present]
        return [c for c in found if plan.shards.get(c.shard) == c.key]

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

    def require_embeddings(self, model: str) -> None:
        """Raise StoreError unless a model's vectors are those of the faces there are now."""
        step = self.step_of("embeddings", model)
        self.require("detect", step)
        faces = {c.shard: f.sha256 for c in self.commits("detect") for f in c.files[1:]}
        embedded = {c.shard: c.facts.get("faces") for c in self.commits(step)}
        if faces != embedded:
            raise StoreError(
                f"the faces of {self.uri} have changed since they were embedded: run facepipe "
                f"embed --out {self.uri} again"
            )

    # -- tables --------------------------------------------------------------------------

    def step_of(self, table: str, model: str | None = None) -> str:
        """Return the step that writes a table. Raises DatasetNotFound for an unknown table."""
        if table not in STEP_OF_TABLE:
            raise DatasetNotFound(f"no table {table!r}: there are {', '.join(STEP_OF_TABLE)}")
        if table != "embeddings":
            return STEP_OF_TABLE[table]
        model = model or self.current_model()
        return f"embed-{model[:12]}"

    def current_model(self) -> str:
        """Return the model_id of the last embed run. Raises DatasetNotFound before the first."""
        name = "_plan/embed.json"
        if not self.store.exists(name):
            raise DatasetNotFound(
                f"{self.uri} has no embeddings yet: run facepipe embed --out {self.uri}"
            )
        return str(json.loads(self.store.get(name))["model_id"])

    def set_current_model(self, model_id: str) -> None:
        """Make a model's embeddings the ones that readers get by default."""
        data = (json.dumps({"model_id": model_id}) + "\n").encode()
        name = "_plan/embed.json"
        if not self.store.exists(name) or self.store.get(name) != data:
            self.store.put(name, data)

    def files(self, table: str, model: str | None = None) -> list[ShardFile]:
        """Return the committed files of a table, in shard order."""
        commits = self.commits(self.step_of(table, model))
        return [f for c in commits for f in c.files if f.table == table]

    def table(
        self,
        name: str,
        columns: Sequence[str] | None = None,
        model: str | None = None,
        *,
        partial: bool = False,
    ) -> pa.Table:
        """Return a table in memory, in shard order, rows by id within a shard.

        Raises DatasetNotFound where its step has not committed anything, StoreError where it
        has not finished (``partial`` returns what there is), UsageError for an unknown
        column, CorruptData where a file is missing or is not what its record says.
        """
        files = self._some_files(name, model, partial)
        return pa.concat_tables([self.read(f, columns) for f in files])

    def scan(self, name: str, model: str | None = None, *, partial: bool = False) -> pads.Dataset:
        """Return a table as a pyarrow dataset, to be filtered and streamed; as `table`."""
        import pyarrow.dataset as pads

        files = [str(self.store.path(f.file)) for f in self._some_files(name, model, partial)]
        return pads.dataset(files, format="parquet")

    def read(self, file: ShardFile, columns: Sequence[str] | None = None) -> pa.Table:
        """Return one committed file. Raises CorruptData."""
        try:
            with pq.ParquetFile(self.store.path(file.file)) as parquet:
                unknown = set(columns or ()) - set(parquet.schema_arrow.names)
                if unknown:
                    raise UsageError(
                        f"{file.table} has no column {', '.join(sorted(unknown))}: it has "
                        f"{', '.join(parquet.schema_arrow.names)}"
                    )
                table = parquet.read(
                    columns=None if columns is None else list(columns), use_threads=False
                )
        except (OSError, pa.ArrowException) as error:
            raise CorruptData(
                f"{self.uri}/{file.file} is committed but cannot be read ({error}): run "
                f"facepipe verify {self.uri} --repair, then the same command again"
            ) from error
        if table.num_rows != file.rows:
            raise CorruptData(
                f"{self.uri}/{file.file} has {table.num_rows} rows, its record says {file.rows}: "
                f"run facepipe verify {self.uri} --repair"
            )
        return table

    def _some_files(self, name: str, model: str | None, partial: bool) -> list[ShardFile]:
        files = self.files(name, model)
        if not files:
            step = STEP_OF_TABLE[name]
            raise DatasetNotFound(
                f"{self.uri} has no {name} yet: run facepipe {step} --out {self.uri} "
                "(or facepipe curate, which runs every step)"
            )
        if not partial:
            self.require(self.step_of(name, model))
        return files

    # -- the end of a step ---------------------------------------------------------------

    def steps(self) -> list[str]:
        """Return the steps that have a plan, sorted."""
        names = (Path(k).stem for k in self.store.list("_plan") if k.endswith(".json"))
        return sorted(n for n in names if n not in {"embed"})

    def folders(self, commits: Iterable[Commit]) -> set[str]:
        """Return the folders that commits wrote to."""
        return {str(Path(f.file).parent) for c in commits for f in c.files}

    def retire(self, step: str) -> int:
        """Remove a finished step's superseded records and files; return how many files."""
        commits = self.commits(step)
        keep = {record_key(step, c.shard, c.key) for c in commits}
        files = {f.file for c in commits for f in c.files}
        stale = [k for k in self.store.list(f"_commits/{step}") if k not in keep]
        for record in stale:  # the record goes first: a file without one is only an orphan
            self.store.delete(record)
        orphans = [
            k
            for folder in self.folders(commits)
            for k in self.store.list(folder)
            if k not in files and SHARD_FILE.fullmatch(Path(k).name)
        ]
        for orphan in orphans:
            self.store.delete(orphan)
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
                "files": [asdict(f) for c in commits for f in c.files],
            }
        data = (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode()
        if not self.store.exists(MANIFEST) or self.store.get(MANIFEST) != data:
            self.store.put(MANIFEST, data)
        return manifest


def new_or_open_dataset(uri: str | Path) -> Dataset:
    """Return the dataset in a folder, or one to be started in an empty or missing folder.

    Raises UsageError for no name, a file, and a folder that holds anything but a dataset:
    a dataset removes what it replaces, so it must have its folder for itself.
    """
    root = Path(uri)
    if not str(uri).strip():
        raise UsageError("--out is empty: give the folder of the dataset")
    if root.exists() and not root.is_dir():
        raise UsageError(f"--out {uri} is a file: give the folder of the dataset")
    dataset = Dataset(LocalStore(root))
    is_one = dataset.store.exists(MANIFEST) or dataset.store.path("_plan").is_dir()
    others = [p.name for p in root.iterdir() if p.name not in OWN_ENTRIES] if root.exists() else []
    if others and not is_one:
        raise UsageError(
            f"--out {uri} holds other things ({sorted(others)[0]}) and no dataset: give a new "
            "folder or one of its own"
        )
    return dataset


def open_dataset(uri: str | Path) -> Dataset:
    """Open the dataset in a folder. Raises DatasetNotFound where there is none."""
    store = LocalStore(uri)
    if not (store.path("_plan").is_dir() or store.exists(MANIFEST)):
        raise DatasetNotFound(
            f"no dataset in {uri}: make one with facepipe curate PHOTOS --out {uri}"
        )
    return Dataset(store)
