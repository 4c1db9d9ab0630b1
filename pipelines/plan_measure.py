"""What a sample's rows and its driver say: faces, statuses, bytes and seconds of each photo.

Legend: n sampled photos.
"""

from __future__ import annotations

import json
import os
import time
import tracemalloc
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facepipe.commits import Commit, write_parquet
from facepipe.config import Settings
from facepipe.packs import Pack
from facepipe.schema import Decision, EmbeddingStatus, FaceStatus
from facepipe.shards import Dataset
from facepipe.sources import Entry
from pipelines.detect import STEP as DETECT
from pipelines.detect_plan import Retries, detect_plan
from pipelines.index import build_index
from pipelines.listing import Listing, extend
from pipelines.plan_sample import status_bytes

PLANNED_PHOTOS = 2000  # of a listing that are planned once more, to be timed and weighed
BY_PHOTO = ("photos", "members")  # tables with a row a photo; the others have one a face

Float = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledRows:
    """What the sampled photos have, one value a photo where not said otherwise."""

    photo_status: dict[str, int]  # photos
    faces_n: Float
    face_status_n: dict[str, Float]
    usable_n: Float  # faces that are ok and have a vector
    pairs: int  # of duplicates among the sampled photos
    bytes_n: dict[str, Float]  # stored, by table
    file_bytes: dict[str, float]  # of a file without rows

    @property
    def faces(self) -> int:
        """Return how many faces were found."""
        return int(self.faces_n.sum())


def sampled_rows(dataset: Dataset) -> SampledRows:
    """Return what a curated sample holds."""
    photos = dataset.table("photos", ["uri", "member", "status"])
    columns = ["uri", "member", "status", "crop"]
    faces = dataset.table("faces", columns)
    embedded = dataset.table("embeddings", ["status"])["status"].to_pylist()
    place = {key: i for i, key in enumerate(_keys(photos))}
    at = np.array([place[key] for key in _keys(faces)], dtype=np.int64)
    status = faces["status"].to_pylist()
    usable = [
        s == FaceStatus.OK and e == EmbeddingStatus.OK
        for s, e in zip(status, embedded, strict=True)
    ]
    n = len(photos)
    crops = pc.binary_length(faces["crop"]).to_numpy()
    faces_n, crops_n = _added(at, n), _added(at, n, crops)
    bytes_n, file_bytes = _table_bytes(dataset, faces_n, crops_n)
    return SampledRows(
        photo_status=dict(sorted(Counter(photos["status"].to_pylist()).items())),
        faces_n=faces_n,
        face_status_n={
            name: _added(at, n, np.array([s == name for s in status]))
            for name in sorted(set(status))
        },
        usable_n=_added(at, n, np.array(usable)),
        pairs=_pairs(dataset.table("duplicates", ["evidence", "decision"])),
        bytes_n=bytes_n,
        file_bytes=file_bytes,
    )


def _keys(table: pa.Table) -> list[tuple[str, str | None]]:
    return list(zip(table["uri"].to_pylist(), table["member"].to_pylist(), strict=True))


def _added(
    at: npt.NDArray[np.int64], n: int, weights: npt.NDArray[np.generic] | None = None
) -> Float:
    return np.bincount(at, weights, minlength=n).astype(float)


