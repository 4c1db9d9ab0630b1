"""A stream that knows what was written to it: its size and its hash, in one pass."""

from __future__ import annotations

import hashlib
from typing import BinaryIO

from facepipe.index_manifest import IndexFile


class HashedStream:
    """Writes through to a stream, which stays open."""

    def __init__(self, stream: BinaryIO) -> None:
        """Count from here on."""
        self._stream = stream
        self._digest = hashlib.sha256()
        self._bytes = 0

    def write(self, data: bytes | memoryview) -> int:
        """Write bytes, or any contiguous array of them."""
        view = memoryview(data)
        view = view.cast("B") if view.nbytes else memoryview(b"")  # no cast of an empty shape
        self._stream.write(view)
        self._digest.update(view)
        self._bytes += len(view)
        return len(view)

    def file(self) -> IndexFile:
        """Return size and hash of all that was written."""
        return IndexFile(bytes=self._bytes, sha256=self._digest.hexdigest())
