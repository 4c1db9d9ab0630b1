"""An object written bit by bit: in parts, and there only once the last one is."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from facepipe.object_client import Location, Patience, client, explained

# Up to this an object is one put; beyond, parts of this size are sent as they fill up. S3
# takes 10,000 of them: 160 GB.
PART_BYTES = 16 * 2**20
PARTS_AT_ONCE = 4


class ObjectWriter(io.RawIOBase):
    """Takes bytes in order. Nothing is to be seen of the object before `finish`."""

    def __init__(self, location: Location, path: str, patience: Patience | None) -> None:
        """Open it; nothing is sent yet."""
        super().__init__()
        import obstore

        self._location, self._where = location, f"{location.root}/{path}"
        self._at = 0
        with self._explained():
            self._writer = obstore.open_writer(
                client(location, patience),
                path,
                buffer_size=PART_BYTES,
                max_concurrency=PARTS_AT_ONCE,
            )

    def writable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the bytes written so far."""
        return self._at

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]
        """Take bytes. Raises StoreError where a part cannot be sent."""
        with self._explained():
            self._writer.write(data)
        count = memoryview(data).nbytes
        self._at += count
        return count

    def finish(self) -> None:
        """Send the rest and put the parts together. Raises StoreError."""
        with self._explained():
            self._writer.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        with explained(self._location.scheme, self._location.bucket, self._where):
            try:
                yield
            except OSError as error:  # what obstore's writers raise, whatever it was
                raise ValueError(str(error)) from None


@contextmanager
def create_object(
    location: Location, path: str, patience: Patience | None = None
) -> Iterator[BinaryIO]:
    """Give a stream that becomes an object where the block ends without an exception."""
    writer = ObjectWriter(location, path, patience)
    yield cast(BinaryIO, writer)
    writer.finish()
