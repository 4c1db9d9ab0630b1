"""Writes a training set as insightface's tools do: train.rec, train.idx, train.lst, property.

The format of the records is described in facepipe/source_rec.py; what src/data/face2rec2.py of
insightface makes of a list of aligned photos is written here, byte by byte:

- train.rec: photo n (1, 2, .. N) has flag 2, the scalar label 0, id n, the labels [label, 1.0]
  (1.0: aligned) and its encoded image. Then record 0: flag 2, labels [N + 1, N + 1 + K] for K
  identities, no image. Then records N + 1 .. N + K: flag 2, the labels [first, end), the ids of
  the photos of one identity, no image. Photos come first, so that all is written in one pass.
- train.idx: ``id TAB offset`` of every record, in the order of the file.
- train.lst: ``1 TAB name TAB label`` of every photo; 1: aligned.
- property: ``classes,height,width``, with classes = the highest label + 1.

Labels and ids are float32 in the records, so that both end at 2**24: a larger set is several.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

from facepipe.errors import UsageError
from facepipe.source_rec import (
    EXACT_FLOAT32,
    FIRST,
    IMAGE_HEADER,
    LAST,
    LENGTH_BITS,
    MAGIC,
    MIDDLE,
    WHOLE,
)

IMAGE_SIZE_PX = 112  # of insightface's crops, both ways
_ALIGNED = 1.0
_LABELS = struct.Struct("<2f")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordStreams:
    """The four files, open for writing in binary; making them appear at once is the caller's."""

    rec: BinaryIO
    idx: BinaryIO
    lst: BinaryIO
    property: BinaryIO


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordCounts:
    """What was written."""

    photos: int
    identities: int
    classes: int
    rec_bytes: int


def write_records(
    photos: Iterable[tuple[int, str, bytes]],
    streams: RecordStreams,
    image_size_px: int = IMAGE_SIZE_PX,
) -> RecordCounts:
    """Write (label, name, encoded image) sorted by label; return what was written.

    Nothing but the range of each identity is held. The same photos make the same bytes. Raises
    UsageError for labels that are not sorted, negative or too high for float32, for more
    records than float32 can count, for an empty image or one that is too long for a record,
    and for a name that would break a line of train.lst.
    """
    writer = _RecordWriter(streams)
    ranges: list[tuple[int, int]] = []
    first, last_label, count = 1, -1, 0
    for label, name, image in photos:
        _check(label, last_label, name, image)
        if label != last_label and count:
            ranges.append((first, count + 1))
            first = count + 1
        last_label, count = label, count + 1
        _check_count(count + len(ranges) + 2)
        writer.write(count, (label, _ALIGNED), image)
        streams.lst.write(f"1\t{name}\t{label}\n".encode())
    if count:
        ranges.append((first, count + 1))
    writer.write(0, (count + 1, count + 1 + len(ranges)), b"")
    for number, bounds in enumerate(ranges, count + 1):
        writer.write(number, bounds, b"")
    streams.property.write(f"{last_label + 1},{image_size_px},{image_size_px}\n".encode())
    return RecordCounts(
        photos=count,
        identities=len(ranges),
        classes=last_label + 1,
        rec_bytes=writer.position,
    )


class _RecordWriter:
    """Writes records and their lines of the index."""

    def __init__(self, streams: RecordStreams) -> None:
        self._streams = streams
        self.position = 0

    def write(self, record_id: int, labels: tuple[float, float], image: bytes) -> None:
        self._streams.idx.write(f"{record_id}\t{self.position}\n".encode())
        payload = IMAGE_HEADER.pack(2, 0.0, record_id, 0) + _LABELS.pack(*labels) + image
        parts = _split_at_magic(payload)
        for number, part in enumerate(parts):
            is_last = number == len(parts) - 1
            flag = (LAST if number else WHOLE) if is_last else (MIDDLE if number else FIRST)
            data = MAGIC + struct.pack("<I", flag << LENGTH_BITS | len(part))
            data += part + bytes(-len(part) % 4)
            self._streams.rec.write(data)
            self.position += len(data)


def _split_at_magic(payload: bytes) -> list[bytes]:
    """Cut out every magic at a multiple of 4, so that none is left within a part."""
    parts, start = [], 0
    found = payload.find(MAGIC)
    while found >= 0:
        if found % 4:
            found = payload.find(MAGIC, found + 1)
            continue
        parts.append(payload[start:found])
        start = found + len(MAGIC)
        found = payload.find(MAGIC, start)
    return [*parts, payload[start:]]


def _check(label: int, last_label: int, name: str, image: bytes) -> None:
    if label < 0 or label < last_label:
        raise UsageError(
            f"label {label} of {name!r} comes after {max(last_label, 0)}: photos of a .rec are "
            "sorted by label, from 0 up"
        )
    if label >= EXACT_FLOAT32:
        raise UsageError(
            f"label {label} of {name!r} is not exact in float32: number the identities from 0 to "
            f"{EXACT_FLOAT32 - 1}"
        )
    if not image:
        raise UsageError(f"{name!r} has no image: leave it out")
    if IMAGE_HEADER.size + _LABELS.size + len(image) >= 1 << LENGTH_BITS:
        raise UsageError(f"{name!r} has {len(image)} bytes: a record holds less than 2**29")
    if any(mark in name for mark in "\t\n\r\0"):
        raise UsageError(f"the name {name!r} would break a line of train.lst: rename the photo")


def _check_count(records: int) -> None:
    if records > EXACT_FLOAT32:
        raise UsageError(
            f"more than {EXACT_FLOAT32} records: their ids are not exact in float32; write "
            "several sets"
        )
