"""The list of a gallery's deleted faces: read with its hash, written, and found after damage."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from facepipe import ids
from facepipe.errors import CorruptData, StoreError
from facepipe.index_manifest import (
    NAME_CHARS,
    SUPPRESSED_FOLDER,
    IndexFile,
    Manifest,
    suppressed_key,
)
from facepipe.store import Store
from facepipe.suppressed import NOBODY, Suppressed, decode_suppressed


def read_suppressed(store: Store, manifest: Manifest) -> Suppressed:
    """Return whom a version keeps out. Raises CorruptData."""
    file = manifest.suppressed
    if file is None:
        return NOBODY
    key = suppressed_key(file)
    try:
        data = store.get(key)
    except FileNotFoundError:
        data = b""
    return decode_suppressed(data, file, f"{store.uri}/{key}")


def put_suppressed(store: Store, suppressed: Suppressed) -> IndexFile | None:
    """Write a list and return what a manifest says of it; None for nobody."""
    file = listed(suppressed)
    if file is not None:
        store.put(suppressed_key(file), suppressed.encode())
    return file


def listed(suppressed: Suppressed) -> IndexFile | None:
    """Return what a manifest says of a list; None for nobody."""
    if not suppressed:
        return None
    data = suppressed.encode()
    return IndexFile(bytes=len(data), sha256=ids.sha256_hex(data))


def inputs_with(basis: list[Any], file: IndexFile | None) -> str:
    """Return a digest of what a version is made from, the list of the deleted among it."""
    return ids.digest(basis if file is None else [*basis, file.sha256])


def suppressed_before(store: Store, before: Manifest | None) -> Suppressed:
    """Return whom a new build is to keep out: those whom the version in force does.

    Where none can be read, all that any list in the folder names: it is not known which of them
    was in force, and nobody is to come back by an accident. Raises CorruptData.
    """
    if before is not None:
        return read_suppressed(store, before)
    found = NOBODY
    for key in store.list_all(SUPPRESSED_FOLDER):
        data = store.get(key)
        file = IndexFile(bytes=len(data), sha256=ids.sha256_hex(data))
        if PurePosixPath(key).stem != file.sha256[:NAME_CHARS]:
            raise CorruptData(
                f"{store.uri}/{key} does not have the hash it is named after, and no version says "
                "who was deleted: build the index again with --restore-all, and delete them again"
            )
        more = decode_suppressed(data, file, f"{store.uri}/{key}")
        found = Suppressed(found.digests | more.digests)
    return found


def need_same(store: Store, seen: Manifest | None, now: Manifest | None) -> None:
    """Raise StoreError where faces were deleted after a command had looked who they are."""
    if (seen and seen.suppressed) != (now and now.suppressed):
        raise StoreError(f"{store.uri} has just got another version: run the same command again")
