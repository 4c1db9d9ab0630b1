"""Where an export is written: a local folder that appears at once, or a bucket, file by file.

A prefix of a bucket has no name that could be given to it at the end. So the first object says
what is being exported, each file is there only once it is whole, and export.json comes last:
without it the export is not finished. The same export run again finds what there is and writes
the rest; another one is refused.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from facepipe.errors import UsageError
from facepipe.in_order import in_order
from facepipe.store import Store, open_store
from pipelines.export_folder import check_new, new_folder

RECORD = "export.json"  # the last file
STARTED = "_export.json"  # in a bucket the first, until the last is there
PUTS_AT_ONCE = 16  # a put is 10 to 50 ms of waiting
BUFFER_BYTES = 1 << 20  # the lines of lists and indexes are short


class Target(Protocol):
    """Takes the files of one export by their names in it."""

    @property
    def scratch(self) -> Path:
        """Return a local folder for what does not stay."""
        ...

    def create(self, name: str) -> AbstractContextManager[BinaryIO]:
        """Give a stream to write a file with, bytes in order."""
        ...

    def put_all(self, files: Iterable[tuple[str, bytes]]) -> None:
        """Write many small files."""
        ...


def check_target(out: str) -> None:
    """Raise UsageError unless an export can begin here, or go on in a bucket."""
    if "://" not in out:
        check_new(out)
        return
    names = open_store(out).names()
    if names and (STARTED not in names or RECORD in names):
        raise UsageError(f"--out {out} is not empty: give a new prefix, nothing is written over")


@contextmanager
def open_target(out: str, record: bytes) -> Iterator[Target]:
    """Yield where to write the files of an export; when the block ends well, it is finished.

    record: what is exported and how, the bytes of RECORD; the same for the same files. Raises
    UsageError as `check_target` does and where another export was begun in the bucket,
    StoreFull, StoreError.
    """
    if "://" not in out:
        with new_folder(out) as folder:
            yield _Folder(folder)
            (folder / RECORD).write_bytes(record)
        return
    check_target(out)
    store = open_store(out)
    if not store.put_if_absent(STARTED, record) and store.get(STARTED) != record:
        raise UsageError(
            f"another export was begun in {out} and not finished: give another prefix, or delete "
            "that one"
        )
    with tempfile.TemporaryDirectory(prefix="facepipe-export-") as scratch:
        yield _Bucket(store, Path(scratch))
    store.put_if_absent(RECORD, record)
    store.delete(STARTED)


class _Folder:
    """A folder that nobody sees yet."""

    def __init__(self, folder: Path) -> None:
        self.scratch = folder
        self._made: set[Path] = set()

    @contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        with (self.scratch / name).open("wb") as stream:
            yield stream

    def put_all(self, files: Iterable[tuple[str, bytes]]) -> None:
        for name, data in files:
            path = self.scratch / name
            if path.parent not in self._made:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._made.add(path.parent)
            path.write_bytes(data)


class _Bucket:
    """A prefix in which some files may be there from an earlier run."""

    def __init__(self, store: Store, scratch: Path) -> None:
        self.scratch = scratch
        self._store = store
        self._there = store.list_all()

    @contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        if name in self._there:
            yield cast(BinaryIO, _Nowhere())
            return
        with self._store.create(name) as stream:
            buffered = io.BufferedWriter(cast(io.RawIOBase, stream), BUFFER_BYTES)
            yield cast(BinaryIO, buffered)
            buffered.detach()  # flushes, and leaves finishing to the store

    def put_all(self, files: Iterable[tuple[str, bytes]]) -> None:
        absent = ((name, data) for name, data in files if name not in self._there)
        for _ in in_order(lambda file: self._store.put(*file), absent, PUTS_AT_ONCE):
            pass


class _Nowhere(io.RawIOBase):
    """Takes bytes that are there already."""

    def __init__(self) -> None:
        super().__init__()
        self._at = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]
        count = memoryview(data).nbytes
        self._at += count
        return count
