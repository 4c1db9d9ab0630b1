"""Objects as inputs: listing what lies below a prefix, and reading one as a stream."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, cast

from facepipe.errors import SourceNotFound, StoreError, UsageError
from facepipe.object_client import Location, Scheme, client, explained, parse_uri

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta
    from obstore.store import ObjectStore

LIST_CHUNK = 1000  # what a page of S3 holds
TAIL_BYTES = 64 * 2**10  # what pyarrow reads first of a Parquet file: its footer, nearly always
FIRST_BYTES = 256 * 2**10  # read ahead after a seek ...
MOST_BYTES = 8 * 2**20  # ... doubling up to this while a stream is read in order


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """One object as it was listed; ``version`` changes with its bytes."""

    uri: str
    bytes: int
    version: str


def list_objects(uri: str) -> Iterator[ObjectInfo]:
    """Yield the object that ``uri`` names, or everything below it, in the store's order.

    The empty objects by which consoles show folders are left out. Raises SourceNotFound where
    there is nothing, StoreError, UsageError.
    """
    location = parse_uri(uri)
    found = False
    if location.prefix and not uri.endswith("/"):
        try:
            yield _info(location, head(location, location.prefix))
            found = True
        except FileNotFoundError:
            pass
    waiting: ObjectInfo | None = None
    for meta in list_metas(location, location.prefix):
        info = _info(location, meta)
        if waiting is not None and not info.uri.startswith(f"{waiting.uri}/"):
            yield waiting
        waiting = info if info.bytes == 0 else None
        if waiting is None:
            yield info
        found = True
    if waiting is not None:
        yield waiting
    if not found:
        raise SourceNotFound(f"source {uri} does not exist: give a prefix that holds photos")


def read_object(uri: str, max_bytes: int) -> bytes:
    """Return the bytes of an object, at most ``max_bytes`` + 1 of them, in one request.

    Raises FileNotFoundError, StoreError, UsageError.
    """
    location = _object(uri)
    store = client(location)
    try:
        with explained(location.scheme, location.bucket, uri):
            options: GetOptions = {"range": (0, max_bytes + 1)}
            return store.get(location.prefix, options=options).bytes().to_bytes()
    except StoreError:
        if head(location, location.prefix)["size"]:
            raise
        return b""  # no range lies in an empty object: servers answer 416


def open_object(uri: str) -> BinaryIO:
    """Open an object as a seekable stream. Raises FileNotFoundError, StoreError, UsageError.

    Reading raises OSError where the object is replaced meanwhile: what is read is one version.
    """
    location = _object(uri)
    return open_path(location, location.prefix)


def _object(uri: str) -> Location:
    location = parse_uri(uri)
    if not location.prefix:
        raise UsageError(f"{uri} is a bucket: give the uri of one object in it")
    return location


def open_path(location: Location, path: str) -> BinaryIO:
    """Open a path of a bucket as a seekable stream; as `open_object`."""
    return cast(BinaryIO, io.BufferedReader(RangeFile(location, path), buffer_size=TAIL_BYTES))


def head(location: Location, path: str) -> ObjectMeta:
    """Return what the store knows of a path. Raises FileNotFoundError, StoreError."""
    with explained(location.scheme, location.bucket, f"{location.root}/{path}"):
        return client(location).head(path)


def list_metas(location: Location, prefix: str) -> Iterator[ObjectMeta]:
    """Yield every object below a prefix of a bucket, a page per thousand."""
    where = f"{location.root}/{prefix}"
    below = f"{prefix}/" if prefix else ""
    pages = iter(client(location).list(prefix or None, chunk_size=LIST_CHUNK))
    while True:
        with explained(location.scheme, location.bucket, where):
            page = next(pages, None)
        if page is None:
            return
        yield from (meta for meta in page if meta["path"].startswith(below))


def version_of(scheme: Scheme, e_tag: str | None, version: str | None) -> str:
    """Return what a store compares when it swaps: a generation on gs://, an etag elsewhere."""
    found = version if scheme == "gs" else e_tag
    if not found:
        raise StoreError(
            f"the server of this {scheme}:// store gives its objects no "
            f"{'generation' if scheme == 'gs' else 'etag'}, which facepipe needs: use another"
        )
    return found


def _info(location: Location, meta: ObjectMeta) -> ObjectInfo:
    return ObjectInfo(
        uri=f"{location.root}/{meta['path']}",
        bytes=meta["size"],
        version=meta["e_tag"] or meta["version"] or meta["last_modified"].isoformat(),
    )


class RangeFile(io.RawIOBase):
    """Reads one version of an object by ranges, ahead of a reader who goes on in order."""

    def __init__(self, location: Location, path: str) -> None:
        """Open it with one request, which brings the size and the last bytes."""
        super().__init__()
        self._location, self._path = location, path
        self._store: ObjectStore = client(location)
        self._where = f"{location.root}/{path}"
        self._at, self._ahead = 0, FIRST_BYTES
        self._size, self._e_tag, self._tail = self._open()
        self._start, self._block = 0, memoryview(b"")

    def _open(self) -> tuple[int, str | None, memoryview]:
        with explained(self._location.scheme, self._location.bucket, self._where):
            if self._location.scheme == "az":  # which knows no range that counts from the end
                meta = self._store.head(self._path)
                return meta["size"], meta["e_tag"], memoryview(b"")
            try:
                options: GetOptions = {"range": {"suffix": TAIL_BYTES}}
                answer = self._store.get(self._path, options=options)
            except FileNotFoundError:
                raise
            except Exception:  # no range lies in an empty object: servers answer 416
                meta = self._store.head(self._path)
                if meta["size"]:
                    raise
                return 0, meta["e_tag"], memoryview(b"")
            tail = memoryview(answer.bytes().to_bytes())
            return answer.meta["size"], answer.meta["e_tag"], tail

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position, which may lie behind the end. Raises ValueError before 0."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"position {base + offset} lies before the start of {self._where}")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill a buffer from the position on; return how many bytes there were."""
        wanted = min(len(buffer), max(0, self._size - self._at))
        if not wanted:
            return 0
        tail_at = self._size - len(self._tail)
        if self._at >= tail_at:
            found = self._tail[self._at - tail_at :]
        else:
            if not self._start <= self._at < self._start + len(self._block):
                self._fetch(wanted)
            found = self._block[self._at - self._start :]
        count = min(wanted, len(found))
        buffer[:count] = found[:count]
        self._at += count
        return count

    def _fetch(self, wanted: int) -> None:
        on = self._block and self._at == self._start + len(self._block)
        self._ahead = min(MOST_BYTES, 2 * self._ahead) if on else FIRST_BYTES
        end = min(self._size - len(self._tail), self._at + max(wanted, self._ahead))
        options: GetOptions = {"range": (self._at, end)}
        if self._e_tag:
            options["if_match"] = self._e_tag
        from obstore.exceptions import PreconditionError

        try:
            with explained(self._location.scheme, self._location.bucket, self._where):
                answer = self._store.get(self._path, options=options)
                self._start, self._block = self._at, memoryview(answer.bytes().to_bytes())
        except PreconditionError as error:
            raise OSError(f"{self._where} was replaced while it was read") from error
