"""Pictures put into another order than they are read in, through files on disk.

They are read once in the order of the shards, each appended to the file of the stretch of the
order that it belongs to; then a stretch is read at a time, and sorted. Memory is one stretch.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from facepipe.errors import CorruptData

_HEAD = struct.Struct("<QI")  # position, bytes


class Spill:
    """Stretches of ``rows`` positions each, in files of a folder that is the spill's own."""

    def __init__(self, folder: Path, rows: int) -> None:
        """Start with nothing; the folder is made."""
        folder.mkdir()
        self._folder = folder
        self._rows = rows

    def add(self, items: Iterable[tuple[int, bytes]]) -> None:
        """Append (position, bytes), in any order of positions."""
        rising = sorted(items, key=lambda item: item[0])
        for stretch, group in groupby(rising, key=lambda item: item[0] // self._rows):
            with self._path(stretch).open("ab") as stream:
                for position, data in group:
                    stream.write(_HEAD.pack(position, len(data)) + data)

    def ordered(self, count: int) -> Iterator[tuple[int, bytes]]:
        """Yield all (position, bytes) by position, and forget them; there are ``count``.

        Raises CorruptData where one is missing.
        """
        for first in range(0, count, self._rows):
            path = self._path(first // self._rows)
            items = _read(path) if path.exists() else {}
            for position in range(first, min(first + self._rows, count)):
                if position not in items:
                    raise CorruptData(f"picture {position} of {count} is not in the faces table")
                yield position, items.pop(position)
            path.unlink()
        self._folder.rmdir()

    def _path(self, stretch: int) -> Path:
        return self._folder / f"{stretch:08d}"


def _read(path: Path) -> dict[int, bytes]:
    items: dict[int, bytes] = {}
    with path.open("rb") as stream:
        while head := stream.read(_HEAD.size):
            position, size = _HEAD.unpack(head)
            items[position] = stream.read(size)
    return items