def _pairs(duplicates: pa.Table) -> int:
    """Return how many pairs the duplicates make with the face kept for them."""
    heads = Counter(
        row["evidence"] for row in duplicates.to_pylist() if row["decision"] == Decision.DUPLICATE
    )
    return sum(copies * (copies + 1) // 2 for copies in heads.values())


def _table_bytes(
    dataset: Dataset, faces_n: Float, crops_n: Float
) -> tuple[dict[str, Float], dict[str, float]]:
    """Return each table's bytes by photo, and those of a file beside its rows.

    The sample's shards are much smaller than a run's, so its rows are written once more as
    one file, and half of them as another: what the second half adds is what a row takes.
    Crops have the size they have.
    """
    files = defaultdict(list)
    for step in dataset.steps():
        for commit in dataset.commits(step):
            for file in commit.files:
                files[file.table].append(file)
    bytes_n, file_bytes = {}, {}
    for name, parts in sorted(files.items()):
        rows = pa.concat_tables([dataset.read(f) for f in parts])
        own_n = crops_n if name == "faces" else np.zeros_like(crops_n)
        half = len(rows) // 2
        all_bytes = _plain_bytes(rows)
        row_bytes = (all_bytes - _plain_bytes(rows.slice(0, half))) / max(1, len(rows) - half)
        count_n = np.ones_like(faces_n) if name in BY_PHOTO else faces_n
        bytes_n[name] = own_n + count_n * row_bytes
        file_bytes[name] = max(0.0, all_bytes - row_bytes * len(rows))
    return bytes_n, file_bytes


def _plain_bytes(rows: pa.Table) -> float:
    """Return the bytes of rows in a file, without their crops."""
    stored = len(write_parquet(rows, rows.schema))
    crops = pc.sum(pc.binary_length(rows["crop"])).as_py() if "crop" in rows.schema.names else 0
    return float(stored - (crops or 0))


# -- the gallery and the driver ------------------------------------------------------------


def gallery(dataset: Dataset, folder: Path, settings: Settings) -> tuple[float, float]:
    """Build the sample's gallery; return its seconds and its bytes, 0 where there is no face."""
    if not any(dataset.files("embeddings")) or not _has_vectors(dataset):
        return 0.0, 0.0
    started = time.perf_counter()
    build_index(dataset, str(folder), settings.index)
    seconds = time.perf_counter() - started
    return seconds, float(sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()))


def _has_vectors(dataset: Dataset) -> bool:
    status = dataset.table("embeddings", ["status"])["status"]
    return bool(pc.any(pc.equal(status, EmbeddingStatus.OK.value)).as_py())


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverCosts:
    """What the driver needs for each photo and for each committed shard."""

    photo_s: float
    photo_bytes: float
    shard_s: float
    shard_bytes: float
    own_bytes: float  # peak, without what grows


def driver_costs(
    dataset: Dataset,
    found: Sequence[Entry],
    listed_s: float,
    pack: Pack,
    settings: Settings,
) -> DriverCosts:
    """Plan some of the listed photos, and pack the sample's records, as a run's driver does."""
    entries = [e for e in found if e.kind is None][:PLANNED_PHOTOS]
    started = time.perf_counter()
    _planned(dataset, entries, pack, settings)
    plan_s = (time.perf_counter() - started) / max(1, len(entries))
    commits = dataset.commits(DETECT)
    started = time.perf_counter()
    dataset.pack(DETECT)
    dataset.write_manifest()
    shard_s = (time.perf_counter() - started) / max(1, len(commits))
    records = [commit.to_json() for commit in commits]
    tracemalloc.start()
    kept = _planned(dataset, [_copy(e) for e in entries], pack, settings)
    photo_bytes = tracemalloc.get_traced_memory()[0] / max(1, len(entries))
    before = tracemalloc.get_traced_memory()[0]
    read = [Commit.from_value(json.loads(record)) for record in records]
    shard_bytes = (tracemalloc.get_traced_memory()[0] - before) / max(1, len(read))
    tracemalloc.stop()
    del kept, read
    own = status_bytes(os.getpid(), "VmHWM") - photo_bytes * len(found)
    return DriverCosts(
        photo_s=listed_s / max(1, len(found)) + 2 * plan_s,  # to try the models, then to run
        photo_bytes=photo_bytes,
        shard_s=shard_s,
        shard_bytes=shard_bytes,
        own_bytes=max(0.0, own),
    )


def _planned(
    dataset: Dataset, entries: Sequence[Entry], pack: Pack, settings: Settings
) -> tuple[object, ...]:
    listing = extend(Listing(), entries, settings.run.shard_photos)
    return listing, detect_plan(dataset, listing, Retries(), pack, settings)


def _copy(entry: Entry) -> Entry:
    """Return an entry with strings of its own, so that their memory is counted."""
    return replace(entry, uri=f"{entry.uri} "[:-1], version=f"{entry.version} "[:-1])
