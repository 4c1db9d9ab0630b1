"""Checks a dataset: checksums, rows, orphans, and counts that add up from step to step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from facepipe import ids
from facepipe.commits import Commit, ShardFile, record_key
from facepipe.errors import CorruptData
from facepipe.shards import Dataset
from facepipe.store import locked
from pipelines.listing import read_listing


def verify_dataset(dataset: Dataset, *, repair: bool = False) -> dict[str, Any]:
    """Return the problems of a dataset, and how many files and rows were checked.

    With ``repair`` the records of broken shards are deleted, so that the command that made
    the dataset redoes those, and only those. Raises StoreError where a run holds it.
    """
    problems: list[str] = []
    files = rows = 0
    broken: list[Commit] = []
    for step in dataset.steps():
        plan = dataset.plan(step)
        commits = _commits(dataset, step, problems, repair)
        for commit in commits:
            bad = [text for file in commit.files if (text := _check_file(dataset, file))]
            problems += bad
            files += len(commit.files)
            rows += sum(file.rows for file in commit.files)
            if bad:
                broken.append(commit)
        if plan is not None and len(commits) < len(plan.shards):
            left = len(plan.shards) - len(commits)
            problems.append(f"{step}: {left} of {len(plan.shards)} shards are not done")
        problems += _orphans(dataset, commits)
    if not problems:
        problems += _counts(dataset)
    if repair and broken:
        with locked(dataset.store):
            for commit in broken:
                dataset.store.delete(record_key(commit.step, commit.shard, commit.key))
    return {"problems": problems, "files": files, "rows": rows, "repaired": repair}


def _commits(dataset: Dataset, step: str, problems: list[str], repair: bool) -> list[Commit]:
    """Return a step's readable commits; with ``repair`` unreadable records are deleted."""
    readable = []
    plan = dataset.plan(step)
    for shard, key in plan.shards.items() if plan else ():
        name = record_key(step, shard, key)
        if not dataset.store.exists(name):
            continue
        try:
            commit = Commit.from_json(dataset.store.get(name), name)
        except CorruptData as error:
            problems.append(str(error))
            if repair:
                dataset.store.delete(name)
            continue
        readable.append(commit)
    return readable


def _check_file(dataset: Dataset, file: ShardFile) -> str | None:
    path = dataset.store.path(file.file)
    if not path.is_file():
        return f"{file.file}: missing"
    if path.stat().st_size != file.bytes:
        return f"{file.file}: {path.stat().st_size} bytes instead of {file.bytes}"
    if ids.sha256_hex(path.read_bytes()) != file.sha256:
        return f"{file.file}: checksum does not match"
    try:
        dataset.read(file, [])
    except CorruptData as error:
        return str(error)
    return None


def _orphans(dataset: Dataset, commits: list[Commit]) -> list[str]:
    named = {f.file for c in commits for f in c.files}
    return [
        f"{key}: no record names it (an interrupted run; the next finished one removes it)"
        for folder in sorted(dataset.folders(commits))
        for key in dataset.store.list(folder)
        if key not in named and Path(key).suffix == ".parquet"
    ]


def _counts(dataset: Dataset) -> list[str]:
    """Compare each step's rows with those of the step before."""
    entries = sum(len(e) for e in read_listing(dataset).values())
    rows = {step: _rows(dataset.commits(step)) for step in dataset.steps()}
    detect = rows.get("detect", {})
    problems = []
    if detect.get("photos", 0) != entries:
        problems.append(f"{entries} inputs were listed, photos has {detect.get('photos', 0)} rows")
    if "detect" in rows:
        found = sum(dataset.table("photos", ["faces"])["faces"].to_pylist())
        if found != detect["faces"]:
            problems.append(f"photos count {found} faces, faces has {detect['faces']} rows")
    for step, tables in rows.items():
        for table, count in tables.items():
            if table not in ("photos", "faces") and count != detect.get("faces"):
                problems.append(f"{step}: {count} {table} rows for {detect.get('faces')} faces")
    return problems


def _rows(commits: list[Commit]) -> dict[str, int]:
    rows: dict[str, int] = {}
    for commit in commits:
        for file in commit.files:
            rows[file.table] = rows.get(file.table, 0) + file.rows
    return rows
