"""MXNet RecordIO as insightface writes it: train.rec, read without MXNet.

A record is one part or several, each aligned to 4 bytes:

    magic   uint32 0xced7230a, little-endian as everything here
    word    uint32: flag in the upper 3 bits, length in the lower 29
    payload ``length`` bytes, then zeros up to a multiple of 4

flag 0: a whole record; 1, 2, 3: its first, middle and last part. The parts are joined with the
magic between them: the writer cuts a record wherever its payload holds the magic at a multiple
of 4, so that a magic at such a place always begins a part. (dmlc-core, src/recordio.cc)

The payload is an image header, ``flag`` labels and the encoded image:

    flag uint32, label float32, id uint64, id2 uint64
    flag x float32          where flag > 0: they replace the label

insightface (src/data/face2rec2.py) gives photos the ids 1..N, with one label or with
[label, aligned]. Record 0, behind the photos, has no image but the labels [N + 1, end]; the
records N + 1 .. end - 1 have none either, but the range [first, end) of one identity each.

Beside it, where there are any: NAME.idx, lines ``key TAB offset``; NAME.lst, lines
``aligned TAB path TAB label ..`` for the records 1, 2, .. (insightface), or
``index TAB label .. TAB path`` (MXNet's im2rec), or ``index TAB path TAB label``.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

from facepipe.containers import Member
from facepipe.forward_window import ForwardWindow
from facepipe.record_names import ListedNames, ListedOffsets

MAGIC = struct.pack("<I", 0xCED7230A)
PART_HEADER = struct.Struct("<II")
IMAGE_HEADER = struct.Struct("<IfQQ")
LENGTH_BITS = 29
WHOLE, FIRST, MIDDLE, LAST = range(4)
EXACT_FLOAT32 = 2**24  # whole numbers up to here are exact in float32; Glint360K has more photos

_HEAD_BYTES = IMAGE_HEADER.size + 2 * 4  # with the two labels that are looked at


class _Damaged(OSError):
    """What is at this place is no sound record, as opposed to a file that cannot be read."""


@dataclass(frozen=True, slots=True)
class _Record:
    head: bytes  # the first _HEAD_BYTES of the payload
    size: int  # of the payload, parts joined
    end: int  # offset after the padding


@dataclass(frozen=True, slots=True)
class _ImageHeader:
    id: int
    labels: tuple[float, ...]  # the first two at most
    is_vector: bool
    image_at: int  # within the payload
    image_bytes: int


def is_rec(head: bytes, name: str) -> bool:
    """Return whether a file that begins with ``head`` is RecordIO; its name does not matter."""
    if len(head) < PART_HEADER.size or not head.startswith(MAGIC):
        return False
    return _split(PART_HEADER.unpack_from(head)[1])[0] in (WHOLE, FIRST)


def open_rec(
    stream: BinaryIO,
    sibling: Callable[[str], BinaryIO | None] = lambda name: None,
    name: str = "train.rec",
) -> RecordContainer:
    """Open RecordIO; ``sibling`` opens NAME.idx and NAME.lst of the same folder. Raises OSError.

    Both are optional and only name the records. Member.name is the path in the .lst, else the
    key in the .idx, else the id in the record; label is the record's (first) label, None where
    it is not finite; offset is the byte offset of the record.
    """
    return RecordContainer(stream, sibling, name)


class RecordContainer:
    """The photos of a .rec, in the file's order."""

    sequential = False

    def __init__(
        self, stream: BinaryIO, sibling: Callable[[str], BinaryIO | None], name: str
    ) -> None:
        """Take over the stream of a .rec."""
        self._window = ForwardWindow(stream)
        self._sibling = sibling
        self._stem = PurePosixPath(name).stem

    def members(self) -> Iterator[Member]:
        """Yield the photos, and a Member with a problem for every damaged stretch."""
        keys = ListedOffsets(self._sibling(f"{self._stem}.idx"), self._window.size)
        names = ListedNames(self._sibling(f"{self._stem}.lst"))
        try:
            yield from self._listed(keys, names)
        finally:
            keys.close()
            names.close()

    def read(self, member: Member, max_bytes: int) -> bytes:
        """Return the encoded image of a record, at most ``max_bytes`` + 1 of it."""
        header = _image_header(self._record(member.offset))
        stop = header.image_at + min(header.image_bytes, max_bytes + 1)
        return self._gather(member.offset, stop)[header.image_at :]

    def close(self) -> None:
        """Close the stream."""
        self._window.close()

    def _listed(self, keys: ListedOffsets, names: ListedNames) -> Iterator[Member]:
        position, previous_id, count = 0, -1, 0
        photos_end: int | None = None  # the first index that is no photo's
        while position < self._window.size:
            try:
                record = self._record(position)
                self._check_next(position, record)
                header = _image_header(record)
            except _Damaged as error:
                yield Member(name=f"byte-{position}", offset=position, problem=str(error))
                position = self._next_record(position + len(MAGIC))
                continue
            # Some tools leave every id at 0: records are then counted, as rec2idx.py does.
            own = header.id if header.id != previous_id else count
            previous_id, count = header.id, count + 1
            key = keys.key(position)
            index = own if key is None else key
            if index == 0 and _is_range(header):
                photos_end = int(header.labels[0])
            elif not _is_identity(index, header, photos_end):
                yield _member(index, names.name(index), position, header)
            position = record.end

    def _parts(self, offset: int) -> Iterator[tuple[int, int]]:
        """Yield (offset, length) of the payload of each part of the record at ``offset``."""
        expected = (WHOLE, FIRST)
        while True:
            head = self._window.at(offset, PART_HEADER.size)
            if not head.startswith(MAGIC):
                raise _Damaged("no record begins here: bytes up to the next one are skipped")
            if len(head) < PART_HEADER.size:
                raise _Damaged("the file ends within the header of a record")
            flag, length = _split(PART_HEADER.unpack(head)[1])
            if flag not in expected:
                raise _Damaged("the parts of the record are not in order")
            offset += PART_HEADER.size
            if offset + length > self._window.size:
                present = self._window.size - offset
                raise _Damaged(f"the record claims {length} bytes, {present} are left in the file")
            yield offset, length
            offset += length + -length % 4
            if flag in (WHOLE, LAST):
                return
            expected = (MIDDLE, LAST)

    def _record(self, offset: int) -> _Record:
        head, size, end = b"", 0, offset
        for number, (start, length) in enumerate(self._parts(offset)):
            joint = MAGIC if number else b""
            if len(head) < _HEAD_BYTES:
                head += joint + self._window.at(start, min(length, _HEAD_BYTES))
            size += len(joint) + length
            end = start + length + -length % 4
        return _Record(head, size, end)

    def _gather(self, offset: int, stop: int) -> bytes:
        """Return the payload of a record up to ``stop``."""
        pieces, size = [], 0
        for number, (start, length) in enumerate(self._parts(offset)):
            if size >= stop:
                break
            joint = MAGIC if number else b""
            pieces.append(joint + self._window.at(start, min(length, stop - size)))
            size += len(pieces[-1])
        if size < stop:
            raise _Damaged("the file has become shorter since it was listed")
        return b"".join(pieces)[:stop]

    def _check_next(self, offset: int, record: _Record) -> None:
        """Raise _Damaged where a longer length has swallowed the records that follow."""
        for start, length in self._parts(offset):
            if self._next_magic(start, start + length) < start + length:
                raise _Damaged(f"the record claims {length} bytes, another begins within them")

    def _next_magic(self, start: int, stop: int) -> int:
        """Return the first multiple of 4 from ``start`` where a magic is, ``stop`` if none is."""
        start += -start % 4
        while True:
            start = self._window.find(MAGIC, start, stop)
            if start < 0:
                return stop
            if start % 4 == 0:
                return start
            start += 1

    def _next_record(self, start: int) -> int:
        """Return where the next whole record may begin: parts without a first one are passed."""
        while True:
            start = self._next_magic(start, self._window.size)
            head = self._window.at(start, PART_HEADER.size)
            if len(head) < PART_HEADER.size:
                return self._window.size
            if _split(PART_HEADER.unpack(head)[1])[0] in (WHOLE, FIRST):
                return start
            start += len(MAGIC)


