"""Checks a dataset: checksums, rows, orphans, and counts that add up from step to step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from facepipe import ids
from facepipe.commits import Commit, ShardFile, record_key
from facepipe.errors import CorruptData
from facepipe.shards import Dataset
from pipelines.listing import read_listing

OF_FACES = ("embeddings", "duplicates", "decisions", "by_label")  # a row for every row of faces


def verify_dataset(dataset: Dataset, *, repair: bool = False) -> dict[str, Any]:
    """Return the problems of a dataset, and how many files and rows were checked.

    ``broken`` counts the shards that a repair would forget. With ``repair`` their records are
    deleted (``forgotten`` names them), so that the command that made the dataset redoes those, and
    only those. Raises StoreError where a run holds it.
    """
    problems: list[str] = []
    forget: list[str] = []
    files = rows = 0
    for step in dataset.steps():
        commits = _commits(dataset, step, problems, forget)
        for commit in commits:
            bad = [text for file in commit.files if (text := _check_file(dataset, file))]
            problems += bad
            files += len(commit.files)
            rows += sum(file.rows for file in commit.files)
            if bad:
                forget.append(record_key(commit.step, commit.shard, commit.key))
        problems += _unfinished(dataset, step) + _orphans(dataset, commits)
    if not problems:
        problems += _counts(dataset)
    if repair and forget:
        with dataset.held():
            for step in {record.split("/")[1] for record in forget}:
                dataset.unpack(step)
            for record in forget:
                dataset.delete(record)
    forgotten = forget if repair else []
    return {
        "problems": problems,
        "files": files,
        "rows": rows,
        "broken": len(forget),
        "forgotten": forgotten,
    }


def _commits(dataset: Dataset, step: str, problems: list[str], forget: list[str]) -> list[Commit]:
    """Return a step's readable commits; the others are problems, and to be forgotten."""
    readable = []
    plan = dataset.plan(step)
    for shard, key in plan.shards.items() if plan else ():
        name = record_key(step, shard, key)
        if not dataset.store.exists(name):
            continue
        try:
            readable.append(Commit.from_json(dataset.store.get(name), name))
        except (CorruptData, OSError) as error:
            problems.append(f"{name}: {error}")
            forget.append(name)
    return readable


def _unfinished(dataset: Dataset, step: str) -> list[str]:
    """Say how many shards of a step have no record; unreadable records are said elsewhere."""
    plan = dataset.plan(step)
    if plan is None:
        return []
    records = [record_key(step, shard, key) for shard, key in plan.shards.items()]
    left = sum(not dataset.store.exists(r) for r in records)
    return [f"{step}: {left} of {len(records)} shards are not done: run it again"] if left else []


def _check_file(dataset: Dataset, file: ShardFile) -> str | None:
    try:
        size = dataset.store.size(file.file)
        if size != file.bytes:
            return f"{file.file}: {size} bytes instead of {file.bytes}"
        if ids.sha256_hex(dataset.store.get(file.file)) != file.sha256:
            return f"{file.file}: checksum does not match"
        dataset.read(file, [])
    except FileNotFoundError:
        return f"{file.file}: missing"
    except OSError as error:
        return f"{file.file}: cannot be read: {error.strerror}"
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
    """Compare each step's rows with those of the step before.

    Embeddings of a model that is no longer the current one may be of earlier faces.
    """
    entries = _listed(dataset)
    current = dataset.step_of("embeddings") if dataset.store.exists("_plan/embed.json") else ""
    steps = [s for s in dataset.steps() if not s.startswith("embed-") or s == current]
    rows = {step: _rows(dataset.commits(step)) for step in steps}
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
            if table in OF_FACES and count != detect.get("faces"):
                problems.append(f"{step}: {count} {table} rows for {detect.get('faces')} faces")
    return problems


def _listed(dataset: Dataset) -> int:
    """Return how many photos were listed: files of their own, and members of containers."""
    listing = read_listing(dataset)
    containers = listing.containers()
    inside = [f for c in dataset.commits("members") if c.shard in containers for f in c.files]
    return sum(map(len, listing.photos().values())) + sum(f.rows for f in inside)


def _rows(commits: list[Commit]) -> dict[str, int]:
    rows: dict[str, int] = {}
    for commit in commits:
        for file in commit.files:
            rows[file.table] = rows.get(file.table, 0) + file.rows
    return rows
