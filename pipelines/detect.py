"""Runs `facepipe.detect` over shards of photos: PHOTOS and FACES.

What a worker does is here, which shards there are in `pipelines.detect_plan`.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from facepipe import ids
from facepipe.align import AlignSettings
from facepipe.commits import Commit, ShardFile, write_shard
from facepipe.decode import Decoded, DecodeSettings, decode
from facepipe.detect import Detector, DetectSettings
from facepipe.models import ModelSettings
from facepipe.packs import Pack
from facepipe.picture_hash import perceptual_hash
from facepipe.quality import QualitySettings
from facepipe.schema import FACES, PHOTOS, PhotoStatus
from facepipe.shards import Dataset
from facepipe.source_read import PhotoReader
from facepipe.sources import Entry, SourceSettings
from facepipe.store import open_store
from facepipe.url_guard import UrlSettings
from facepipe.url_wire import UrlTooLarge
from pipelines.detect_rows import crashed, face_rows, failed, photo_row, pixels_of
from pipelines.runners import ONE_CORE, Resources, ShardTask
from pipelines.stage import Recorded, Stopwatch

STEP = "detect"
VERSION = 2  # of the rules; raised when the same photos would give other rows


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectJob(Recorded):
    """How to open a detecting worker."""

    dataset: str
    pack: Pack
    decode: DecodeSettings
    detect: DetectSettings
    align: AlignSettings
    quality: QualitySettings
    models: ModelSettings
    sources: SourceSettings
    urls: UrlSettings
    photo_timeout_s: int
    resources: Resources = ONE_CORE

    def open(self) -> DetectWorker:
        """Open the detector and the store."""
        return DetectWorker(
            self,
            Dataset(open_store(self.dataset)),
            Detector(self.pack, self.detect, self.models),
            PhotoReader(self.sources, self.urls),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Photos:
    """The payload of a task: photos that are files, or a stretch of a container's photos."""

    entries: tuple[Entry, ...] = ()
    container: Entry | None = None
    members: ShardFile | None = None  # the table that lists the container's photos
    rows: range = range(0)  # of that table
    generation: int = 0
    tries: int = 0  # how often what failed has been tried again
    again: Again | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """A shard that was done before, of which only what failed is done again."""

    files: tuple[ShardFile, ...]
    failed: frozenset[tuple[str, str | None]]  # (uri, member)


@dataclass(slots=True)
class _Rows:
    photos: list[dict[str, Any]] = field(default_factory=list)
    faces: list[dict[str, Any]] = field(default_factory=list)


