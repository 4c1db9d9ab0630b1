"""A folder of keys: durable writes, and writes that only the first one wins.

The order is: temporary name, fsync, rename (or link), fsync of the folder. A reader never
sees half a file, and after a power cut a key either has all of its bytes or is not there
(ALICE, Pillai et al., OSDI 2014, lists what goes wrong otherwise).
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from facepipe import ids
from facepipe.errors import StoreError, StoreFull, UsageError
from facepipe.lease import Held, Unlosable
from facepipe.nameless import give_name, open_nameless

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

TEMPORARY = "_tmp"  # all unfinished writes live here, so that sweeping them is one listing
LOCK = "_lock"
COPY_BYTES = 2**20
Keys = list[str]
_SWAPPING = "swapping"  # below TEMPORARY: whoever locks it is comparing and swapping a key

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def _explained(root: Path, key: str, *, streaming: bool = False) -> Iterator[None]:
    """Turn a full or write-protected disk into an error with a remedy.

    streaming: the block also does other things; an error that names a file is of those.
    """
    try:
        yield
    except OSError as error:
        if streaming and error.filename is not None:
            raise
        if error.errno in _NO_SPACE:
            raise StoreFull(
                f"no space left while writing {key} under {root}: free some space and run the "
                "same command again; what was finished is kept"
            ) from error
        if error.errno in _NOT_ALLOWED:
            raise StoreFull(
                f"not allowed to write {key} under {root} ({error.strerror}): "
                "choose another --out or change the folder's permissions"
            ) from error
        raise


class LocalStore:
    """Keys are POSIX paths below one local folder; `facepipe.store.Store` is the contract."""

    def __init__(self, root: str | Path) -> None:
        """Point at a folder; it need not exist yet."""
        self.root = Path(root)
        self.local = self.root
        self.uri = str(self.root)

    def path(self, key: str) -> Path:
        """Return the file of a key. Raises StoreError for a key that leaves the folder."""
        parts = Path(key).parts
        if Path(key).is_absolute() or ".." in parts:
            raise StoreError(f"key {key!r} leaves the folder {self.root}: the record is not ours")
        return self.root / key

    # -- reading -------------------------------------------------------------------------

    def get(self, key: str) -> bytes:
        """Return the bytes of a key. Raises FileNotFoundError."""
        return self.path(key).read_bytes()

    def get_with_etag(self, key: str) -> tuple[bytes, str]:
        """Return the bytes of a key and their SHA-256. Raises FileNotFoundError."""
        data = self.get(key)
        return data, ids.sha256_hex(data)

    def open(self, key: str) -> BinaryIO:
        """Return the file itself, which can be mapped. Raises FileNotFoundError."""
        return self.path(key).open("rb")

    def size(self, key: str) -> int:
        """Return the bytes of a key. Raises FileNotFoundError."""
        return self.path(key).stat().st_size

    def exists(self, key: str) -> bool:
        """Tell whether a key has been written."""
        return self.path(key).exists()

    def list(self, prefix: str) -> Keys:
        """Return the keys directly in a folder, sorted; empty where there is none."""
        try:
            with os.scandir(self.path(prefix)) as entries:
                return sorted(_joined(prefix, e.name) for e in entries if e.is_file())
        except FileNotFoundError:
            return []

    def list_all(self, prefix: str = "") -> dict[str, int]:
        """Return every key below a folder with its bytes; linked folders too, each once."""
        found: dict[str, int] = {}
        pending, visited = [prefix], set()
        while pending:
            folder = pending.pop()
            try:
                info = self.path(folder).stat()
                if (info.st_dev, info.st_ino) in visited:
                    continue
                visited.add((info.st_dev, info.st_ino))
                with os.scandir(self.path(folder)) as entries:
                    for entry in entries:
                        key = _joined(folder, entry.name)
                        if entry.is_dir() and key != TEMPORARY:
                            pending.append(key)
                        elif entry.is_file():
                            found[key] = entry.stat().st_size
            except FileNotFoundError:  # also a file that another run has just removed
                continue
        return dict(sorted(found.items()))

    def names(self) -> Keys:
        """Return the first level of what is there. Raises UsageError where it is a file."""
        try:
            return sorted(entry.name for entry in self.root.iterdir())
        except FileNotFoundError:
            return []
        except NotADirectoryError as error:
            raise UsageError(f"{self.uri} is a file: give a folder") from error

    def empty(self) -> bool:
        """Tell whether nothing at all is there yet."""
        return not self.names()

    def filesystem(self) -> FileSystem:
        """Return the folder for pyarrow's datasets; keys are its paths."""
        from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

        return SubTreeFileSystem(str(self.root.absolute()), LocalFileSystem())

    # -- writing -------------------------------------------------------------------------

    def put(self, key: str, data: bytes) -> None:
        """Write or replace a key durably. Raises StoreFull."""
        with _explained(self.root, key):
            temporary, final = self._write_temporary(key, data)
            temporary.replace(final)
            _sync_folder(final.parent)

    @contextmanager
    def create(self, key: str) -> Iterator[BinaryIO]:
        """Give a stream to write a key with, durably. Raises StoreFull."""
        with _explained(self.root, key):
            temporary, final = self._places(key)
            stream = temporary.open("wb")
        try:
            with _explained(self.root, key, streaming=True), stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            with _explained(self.root, key):
                temporary.replace(final)
                _sync_folder(final.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def scratch(self, size_bytes: int = 0) -> BinaryIO:
        """Open a nameless file on the folder's disk. Raises StoreFull."""
        with _explained(self.root, f"a file of {size_bytes} bytes"):
            folder = self.root / TEMPORARY
            folder.mkdir(parents=True, exist_ok=True)
            return open_nameless(folder, size_bytes)

    def adopt(self, key: str, file: BinaryIO) -> None:
        """Make a scratch file a key, durably: it gets a name, or is copied. Raises StoreFull."""
        with _explained(self.root, key):
            temporary, final = self._places(key)
            try:
                if not give_name(file, temporary):
                    _copy(file, temporary)
                with temporary.open("rb") as stream:
                    os.fsync(stream.fileno())
                temporary.replace(final)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            _sync_folder(final.parent)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write a key durably unless it exists; True for the one writer that did.

        A hard link is made only if the name is free, which is atomic on local file systems and
        on NFS. Raises StoreError on one without hard links (FAT, some network mounts).
        """
        with _explained(self.root, key):
            temporary, final = self._write_temporary(key, data)
            try:
                os.link(temporary, final)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno in _NO_LINKS:
                    raise StoreError(
                        f"the file system of {self.root} has no hard links ({error.strerror}), "
                        "which commits need: choose an --out on one that has"
                    ) from error
                raise
            finally:
                temporary.unlink(missing_ok=True)
            _sync_folder(final.parent)
            return True

    def put_if_match(self, key: str, data: bytes, etag: str | None) -> str | None:
        """Replace a key if it still has the SHA-256 ``etag``, None: if it is absent."""
        with _explained(self.root, key):
            (self.root / TEMPORARY).mkdir(parents=True, exist_ok=True)
            with (self.root / TEMPORARY / _SWAPPING).open("a+") as handle:
                _flock(handle.fileno(), self.root, wait=True)
                before = self.get_with_etag(key)[1] if self.exists(key) else None
                if before != etag:
                    return None
                self.put(key, data)
                return ids.sha256_hex(data)

    def delete(self, key: str) -> None:
        """Remove a key; one that is not there is no error."""
        with _explained(self.root, key):
            self.path(key).unlink(missing_ok=True)

    def sweep(self) -> int:
        """Remove what unfinished writes left behind; return how many. Only with the lock held."""
        leftovers = [k for k in self.list(TEMPORARY) if k != f"{TEMPORARY}/{_SWAPPING}"]
        for key in leftovers:
            self.delete(key)
        return len(leftovers)

    @contextmanager
    def hold(self) -> Iterator[Held]:
        """Hold the folder for one run at a time. Raises StoreError where another run has it.

        The lock is the kernel's (flock), so it goes with the process, however that ends.
        """
        with _explained(self.root, LOCK):
            self.root.mkdir(parents=True, exist_ok=True)
            handle = (self.root / LOCK).open("a+")
        with handle:
            _flock(handle.fileno(), self.root, wait=False)
            yield Unlosable()

    def _write_temporary(self, key: str, data: bytes) -> tuple[Path, Path]:
        temporary, final = self._places(key)
        try:
            with temporary.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        return temporary, final

    def _places(self, key: str) -> tuple[Path, Path]:
        """Return a new temporary name and the final one of a key, whose folders exist."""
        final = self.path(key)
        folder = self.root / TEMPORARY
        folder.mkdir(parents=True, exist_ok=True)
        if not final.parent.exists():
            final.parent.mkdir(parents=True, exist_ok=True)
            _sync_folder(final.parent.parent)
        return folder / f"{os.getpid()}-{uuid.uuid4().hex}", final


def _copy(file: BinaryIO, path: Path) -> None:
    file.seek(0)
    with path.open("wb") as stream:
        shutil.copyfileobj(file, stream, COPY_BYTES)


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _flock(handle: int, root: Path, *, wait: bool) -> None:
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        raise StoreError(
            f"another run is working on {root}: wait until it has finished, "
            "or end it, then run the same command again"
        ) from error
    except OSError as error:
        raise StoreError(
            f"the file system of {root} cannot lock files ({error.strerror}): choose "
            "an --out on one that can"
        ) from error


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
