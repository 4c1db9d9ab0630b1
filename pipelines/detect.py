"""Runs `facepipe.detect` over shards of photos: PHOTOS and FACES."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from facepipe import ids
from facepipe.align import AlignSettings
from facepipe.commits import Commit, Plan, write_shard
from facepipe.config import Settings
from facepipe.decode import Decoded, DecodeSettings, decode
from facepipe.dedup import perceptual_hash
from facepipe.detect import Detector, DetectSettings
from facepipe.errors import ModelMismatch, SourceNotFound
from facepipe.models import ModelSettings
from facepipe.packs import Pack
from facepipe.quality import QualitySettings
from facepipe.schema import FACES, PHOTOS, PhotoStatus
from facepipe.shards import Dataset
from facepipe.sources import Entry, list_sources, read_bytes
from facepipe.store import LocalStore
from pipelines.detect_rows import crashed, face_rows, failed, photo_row, pixels_of
from pipelines.listing import extend, is_gone, read_listing, write_listing
from pipelines.runners import ONE_CORE, Resources, ShardTask
from pipelines.stage import Stopwatch, missing, plan_of, shard_key

STEP = "detect"
VERSION = 1  # of the rules; raised when the same photos would give other rows


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectJob:
    """How to open a detecting worker."""

    dataset: str
    pack: Pack
    decode: DecodeSettings
    detect: DetectSettings
    align: AlignSettings
    quality: QualitySettings
    models: ModelSettings
    photo_timeout_s: int
    resources: Resources = ONE_CORE

    def open(self) -> DetectWorker:
        """Open the detector and the store."""
        return DetectWorker(
            self, LocalStore(self.dataset), Detector(self.pack, self.detect, self.models)
        )


@dataclass(slots=True)
class _Rows:
    photos: list[dict[str, Any]] = field(default_factory=list)
    faces: list[dict[str, Any]] = field(default_factory=list)


@dataclass(slots=True)
class DetectWorker:
    """Turns shards of photos into committed PHOTOS and FACES."""

    job: DetectJob
    store: LocalStore
    detector: Detector

    def check(self) -> None:
        """Look for faces on a blank picture."""
        self.detector.find([np.zeros((64, 64, 3), dtype=np.uint8)])

    def run(self, task: ShardTask, quarantined: frozenset[int]) -> Commit:
        """Read, decode, detect, align and measure one shard, and commit it."""
        rows, watch = _Rows(), Stopwatch()
        pending: list[tuple[Entry, str, Decoded]] = []
        for i, entry in enumerate(task.payload):
            if i in quarantined:
                rows.photos.append(photo_row(entry, None, crashed()))
                continue
            with self._limited():
                self._take(entry, pending, rows, watch)
        with self._limited():
            self._finish(pending, rows, watch)
        return self._commit(task, rows, watch)

    def probe(self, task: ShardTask, item: int) -> None:
        """Do to one photo all that `run` does, and forget it."""
        pending: list[tuple[Entry, str, Decoded]] = []
        rows, watch = _Rows(), Stopwatch()
        with self._limited():
            self._take(task.payload[item], pending, rows, watch)
            self._finish(pending, rows, watch)

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
            data = read_bytes(entry, limit)
        except OSError as error:
            return None, failed(PhotoStatus.UNREADABLE, error.strerror or str(error))
        finally:
            watch.lap("read")
        if len(data) > limit:
            text = f"over decode.max_file_bytes = {limit}"
            return None, failed(PhotoStatus.TOO_LARGE, text)
        decoded = decode(data, self.job.decode)
        known = decoded.status is not PhotoStatus.NOT_AN_IMAGE
        photo_id = ids.photo_id(data) if known else None
        watch.lap("decode")
        return photo_id, decoded

    def _finish(
        self, pending: list[tuple[Entry, str, Decoded]], rows: _Rows, watch: Stopwatch
    ) -> None:
        """Detect on the waiting photos, write their rows, and let their pixels go."""
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
        photos = sorted(rows.photos, key=lambda r: (r["photo_id"] or "", r["uri"]))
        faces = sorted(rows.faces, key=lambda r: (r["face_id"], r["uri"]))
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
            self.store,
            step=STEP,
            shard=task.shard,
            key=task.key,
            tables=tables,
            counts=counts,
            seconds=watch.rounded(),
        )


# -- in the driver -----------------------------------------------------------------------


def detect_plan(
    dataset: Dataset, sources: Sequence[str], pack: Pack, settings: Settings
) -> tuple[DetectJob, Plan, list[ShardTask]]:
    """List the sources and return the job, plan and tasks of detect.

    Raises SourceNotFound, and ModelMismatch where the dataset was made with another detector.
    """
    job = DetectJob(
        dataset=dataset.uri,
        pack=pack,
        decode=settings.decode,
        detect=settings.detect,
        align=settings.align,
        quality=settings.quality,
        models=settings.models,
        photo_timeout_s=settings.run.photo_timeout_s,
    )
    detector = pack.digest(pack.need_detector())
    basis = {
        "version": VERSION,
        "detector": detector,
        "decode": settings.decode.model_dump(mode="json"),
        "detect": settings.detect.model_dump(mode="json"),
        "align": settings.align.model_dump(mode="json"),
        "quality": settings.quality.model_dump(mode="json"),
        "device": settings.models.device,
    }
    _same_detector(dataset, detector, pack)
    found = list_sources(sources, settings.sources, leave_out=dataset.uri)
    before = read_listing(dataset)
    shards = extend(
        before, found, settings.run.shard_photos, drop_gone=settings.sources.gone == "drop"
    )
    if not any(shards.values()):
        raise SourceNotFound(f"no file below {', '.join(sources)}: give a folder with photos")
    tasks = [
        ShardTask(
            step=STEP,
            shard=shard,
            key=shard_key(STEP, basis, [_inputs(e) for e in entries]),
            items=len(entries),
            payload=tuple(entries),
        )
        for shard, entries in shards.items()
    ]
    _all_there(missing(dataset, STEP, tasks), {e.uri for e in found})
    return job, plan_of(STEP, basis, tasks), tasks


def _all_there(todo: Sequence[ShardTask], listed: set[str]) -> None:
    """Refuse to redo shards some of whose photos are gone: their rows would be lost."""
    gone = [
        e.uri
        for task in todo
        for e in task.payload
        if e.uri not in listed and e.problem is None and is_gone(e)
    ]
    if gone:
        raise SourceNotFound(
            f"{len(gone)} photos of earlier runs are no longer there ({gone[0]} first), and their "
            "shards have to be done again: bring their source back, or let them leave the "
            "dataset with --set sources.gone=drop"
        )


def save_listing(dataset: Dataset, tasks: Sequence[ShardTask]) -> None:
    """Store which photos are in which shard, before the first of them is run."""
    write_listing(dataset, {t.shard: list(t.payload) for t in tasks})


def _inputs(entry: Entry) -> list[Any]:
    return [entry.uri, entry.bytes, entry.mtime_ns, entry.source_label, entry.problem]


def _same_detector(dataset: Dataset, detector: str, pack: Pack) -> None:
    before = dataset.plan(STEP) if dataset.commits(STEP) else None
    if before is not None and before.basis.get("detector") != detector:
        raise ModelMismatch(
            f"{dataset.uri} was made with another detector ({str(before.basis['detector'])[:12]}) "
            f"than {pack.need_detector().file} of {pack.folder} ({detector[:12]}): "
            "use the same --models, or another --out"
        )
