"""The lists beside a .rec: NAME.idx says where each key is, NAME.lst what each photo is called.

Both are in the order of the records, as their writers make them, and are read along with the
records: neither is ever held in memory, whatever its size. A line that does not fit is passed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

from facepipe.archive_bytes import shown_name
from facepipe.forward_window import ForwardWindow

MAX_LINE_BYTES = 16 << 10  # a path of 4,096 bytes and 17 numbers fit well
LOOKAHEAD = 4096  # lines looked at for a record that is not the next one of the list
LANDMARK_FIELDS = 17  # aligned, path, label, 4 of a box, 10 of five landmarks

_NUMBER = re.compile(r"[-+]?(\d{1,18}\.?\d{0,18}|nan|inf)([eE][-+]?\d{1,3})?", re.ASCII)
_INDEX = re.compile(r"\d{1,18}", re.ASCII)


class ListedOffsets:
    """Keys of a .idx by the offsets of their records."""

    def __init__(self, stream: BinaryIO | None, rec_bytes: int) -> None:
        """Take over an open .idx, or none."""
        self._lines = _Lines(stream)
        self._rec_bytes = rec_bytes
        self._next: tuple[int, int] | None = self._advance(-1)

    def key(self, offset: int) -> int | None:
        """Return the key of the record at ``offset``; offsets asked for rise."""
        while self._next is not None and self._next[0] < offset:
            self._next = self._advance(self._next[0])
        if self._next is None or self._next[0] != offset:
            return None
        return self._next[1]

    def close(self) -> None:
        """Close the .idx."""
        self._lines.close()

    def _advance(self, after: int) -> tuple[int, int] | None:
        for fields in self._lines:
            if len(fields) != 2 or not all(_INDEX.fullmatch(field) for field in fields):
                continue
            key, offset = int(fields[0]), int(fields[1])
            if after < offset < self._rec_bytes and offset % 4 == 0:
                return offset, key
        return None


class ListedNames:
    """Paths of a .lst by the indices of their records."""

    def __init__(self, stream: BinaryIO | None) -> None:
        """Take over an open .lst, or none."""
        self._lines = _Lines(stream)
        self._entries = self._read()
        self._pending: dict[int, str] = {}

    def name(self, index: int) -> str | None:
        """Return the path of a record, None where the list has none near the last one's."""
        while index not in self._pending and len(self._pending) < LOOKAHEAD:
            entry = next(self._entries, None)
            if entry is None:
                break
            self._pending[entry[0]] = shown_name(entry[1].encode())
        if index not in self._pending:
            return None
        while True:  # what the list has before it belongs to records that are damaged
            first = next(iter(self._pending))
            path = self._pending.pop(first)
            if first == index:
                return path

    def close(self) -> None:
        """Close the .lst."""
        self._lines.close()

    def _read(self) -> Iterator[tuple[int, str]]:
        """Yield (index, path) from any of the three forms.

        A first field of 2 or more is an index. One of 0 or 1 may also be insightface's
        ``aligned``; the running number of such lines is right for both readings, as
        face2rec2.py passes lines that are not aligned and have no landmarks.
        """
        count = 0
        for fields in self._lines:
            if len(fields) < 3 or not _INDEX.fullmatch(fields[0]):
                continue
            index = int(fields[0])
            if _NUMBER.fullmatch(fields[1]) and not _NUMBER.fullmatch(fields[-1]):
                yield index, fields[-1]
                continue
            if index == 1 or (index == 0 and len(fields) == LANDMARK_FIELDS):
                count += 1
                index = count
            yield index, fields[1]


class _Lines:
    """The tab-separated fields of the lines of a text; of none where there is no stream."""

    def __init__(self, stream: BinaryIO | None) -> None:
        self._window = None if stream is None else ForwardWindow(stream)
        self._fields = self._read()

    def __iter__(self) -> Iterator[list[str]]:
        return self._fields

    def close(self) -> None:
        if self._window is not None:
            self._window.close()

    def _read(self) -> Iterator[list[str]]:
        if self._window is None:
            return
        for _, line in self._window.lines(MAX_LINE_BYTES):
            if line is not None:
                yield line.decode(errors="replace").strip("\r\n ").split("\t")
