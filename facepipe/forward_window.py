"""Bytes of a file by their offset, fetched in large forward reads.

The readers of record formats step from header to header. On an object store each small read
would be a request of its own; a window turns them into few large ones, and its size starts
anew after a jump, so that a single record far away does not cost a large read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

FIRST_READ_BYTES = 64 << 10  # after a jump
LARGEST_READ_BYTES = 4 << 20  # doubled up to this while reads follow each other


class ForwardWindow:
    """A seekable binary stream read by offset; its size is taken once, when it is opened."""

    def __init__(self, stream: BinaryIO) -> None:
        """Take over a stream: `close` closes it."""
        self._stream = stream
        self.size = stream.seek(0, os.SEEK_END)
        self._start, self._data = 0, b""
        self._ahead_bytes = FIRST_READ_BYTES

    def at(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes at ``offset``, fewer where the file ends. Raises OSError."""
        size = min(size, self.size - offset)
        if size <= 0 or offset < 0:
            return b""
        begin = offset - self._start
        if 0 <= begin and begin + size <= len(self._data):
            return self._data[begin : begin + size]
        follows = 0 <= begin <= len(self._data)
        kept = self._data[begin:] if follows else b""
        if follows:
            self._ahead_bytes = min(2 * self._ahead_bytes, LARGEST_READ_BYTES)
        else:
            self._ahead_bytes = FIRST_READ_BYTES
        wanted = max(size, self._ahead_bytes) - len(kept)
        self._data = kept + self._fetch(offset + len(kept), wanted)
        self._start = offset
        return self._data[:size]

    def find(self, needle: bytes, start: int, stop: int) -> int:
        """Return where ``needle`` begins, all of it within [start, stop); -1 where it is not."""
        while start < stop:
            data = self.at(start, min(FIRST_READ_BYTES, stop - start))
            found = data.find(needle)
            if found >= 0:
                return start + found
            if len(data) < FIRST_READ_BYTES:
                return -1
            start += len(data) - len(needle) + 1
        return -1

    def line(self, offset: int, max_bytes: int) -> tuple[bytes | None, int]:
        """Return the line at ``offset`` with its newline, None where it is longer; its end."""
        size = min(FIRST_READ_BYTES, max_bytes)
        while True:
            data = self.at(offset, size)
            found = data.find(b"\n")
            if found >= 0:
                return data[: found + 1], offset + found + 1
            if len(data) < size or offset + size == self.size:
                return data, offset + len(data)
            if size == max_bytes:
                break
            size = min(4 * size, max_bytes)
        found = self.find(b"\n", offset + size, self.size)
        return None, self.size if found < 0 else found + 1

    def lines(self, max_bytes: int) -> Iterator[tuple[int, bytes | None]]:
        """Yield (offset, line with its newline); None for a line that is longer."""
        offset = 0
        while offset < self.size:
            line, end = self.line(offset, max_bytes)
            if end <= offset:
                return  # the file has shrunk
            yield offset, line
            offset = end

    def close(self) -> None:
        """Close the stream."""
        self._data = b""
        self._stream.close()

    def _fetch(self, offset: int, size: int) -> bytes:
        self._stream.seek(offset)
        parts = []
        while size > 0:
            part = self._stream.read(min(size, LARGEST_READ_BYTES))
            if not part:
                break  # it has shrunk since: what is missing is missing like a cut
            parts.append(part)
            size -= len(part)
        return b"".join(parts)
