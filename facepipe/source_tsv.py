"""MS-Celeb-1M and its like: a text whose lines each hold an image in base64.

Columns are separated by tabs; there is no header line. As the data set's own pages describe
them (msceleb.org):

- faces, cropped or aligned: Freebase MID, ImageSearchRank, ImageURL, PageURL, FaceID,
  FaceRectangle_Base64Encoded (4 float32: left, top, right, bottom as shares of the image),
  FaceData_Base64Encoded
- whole images: Freebase MID, Query/Name, ImageSearchRank, ImageURL, PageURL,
  ImageData_Base64Encoded
- development sets: Freebase MID, EntityNameString, ImageURL, FaceID,
  FaceRectangle_Base64Encoded, FaceData_Base64Encoded
- low-shot sets: ImageID, FaceData_Base64Encoded, Freebase MID, ImageSearchRank, ImageURL; or
  Base set or novel set, ImageID, FaceData_Base64Encoded, Freebase MID, ImageURL
- test sets: line number, FaceData_Base64Encoded

The image is therefore found by its content: the last column whose base64 begins as an image.
The label is the first column that looks like a Freebase MID, else the first column. FaceID
counts the faces of one image, so that only MID, rank and FaceID together name a face.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from typing import BinaryIO

from facepipe.archive_bytes import shown_name
from facepipe.containers import Member
from facepipe.forward_window import ForwardWindow
from facepipe.image_header import SNIFF_BYTES, sniff

MAX_LINE_BYTES = 64 << 20  # 48 MiB of image; lines of MS-Celeb-1M have some 10 KB
LABEL_BYTES = 1024

_SNIFF_CHARACTERS = 4 * -(-SNIFF_BYTES // 3)
_LEAST_CHARACTERS = 16  # no image is smaller than 12 bytes
_BOM = b"\xef\xbb\xbf"
_BASE64 = re.compile(rb"[A-Za-z0-9+/]+={0,2}")
_MID = re.compile(rb"(?:/?[mg][./])[0-9a-z_]{2,16}")
_RANK = re.compile(rb"\d{1,9}")
_FACE_ID = re.compile(rb"(?i:face)\w*-?\d{1,9}|\d{1,9}")

_NO_IMAGE = "no column of the line begins as an image in base64"
_BAD_BASE64 = "the base64 of the image is damaged or cut off"


def is_tsv(head: bytes, name: str) -> bool:
    """Return whether a .tsv, of which up to 64 KiB are given, has an image in its first line."""
    if not name.lower().endswith(".tsv"):
        return False
    first = head.removeprefix(_BOM).lstrip(b"\r\n").partition(b"\n")[0]
    return _image_column(first.split(b"\t")) is not None


def open_tsv(stream: BinaryIO, max_line_bytes: int = MAX_LINE_BYTES) -> TsvContainer:
    """Open a text of images; a line longer than ``max_line_bytes`` is refused and passed.

    Member.name is MID/rank-FaceID where the line has them, else the label and the number of
    the line; offset is the byte offset of the line. Raises OSError.
    """
    return TsvContainer(stream, max_line_bytes)


class TsvContainer:
    """The images of a text, a line each."""

    sequential = False

    def __init__(self, stream: BinaryIO, max_line_bytes: int) -> None:
        """Take over the stream of a .tsv."""
        self._window = ForwardWindow(stream)
        self._max_line_bytes = max_line_bytes

    def members(self) -> Iterator[Member]:
        """Yield a Member for every line that is not empty."""
        for number, (offset, line) in enumerate(self._window.lines(self._max_line_bytes), 1):
            if line is None:
                problem = f"the line is longer than {self._max_line_bytes} bytes"
                yield Member(name=f"line-{number}", offset=offset, problem=problem)
            elif line.strip(b"\r\n\t \0" + _BOM):
                yield _member(number, offset, _columns(line))

    def read(self, member: Member, max_bytes: int) -> bytes:
        """Return the decoded image of a line, at most ``max_bytes`` + 1 bytes of it."""
        line, _ = self._window.line(member.offset, self._max_line_bytes)
        if line is None:
            raise OSError(f"the line is longer than {self._max_line_bytes} bytes")
        columns = _columns(line)
        place = _image_column(columns)
        if place is None:
            raise OSError(_NO_IMAGE)
        text = columns[place]
        if not _BASE64.fullmatch(text):
            raise OSError(_BAD_BASE64)
        wanted = max_bytes + 1
        cut = 4 * -(-wanted // 3)
        try:
            return binascii.a2b_base64(text[:cut] if cut < len(text) else _padded(text))[:wanted]
        except binascii.Error as error:
            raise OSError(_BAD_BASE64) from error

    def close(self) -> None:
        """Close the stream."""
        self._window.close()


def _columns(line: bytes) -> list[bytes]:
    return line.removeprefix(_BOM).rstrip(b"\r\n\0 ").split(b"\t")


def _image_column(columns: list[bytes]) -> int | None:
    for place in range(len(columns) - 1, -1, -1):
        text = columns[place][:_SNIFF_CHARACTERS]
        if len(text) < _LEAST_CHARACTERS or not _BASE64.fullmatch(text):
            continue
        whole = text[: len(text.rstrip(b"=")) // 4 * 4]
        if sniff(binascii.a2b_base64(whole)) is not None:
            return place
    return None


def _padded(text: bytes) -> bytes:
    """Return base64 with its padding, which some writers leave out."""
    return text + b"=" * (-len(text) % 4)


def _member(number: int, offset: int, columns: list[bytes]) -> Member:
    place = _image_column(columns)
    label = _label(columns, place)
    name = _name(columns, place, label, number)
    if place is None:
        return Member(name=name, offset=offset, label=label, problem=_NO_IMAGE)
    text = columns[place]
    size = 3 * len(text.rstrip(b"=")) // 4
    problem = None if _BASE64.fullmatch(text) and len(text) % 4 != 1 else _BAD_BASE64
    return Member(name=name, offset=offset, bytes=size, label=label, problem=problem)


def _label(columns: list[bytes], place: int | None) -> str | None:
    found = next((i for i, column in enumerate(columns) if _MID.fullmatch(column)), 0)
    if found == place or not 0 < len(columns[found]) <= LABEL_BYTES:
        return None
    return shown_name(columns[found])


def _name(columns: list[bytes], place: int | None, label: str | None, number: int) -> str:
    """Return MID/rank-FaceID of the faces, MID/rank of the whole images, else the line."""
    if label is None:
        return f"line-{number}"
    if len(columns) == 7 and place == 6:
        rank, face = columns[1], columns[4]
        if _RANK.fullmatch(rank) and _FACE_ID.fullmatch(face):
            return f"{label}/{rank.decode()}-{face.decode()}"
    if len(columns) == 6 and place == 5 and _RANK.fullmatch(columns[2]):
        return f"{label}/{columns[2].decode()}"
    return f"{label}/line-{number}"
