"""One contract for stored bytes: a local folder, or a prefix on s3://, gs:// or az://."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from facepipe.errors import UsageError
from facepipe.lease import Held
from facepipe.local_store import LOCK, TEMPORARY, Keys, LocalStore

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

__all__ = ["LOCK", "TEMPORARY", "LocalStore", "Store", "locked", "open_store"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/")


class Store(Protocol):
    """Keys are POSIX paths; none leaves the folder or prefix that the store was opened with."""

    @property
    def uri(self) -> str:
        """Return the folder or prefix as it was given."""
        ...

    @property
    def local(self) -> Path | None:
        """Return the folder, for readers that need real files; None on an object store."""
        ...

    def get(self, key: str) -> bytes:
        """Return the bytes of a key. Raises FileNotFoundError."""
        ...

    def get_with_etag(self, key: str) -> tuple[bytes, str]:
        """Return the bytes of a key and what `put_if_match` knows them by."""
        ...

    def open(self, key: str) -> BinaryIO:
        """Return a key as a seekable file. Raises FileNotFoundError."""
        ...

    def size(self, key: str) -> int:
        """Return the bytes of a key. Raises FileNotFoundError."""
        ...

    def exists(self, key: str) -> bool:
        """Tell whether a key has been written."""
        ...

    def list(self, prefix: str) -> Keys:
        """Return the keys directly in a folder, sorted; empty where there is none."""
        ...

    def list_all(self, prefix: str = "") -> dict[str, int]:
        """Return every key below a folder with its bytes, sorted, in one recursive listing.

        What unfinished writes left behind is not in it.
        """
        ...

    def names(self) -> Keys:
        """Return the first level of what is there, files and folders, sorted."""
        ...

    def empty(self) -> bool:
        """Tell whether nothing at all is there yet."""
        ...

    def filesystem(self) -> FileSystem:
        """Return the store for pyarrow's datasets; keys are its paths."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Write or replace a key durably. Raises StoreFull."""
        ...

    def create(self, key: str) -> AbstractContextManager[BinaryIO]:
        """Give a stream to write a key with, durably; what is there is replaced.

        The key is there once the block has ended, all of it; where the block raises, nothing
        has changed. The stream only takes bytes in order. Raises StoreFull.
        """
        ...

    def scratch(self, size_bytes: int = 0) -> BinaryIO:
        """Open a local file without a name to write, read and map, gone when it is closed.

        size_bytes: reserved on the disk. Raises StoreFull where there is not so much.
        """
        ...

    def adopt(self, key: str, file: BinaryIO) -> None:
        """Write or replace a key durably with a whole `scratch` file, which is not changed again.

        On its own disk nothing is copied. Raises StoreFull.
        """
        ...

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write a key durably unless it exists; True for the one writer that did."""
        ...

    def put_if_match(self, key: str, data: bytes, etag: str | None) -> str | None:
        """Replace a key if it still is what ``etag`` was read from; None: absent.

        Returns the new etag, or None where another writer came first. All writers of such a
        key must write it this way.
        """
        ...

    def delete(self, key: str) -> None:
        """Remove a key; one that is not there is no error."""
        ...

    def sweep(self) -> int:
        """Remove what unfinished writes left behind; return how many. Only while it is held."""
        ...

    def hold(self) -> AbstractContextManager[Held]:
        """Hold the store for one run at a time. Raises StoreError where another run has it."""
        ...


def open_store(uri: str | Path) -> Store:
    """Return the store at a local path or an s3://, gs:// or az:// uri; nothing is touched.

    Raises UsageError for another scheme and for a uri without a bucket.
    """
    scheme = _SCHEME.match(str(uri))
    if scheme is None:
        return LocalStore(uri)
    from facepipe.object_store import ObjectStore

    if isinstance(uri, Path):  # which has made one slash out of the two
        raise UsageError(f"{uri} is a uri: give it as text, not as a pathlib.Path")
    return ObjectStore(uri)


def locked(store: Store) -> AbstractContextManager[Held]:
    """Hold the store for one run at a time. Raises StoreError where another run has it."""
    return store.hold()
