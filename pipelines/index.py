"""Runs `facepipe.index`: builds a gallery from a dataset's tables."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from facepipe import ids
from facepipe.commits import Commit
from facepipe.errors import CorruptData, DatasetNotFound, UsageError
from facepipe.gallery import Include
from facepipe.index import IndexSettings, verify_shard
from facepipe.index_manifest import (
    CURRENT,
    INDEX_VERSION,
    NAME_CHARS,
    Manifest,
    manifest_key,
    read_manifest,
)
from facepipe.lease import LEASE, Held
from facepipe.shards import Dataset
from facepipe.store import LOCK, TEMPORARY, Store, locked, open_store
from pipelines.index_shards import STEP, IndexJob
from pipelines.progress import Progress
from pipelines.runners import ONE_CORE, Resources, Runner, ShardTask
from pipelines.search import format_results, search_photos

# The only folders that are ever removed: digests, not someone's own names.
OWN_NAME = re.compile(rf"[0-9a-f]{{{NAME_CHARS}}}")
OWN_ENTRIES = {CURRENT, "versions", "shards", "_commits", LOCK, LEASE, TEMPORARY}

__all__ = ["build_index", "format_results", "search_photos"]


def build_index(
    dataset: Dataset,
    out: str,
    settings: IndexSettings,
    include: Include = "kept",
    progress: Progress | None = None,
    runner: Runner | None = None,
    resources: Resources = ONE_CORE,
) -> dict[str, Any]:
    """Put a dataset's faces into the gallery at ``out`` and return its manifest.

    The manifest comes with ``version`` and with ``built``: False where the index in force was
    made from the same tables and settings and all its bytes are right; then nothing is
    written. The version before this one is kept, older ones are removed. The work is done by
    a worker of ``runner``, which needs ``resources``; without one, in this process.

    Raises DatasetNotFound before the first embed, StoreError where a step has not finished or
    the tables do not belong together, UsageError for ``out`` = the dataset.
    """
    progress = progress or Progress(quiet=True)
    store = _own_folder(dataset, out)
    plans = _finished_plans(dataset)
    inputs = _inputs(dataset, plans, settings, include)
    before = _in_force(store)
    if before is not None and before[1].inputs == inputs and _intact(store, before[1]):
        progress.say(f"index: nothing to do, {out} is up to date")
        return _described(*before, built=False)
    with locked(store) as held:
        store.sweep()
        rows = sum(f.rows for f in dataset.files("embeddings"))
        job = IndexJob(
            dataset=dataset.uri,
            out=store.uri if store.local is None else str(store.local.absolute()),
            settings=settings,
            include=include,
            resources=resources,
        )
        manifest = _build(store, job, plans, inputs, rows, runner)
        version = ids.sha256_hex(manifest.to_json())
        held.check()
        store.put(manifest_key(version), manifest.to_json())
        store.put(CURRENT, f"{version}\n".encode())
        _retire(store, held, [(version, manifest), *([before] if before else [])])
    totals = manifest.totals
    progress.say(f"index: {totals.indexed} of {totals.expected} faces in {out}")
    return _described(version, manifest, built=True)


def _own_folder(dataset: Dataset, out: str) -> Store:
    """Return the index's store. Raises UsageError for a folder that holds anything else."""
    if not out.strip():
        raise UsageError(f"--out {out!r} is no folder: give the folder of the index")
    store = open_store(out)
    if _place(store) == _place(dataset.store):
        raise UsageError(f"--out {out} is the dataset itself: give the index its own folder")
    names = store.names()
    others = [name for name in names if name not in OWN_ENTRIES]
    if others and CURRENT not in names:
        raise UsageError(
            f"--out {out} holds other things ({others[0]}) and no index: give a new folder"
        )
    return store


def _place(store: Store) -> str | Path:
    return store.uri if store.local is None else store.local.resolve()


def _described(version: str, manifest: Manifest, built: bool) -> dict[str, Any]:
    return {"version": version, "built": built, **manifest.model_dump(mode="json")}


# -- what it is made from ----------------------------------------------------------------


def _finished_plans(dataset: Dataset) -> dict[str, str | None]:
    """Return the plan ids of the steps that decide the gallery; clean may not have run yet."""
    embed = dataset.step_of("embeddings")
    dataset.require_embeddings(dataset.current_model())
    plans: dict[str, str | None] = {}
    for name, step in (("detect", "detect"), ("embed", embed), ("clean", "clean")):
        plan = dataset.plan(step)
        if plan is None and name != "clean":
            raise DatasetNotFound(
                f"{dataset.uri} has not been through {name}: run facepipe {name} or curate first"
            )
        if plan is not None:
            dataset.require(step)
        plans[name] = plan.plan_id if plan is not None else None
    return plans


def _inputs(
    dataset: Dataset, plans: dict[str, str | None], settings: IndexSettings, include: Include
) -> str:
    tables = ["faces", "embeddings", *(["decisions"] if plans["clean"] else [])]
    files = {name: [f.sha256 for f in dataset.files(name)] for name in tables}
    return ids.digest([INDEX_VERSION, plans, files, settings.model_dump(mode="json"), include])


def _build(
    store: Store,
    job: IndexJob,
    plans: dict[str, str | None],
    inputs: str,
    rows: int,
    runner: Runner | None,
) -> Manifest:
    """Have a worker write the shard, and return the manifest that names it."""
    done: list[Commit] = []
    task = ShardTask(step=STEP, shard="000000", key=inputs, items=rows, payload=plans)
    if runner is None:
        done.append(job.open().run(task, frozenset()))
    else:
        runner.map(job, [task], lambda _, commit: done.append(commit))
    for key in store.list(f"_commits/{STEP}"):  # it has decided; the manifest takes over
        store.delete(key)
    return Manifest.model_validate(done[0].facts["manifest"])


# -- versions ----------------------------------------------------------------------------


def _in_force(store: Store) -> tuple[str, Manifest] | None:
    """Return the version in force; None where there is none, or none that can be read."""
    try:
        return read_manifest(store)
    except (CorruptData, DatasetNotFound):
        return None


def _intact(store: Store, manifest: Manifest) -> bool:
    try:
        for shard in manifest.shards:
            verify_shard(store, shard)
    except CorruptData:
        return False
    return True


def _retire(store: Store, held: Held, keep: list[tuple[str, Manifest]]) -> None:
    """Remove versions and shards that neither the new version nor the one before it names."""
    versions = {version[:NAME_CHARS] for version, _ in keep}
    shards = {shard.name for _, manifest in keep for shard in manifest.shards}
    for parent, names in (("versions", versions), ("shards", shards)):
        found: dict[str, list[str]] = {}
        for key in store.list_all(parent):
            found.setdefault(key.split("/")[1], []).append(key)
        for folder in sorted(found.keys() - names):
            if OWN_NAME.fullmatch(folder):
                held.check()
                _remove(store, f"{parent}/{folder}", found[folder])


def _remove(store: Store, folder: str, keys: list[str]) -> None:
    if store.local is not None:
        shutil.rmtree(store.local / folder)
        return
    for key in keys:
        store.delete(key)
