"""The formats of an export: folders, webdataset and insightface's .rec.

The faces are read once, shard by shard; where the format wants them in another order they go
through files (pipelines/export_spill.py).

Legend: M faces that clean kept, by face id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import islice

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from facepipe.errors import CorruptData
from facepipe.export_choice import EXPORTED, Choice
from facepipe.record_writer import RecordStreams, write_records
from facepipe.sample_tar import Sample, write_samples
from facepipe.shards import Dataset
from pipelines.export_lists import Whereabouts
from pipelines.export_spill import Spill
from pipelines.export_target import Target
from pipelines.progress import Progress

SPILL_FACES = 8192  # of a .rec held at a time: 160 MB of PNG crops
IMAGES = "images"  # the folder of the people's folders: nobody can be called what lies beside it
WEIGHT_DIGITS = 6
_SUFFIXES = ("", "jpg", "png")  # by code; 0: not seen yet
_PNG = b"\x89PNG"

Int64 = npt.NDArray[np.int64]
Pictures = Iterator[list[tuple[int, bytes]]]  # (place of the face, encoded crop), a shard at a time


class ExportRun:
    """One export while it is written."""

    def __init__(
        self, dataset: Dataset, choice: Choice, target: Target, shard_faces: int, progress: Progress
    ) -> None:
        """Start with no picture read."""
        self.dataset, self.choice, self.target = dataset, choice, target
        self.shard_faces, self.progress = shard_faces, progress
        self.suffix_M = np.zeros(len(choice.places), np.uint8)  # place in _SUFFIXES

    def pictures(self) -> Pictures:
        """Yield the crops of the exported faces, each once. Raises CorruptData where one is not."""
        choice, files = self.choice, self.dataset.files("faces")
        self.progress.begin("export", sum(f.rows for f in files), 0)
        for file in files:
            wanted = self._wanted(self.dataset.read(file, ["face_id"])["face_id"])
            if wanted:
                crops = self.dataset.read(file, ["crop"])["crop"].take(pa.array(wanted.values()))
                pictures = list(zip(wanted, crops.to_pylist(), strict=True))
                for place, crop in pictures:
                    self.suffix_M[place] = 2 if crop.startswith(_PNG) else 1
                yield pictures
            self.progress.advance(file.rows)
        missing = int(((choice.cause_M == EXPORTED) & (self.suffix_M == 0)).sum())
        if missing:
            raise CorruptData(
                f"{missing} faces that are to be exported are not in the faces table of "
                f"{self.dataset.uri}: run facepipe curate again"
            )
        self.progress.end(f"{choice.exported} faces of {len(choice.people)} people")

    def _wanted(self, face_ids: pa.ChunkedArray) -> dict[int, int]:
        """Return the places of exported faces, not seen yet, with their row: the first of each."""
        rows: dict[int, int] = {}
        for row, place in enumerate(self.choice.places.find(face_ids).tolist()):
            chosen = place >= 0 and self.choice.cause_M[place] == EXPORTED
            if chosen and not self.suffix_M[place]:
                rows.setdefault(place, row)
        return rows

    def name(self, place: int) -> str:
        """Return the file name of a face."""
        return f"{self.face_id(place)}.{_SUFFIXES[self.suffix_M[place]]}"

    def face_id(self, place: int) -> str:
        """Return the id of a face."""
        found: bytes = self.choice.places.ids[place]
        return found.decode()

    def folder_of(self, place: int) -> str:
        """Return the folder name of a face's person."""
        return self.choice.folders[int(self.choice.label_M[place])]

    def spilled(self, order: Int64, rows: int) -> Iterator[tuple[int, bytes]]:
        """Yield (place, crop) of the exported faces in an order of their places."""
        position_M = np.empty(len(self.choice.places), np.int64)
        position_M[order] = np.arange(len(order))
        spill = Spill(self.target.scratch / ".spill", rows)
        for pictures in self.pictures():
            spill.add([(int(position_M[place]), crop) for place, crop in pictures])
        for position, crop in spill.ordered(len(order)):
            yield int(order[position]), crop


def _folders(run: ExportRun) -> Whereabouts:
    """images/PERSON/FACE_ID.png."""

    def name(place: int) -> str:
        return f"{IMAGES}/{run.folder_of(place)}/{run.name(place)}"

    run.target.put_all((name(p), crop) for pictures in run.pictures() for p, crop in pictures)

    def whereabouts(places: Int64) -> tuple[list[str], Int64]:
        return [name(p) for p in places.tolist()], np.full(len(places), -1)

    return whereabouts


def _webdataset(run: ExportRun) -> Whereabouts:
    """faces-000000.tar ..., by face id: a digest of the photo, so that people are mixed."""
    choice, order = run.choice, run.choice.by_face()
    samples = _samples(run, run.spilled(order, run.shard_faces))
    for shard in range(-(-len(order) // run.shard_faces)):
        with run.target.create(_tar_name(shard)) as stream:
            write_samples(islice(samples, run.shard_faces), stream)
    next(samples, None)  # lets the spill remove its folder
    position_M = np.full(len(choice.places), -1, np.int64)
    position_M[order] = np.arange(len(order))

    def whereabouts(places: Int64) -> tuple[list[str], Int64]:
        shards = position_M[places] // run.shard_faces
        return [_tar_name(s) for s in shards.tolist()], np.full(len(places), -1)

    return whereabouts


def _tar_name(shard: int) -> str:
    return f"faces-{shard:06d}.tar"


def _samples(run: ExportRun, pictures: Iterator[tuple[int, bytes]]) -> Iterator[Sample]:
    for place, crop in pictures:
        label = int(run.choice.label_M[place])
        yield Sample(
            key=run.face_id(place),
            image=crop,
            suffix=_SUFFIXES[run.suffix_M[place]],
            label=label,
            identity=run.choice.people[label],
            weight=round(float(run.choice.weight_M[place]), WEIGHT_DIGITS),
        )


def _rec(run: ExportRun) -> Whereabouts:
    """train.rec, .idx, .lst and property, as insightface's tools write them; people in a row."""
    order = run.choice.by_label()
    photos = (
        (int(run.choice.label_M[place]), f"{run.folder_of(place)}/{run.name(place)}", crop)
        for place, crop in run.spilled(order, SPILL_FACES)
    )
    names = {"rec": "train.rec", "idx": "train.idx", "lst": "train.lst", "property": "property"}
    with ExitStack() as opened:
        streams = {
            field: opened.enter_context(run.target.create(name)) for field, name in names.items()
        }
        write_records(photos, RecordStreams(**streams))
    record_M = np.full(len(run.choice.places), -1, np.int64)
    record_M[order] = np.arange(1, len(order) + 1)  # record 0 is the header

    def whereabouts(places: Int64) -> tuple[list[str], Int64]:
        return [names["rec"]] * len(places), record_M[places]

    return whereabouts


def _removed(_: ExportRun) -> None:
    """Nothing but the list of removed faces."""


FORMATS: dict[str, Callable[[ExportRun], Whereabouts | None]] = {
    "folders": _folders,
    "webdataset": _webdataset,
    "rec": _rec,
    "removed": _removed,
}
