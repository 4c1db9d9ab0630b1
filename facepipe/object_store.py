"""A prefix of a bucket as a store: conditional puts for commits, a lease for the run."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, BinaryIO

from facepipe.errors import StoreError, StoreFull
from facepipe.lease import EVERY_S, LEASE, TTL_S, Held, leased
from facepipe.local_store import COPY_BYTES, TEMPORARY, Keys
from facepipe.nameless import open_nameless
from facepipe.object_client import Patience, client, explained, parse_uri, plain
from facepipe.object_files import head, list_metas, open_path, version_of
from facepipe.object_writer import create_object

if TYPE_CHECKING:
    from obstore import PutMode, PutResult, UpdateVersion
    from pyarrow.fs import FileSystem

# One put is atomic and one request. Beyond this, parts: a put that breaks then leaves parts
# behind that no listing shows, which a bucket's lifecycle rule should remove.
PART_BYTES = 64 * 2**20
CONFLICT_WAITS_S = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
_NO_ETAG = {"s3": '"' + "0" * 32 + '"', "az": '"0x0"', "gs": "1"}  # of no object there is


class ObjectStore:
    """Keys are paths below a prefix of a bucket; `facepipe.store.Store` says what is promised.

    Every method raises StoreError, with the remedy, where the store cannot be reached, does
    not exist or does not allow it.
    """

    local = None

    def __init__(self, uri: str, patience: Patience | None = None) -> None:
        """Point at a prefix; nothing is asked yet. Raises UsageError."""
        self.uri = uri.rstrip("/")
        self._at = parse_uri(uri)
        self._patience = patience

    def path(self, key: str) -> str:
        """Return where a key is in the bucket. Raises StoreError for one that leaves the prefix."""
        if not plain(key):
            raise StoreError(f"key {key!r} leaves {self.uri}: the record is not ours")
        return self._at.path(key)

    # -- reading -------------------------------------------------------------------------

    def get(self, key: str) -> bytes:
        """Return the bytes of a key. Raises FileNotFoundError."""
        return self.get_with_etag(key)[0]

    def get_with_etag(self, key: str) -> tuple[bytes, str]:
        """Return the bytes of a key and their etag (gs://: generation). One request."""
        path = self.path(key)
        with self._explained(key):
            answer = client(self._at, self._patience).get(path)
            data, meta = answer.bytes().to_bytes(), answer.meta
        return data, version_of(self._at.scheme, meta["e_tag"], meta["version"])

    def open(self, key: str) -> BinaryIO:
        """Return a key as a seekable stream of one version. Raises FileNotFoundError."""
        return open_path(self._at, self.path(key))

    def size(self, key: str) -> int:
        """Return the bytes of a key. Raises FileNotFoundError."""
        return head(self._at, self.path(key))["size"]

    def exists(self, key: str) -> bool:
        """Tell whether a key has been written."""
        try:
            head(self._at, self.path(key))
        except FileNotFoundError:
            return False
        return True

    def list(self, prefix: str) -> Keys:
        """Return the keys directly in a folder, sorted; empty where there is none."""
        return self._level(prefix)[0]

    def list_all(self, prefix: str = "") -> dict[str, int]:
        """Return every key below a folder with its bytes, sorted; a request per thousand."""
        found = {
            self._key(meta["path"]): meta["size"]
            for meta in list_metas(self._at, self.path(prefix))
        }
        return {k: found[k] for k in sorted(found) if not k.startswith(f"{TEMPORARY}/")}

    def names(self) -> Keys:
        """Return the first level of what is there, sorted. Raises StoreError without a bucket."""
        keys, folders = self._level("")
        return sorted({*keys, *folders})

    def empty(self) -> bool:
        """Tell whether nothing at all is there yet."""
        return next(list_metas(self._at, self._at.prefix), None) is None

    def filesystem(self) -> FileSystem:
        """Return the store for pyarrow's datasets, read-only; keys are its paths."""
        from facepipe.arrow_files import arrow_files

        return arrow_files(self)

    def _level(self, prefix: str) -> tuple[Keys, Keys]:
        """Return the keys and the folders directly in a folder, sorted."""
        path = self.path(prefix)
        with self._explained(prefix):
            found = client(self._at, self._patience).list_with_delimiter(path or None)
        below = f"{path}/" if path else ""
        keys = [m["path"] for m in found["objects"] if m["path"].startswith(below)]
        return (
            sorted(self._key(path) for path in keys),
            sorted(self._key(path) for path in found["common_prefixes"]),
        )

    def _key(self, path: str) -> str:
        return path[len(self._at.prefix) + 1 :] if self._at.prefix else path

    # -- writing -------------------------------------------------------------------------

    def put(self, key: str, data: bytes) -> None:
        """Write or replace a key: one request up to 64 MiB."""
        self._put(key, data, "overwrite")

    def create(self, key: str) -> AbstractContextManager[BinaryIO]:
        """Give a stream to write a key with: one request up to 16 MiB, then parts."""
        return create_object(self._at, self.path(key), self._patience)

    def scratch(self, size_bytes: int = 0) -> BinaryIO:
        """Open a nameless file on the disk for temporary files. Raises StoreFull."""
        try:
            return open_nameless(None, size_bytes)
        except OSError as error:
            raise StoreFull(
                f"{tempfile.gettempdir()} has no room for {size_bytes} bytes ({error.strerror}): "
                "free some, or set TMPDIR to a folder that has, then run the same command again"
            ) from error

    def adopt(self, key: str, file: BinaryIO) -> None:
        """Write a scratch file to a key, in parts."""
        file.seek(0)
        with self.create(key) as stream:
            shutil.copyfileobj(file, stream, COPY_BYTES)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write a key unless it exists; True for the one writer that did.

        Where the answer of a server is lost and the request sent again, False may be said to
        the one that did: read the key to know.
        """
        return self._put(key, data, "create") is not None

    def put_if_match(self, key: str, data: bytes, etag: str | None) -> str | None:
        """Replace a key if it still has the etag; None: if it is absent.

        On s3:// an etag is a digest of the bytes: a value that comes back has its old etag.
        """
        seen: UpdateVersion = {"version": etag} if self._at.scheme == "gs" else {"e_tag": etag}
        result = self._put(key, data, "create" if etag is None else seen)
        if result is None:
            return None
        return version_of(self._at.scheme, result["e_tag"], result["version"])

    def delete(self, key: str) -> None:
        """Remove a key; one that is not there is no error."""
        path = self.path(key)
        try:
            with self._explained(key):
                client(self._at, self._patience).delete(path)
        except FileNotFoundError:  # some stores say so
            return

    def sweep(self) -> int:
        """Remove what unfinished writes of a local folder left, if it was copied here."""
        leftovers = self.list(TEMPORARY)
        for key in leftovers:
            self.delete(key)
        return len(leftovers)

    @contextmanager
    def hold(self, ttl_s: float = TTL_S, every_s: float = EVERY_S) -> Iterator[Held]:
        """Hold the prefix for one run at a time, by a lease (facepipe.lease).

        Raises StoreError where another run has it, and where the server does not do the
        conditional puts that commits and the lease rest on: that is tried out.
        """
        quick = Patience(connect_s=every_s / 2, request_s=every_s, retries=2, retry_s=every_s)
        with leased(ObjectStore(self.uri, quick), ttl_s=ttl_s, every_s=every_s) as lease:
            self._need_conditions()
            yield lease

    def _need_conditions(self) -> None:
        """Raise StoreError where a put that must be refused is not: some servers ignore it."""
        free = json.dumps({"free": True}).encode()
        ignored = "If-None-Match" if self.put_if_absent(LEASE, free) else None
        if self.put_if_match(LEASE, free, _NO_ETAG[self._at.scheme]) is not None:
            ignored = ignored or "If-Match"
        if ignored is not None:
            raise StoreError(
                f"the server of {self.uri} ignores {ignored}, so that two runs could overwrite "
                "each other's commits: use a server that does conditional writes"
            )

    def _put(self, key: str, data: bytes, mode: PutMode) -> PutResult | None:
        """Put a key under a condition; None where the condition does not hold.

        S3 answers 409 to a conditional put that overlaps another write of the key: nothing has
        been decided then, and obstore says the same as where something has (412). On az:// a
        409 is the decision.
        """
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        path = self.path(key)
        parts = mode == "overwrite" and len(data) > PART_BYTES
        for wait_s in CONFLICT_WAITS_S:
            try:
                with self._explained(key):
                    return client(self._at, self._patience).put(
                        path, data, mode=mode, use_multipart=parts, chunk_size=PART_BYTES
                    )
            except (AlreadyExistsError, PreconditionError) as error:
                if self._at.scheme != "s3" or "409 Conflict" not in str(error):
                    return None
            except FileNotFoundError:  # what was to be replaced
                return None
            time.sleep(wait_s)
        raise StoreError(
            f"{self.uri}/{key}: too many writers at once: check that nothing else writes there, "
            "then run the same command again"
        )

    @contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        with explained(self._at.scheme, self._at.bucket, f"{self.uri}/{key}".rstrip("/")):
            yield