def _split(word: int) -> tuple[int, int]:
    return word >> LENGTH_BITS, word & ((1 << LENGTH_BITS) - 1)


def _image_header(record: _Record) -> _ImageHeader:
    if record.size < IMAGE_HEADER.size:
        raise _Damaged(f"a record of {record.size} bytes is too short to hold an image")
    flag, label, record_id, _ = IMAGE_HEADER.unpack_from(record.head)
    image_at = IMAGE_HEADER.size + 4 * flag
    if image_at > record.size:
        raise _Damaged(f"the record claims {flag} labels, more than its {record.size} bytes hold")
    count = min(flag, 2)
    labels = struct.unpack_from(f"<{count}f", record.head, IMAGE_HEADER.size) if flag else (label,)
    return _ImageHeader(record_id, labels, flag > 0, image_at, record.size - image_at)


def _is_range(header: _ImageHeader) -> bool:
    """Return whether a record has no image but two indices, 1 <= first <= end."""
    if header.image_bytes or len(header.labels) != 2:
        return False
    first, end = header.labels
    return math.isfinite(end) and 1 <= first <= end and first == int(first) and end == int(end)


def _is_identity(index: int, header: _ImageHeader, photos_end: int | None) -> bool:
    """Return whether a record is the range of an identity rather than a photo."""
    if photos_end is None:  # [label, aligned] of a photo without an image is no range
        return _is_range(header) and header.labels[0] < header.labels[1]
    if index < photos_end and photos_end < EXACT_FLOAT32:
        return False
    # Beyond that record 0 is rounded, and only the missing image tells.
    return photos_end < EXACT_FLOAT32 or _is_range(header)


def _member(index: int, path: str | None, offset: int, header: _ImageHeader) -> Member:
    value = header.labels[0]
    label = None
    if math.isfinite(value):
        label = str(int(value)) if value == int(value) else f"{value:.9g}"
    problem = None if header.image_bytes else "the record holds no image"
    return Member(
        name=str(index) if path is None else path,
        offset=offset,
        bytes=header.image_bytes,
        label=label,
        problem=problem,
    )