@dataclass(slots=True)
class DetectWorker:
    """Turns shards of photos into committed PHOTOS and FACES."""

    job: DetectJob
    dataset: Dataset
    detector: Detector
    reader: PhotoReader

    def check(self) -> None:
        """Look for faces on a blank picture."""
        self.detector.find([np.zeros((64, 64, 3), dtype=np.uint8)])

    def run(self, task: ShardTask, quarantined: frozenset[int]) -> Commit:
        """Read, decode, detect, align and measure one shard, and commit it."""
        rows, watch = _Rows(), Stopwatch()
        pending: list[tuple[Entry, str, Decoded]] = []
        again = task.payload.again
        if again is not None:
            self._keep(again, rows)
        for i, entry in enumerate(self._entries(task.payload)):
            if again is not None and (entry.uri, entry.member) not in again.failed:
                continue
            if i in quarantined:
                rows.photos.append(photo_row(entry, None, crashed()))
                continue
            self._take(entry, pending, rows, watch)
        self._finish(pending, rows, watch)
        return self._commit(task, rows, watch)

    def probe(self, task: ShardTask, item: int) -> None:
        """Do to one photo all that `run` does, and forget it."""
        pending: list[tuple[Entry, str, Decoded]] = []
        rows, watch = _Rows(), Stopwatch()
        self._take(self._entries(task.payload)[item], pending, rows, watch)
        self._finish(pending, rows, watch)

    def _entries(self, photos: Photos) -> list[Entry]:
        """Return the photos of a task, in their order."""
        if photos.members is None or photos.container is None:
            return list(photos.entries)
        rows = self.dataset.read(photos.members, rows=photos.rows).to_pylist()
        return [Entry(kind=photos.container.kind, **row) for row in rows]

    def _keep(self, again: Again, rows: _Rows) -> None:
        """Take over the rows of an earlier run, but for the photos that failed then."""
        for file, kept in zip(again.files, (rows.photos, rows.faces), strict=True):
            kept += [
                row
                for row in self.dataset.read(file).to_pylist()
                if (row["uri"], row["member"]) not in again.failed
            ]

    @contextmanager
    def _limited(self) -> Iterator[None]:
        """Let a hang become the process's death, which the engine handles."""
        signal.alarm(self.job.photo_timeout_s)
        try:
            yield
        finally:
            signal.alarm(0)

    def _take(
        self,
        entry: Entry,
        pending: list[tuple[Entry, str, Decoded]],
        rows: _Rows,
        watch: Stopwatch,
    ) -> None:
        """Read and decode a photo; detect on it as soon as a batch is full."""
        photo_id, decoded = self._read(entry, watch)
        if decoded.pixels_HWC is None:
            rows.photos.append(photo_row(entry, photo_id, decoded))
            return
        pending.append((entry, photo_id or "", decoded))
        if len(pending) >= self.detector.batch():
            self._finish(pending, rows, watch)

    def _read(self, entry: Entry, watch: Stopwatch) -> tuple[str | None, Decoded]:
        limit = self.job.decode.max_file_bytes
        try:
            # A member may lie behind gigabytes that have to be expanded first: no time limit.
            with self._limited() if entry.member is None else nullcontext():
                data = self.reader.read(entry, limit)
        except UrlTooLarge as error:
            return None, failed(PhotoStatus.TOO_LARGE, str(error))
        except OSError as error:
            refused = entry.problem is not None and entry.kind is not None
            status = PhotoStatus.REFUSED if refused else PhotoStatus.UNREADABLE
            return None, failed(status, error.strerror or str(error))
        finally:
            watch.lap("read")
        if len(data) > limit:
            text = f"over decode.max_file_bytes = {limit}"
            return None, failed(PhotoStatus.TOO_LARGE, text)
        with self._limited():
            decoded = decode(data, self.job.decode)
        known = decoded.status is not PhotoStatus.NOT_AN_IMAGE
        photo_id = ids.photo_id(data) if known else None
        watch.lap("decode")
        return photo_id, decoded

    def _finish(
        self, pending: list[tuple[Entry, str, Decoded]], rows: _Rows, watch: Stopwatch
    ) -> None:
        """Detect on the waiting photos, write their rows, and let their pixels go."""
        with self._limited():
            found = self.detector.find([pixels_of(d) for _, _, d in pending])
        watch.lap("detect")
        for (entry, photo_id, decoded), faces in zip(pending, found, strict=True):
            phash = perceptual_hash(pixels_of(decoded))
            rows.photos.append(photo_row(entry, photo_id, decoded, phash, len(faces)))
            watch.lap("hash")
            rows.faces += face_rows(
                entry, photo_id, pixels_of(decoded), faces, self.job.quality, self.job.align
            )
            watch.lap("align")
        pending.clear()

    def _commit(self, task: ShardTask, rows: _Rows, watch: Stopwatch) -> Commit:
        photos = sorted(rows.photos, key=_photo_order)
        faces = sorted(rows.faces, key=_face_order)
        counts = {
            "photos": dict(Counter(r["status"] for r in photos)),
            "faces": dict(Counter(r["status"] for r in faces)),
        }
        tables = [
            ("photos", "photos", pa.Table.from_pylist(photos, schema=PHOTOS), PHOTOS),
            ("faces", "faces", pa.Table.from_pylist(faces, schema=FACES), FACES),
        ]
        watch.lap("table")
        return write_shard(
            self.dataset.store,
            step=STEP,
            shard=task.shard,
            key=task.key,
            tables=tables,
            counts=counts,
            seconds=watch.rounded(),
            facts={"generation": task.payload.generation, "tries": task.payload.tries},
        )


def _photo_order(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["photo_id"] or "", row["uri"], row["member"] or ""


def _face_order(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["face_id"], row["uri"], row["member"] or ""
