"""The versions of an index: written, put in force by one swap, gone back to, and removed.

CURRENT holds the hash of the version in force, and only compare-and-swap changes it. Kept are
that version, the one before it, and versions made of it that were not put in force yet; whatever
no such version names is removed. So a reader who has opened a version can go on reading it, and
a run that is killed leaves CURRENT on a whole version and its rest to the next run.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath

from facepipe import ids
from facepipe.errors import CorruptData, DatasetNotFound, StoreError, UsageError
from facepipe.index_manifest import (
    CODES,
    CURRENT,
    NAME_CHARS,
    ROWS,
    SUPPRESSED_FOLDER,
    TEMPLATE,
    VECTORS,
    Manifest,
    current_version,
    manifest_key,
    read_manifest,
    read_version,
)
from facepipe.lease import LEASE, Held
from facepipe.shards import Dataset
from facepipe.store import LOCK, TEMPORARY, Store, locked, open_store
from pipelines.index_files import version_keys
from pipelines.index_select import WORK_FOLDER

STEP = "index"  # of the commit records of a build in progress
OWN_ENTRIES = {
    *(CURRENT, "versions", "templates", "shards", "tombstones", SUPPRESSED_FOLDER),
    *("_commits", WORK_FOLDER, LOCK, LEASE, TEMPORARY),
}
# The only keys that are ever removed, in this order: a record must not outlive what it names.
# Each to its last letter: a file that is none of the index's may lie below any of the folders.
_HEX = rf"[0-9a-f]{{{NAME_CHARS}}}"
_MANIFEST = re.compile(rf"versions/{_HEX}/manifest\.json")
_FIRST_LAYOUT = "index.faiss"  # of a shard, before INDEX_VERSION 2
OWN_KEYS = tuple(
    re.compile(pattern)
    for pattern in (
        rf"_commits/{STEP}/[^/]+\.json",
        rf"{WORK_FOLDER}/{_HEX}/[0-9]{{6}}\.parquet",
        _MANIFEST.pattern,
        rf"shards/{_HEX}/({'|'.join(map(re.escape, (VECTORS, CODES, ROWS, _FIRST_LAYOUT)))})"
        rf"|templates/{_HEX}/{re.escape(TEMPLATE)}"
        rf"|tombstones/{_HEX}\.u32|{SUPPRESSED_FOLDER}/{_HEX}\.b16",
    )
)

Version = tuple[str, Manifest]


def own_folder(out: str, dataset: Dataset | None = None) -> Store:
    """Return an index's store. Raises UsageError for a folder that holds anything else."""
    if not out.strip():
        raise UsageError(f"--out {out!r} is no folder: give the folder of the index")
    store = open_store(out)
    if dataset is not None and _place(store) == _place(dataset.store):
        raise UsageError(f"--out {out} is the dataset itself: give the index its own folder")
    names = store.names()
    others = [name for name in names if name not in OWN_ENTRIES]
    if others and not _is_index(store, names):
        raise UsageError(
            f"--out {out} holds other things ({others[0]}) and no index: give a new folder"
        )
    return store


def _is_index(store: Store, names: Collection[str]) -> bool:
    """Tell whether a folder is an index, maybe a damaged one: others have a CURRENT as well."""
    if CURRENT not in names or "versions" in names:
        return CURRENT in names
    try:
        return current_version(store) is not None
    except (CorruptData, OSError):
        return False


def absolute(store: Store) -> str:
    """Return where a store is for workers too, which may have another current folder."""
    return store.uri if store.local is None else str(store.local.absolute())


def _place(store: Store) -> str | Path:
    return store.uri if store.local is None else store.local.resolve()


# -- reading -----------------------------------------------------------------------------


def in_force(store: Store) -> Version | None:
    """Return the version in force; None where there is none, or none that can be read."""
    try:
        return read_manifest(store)
    except (CorruptData, DatasetNotFound):
        return None


def current_etag(store: Store) -> str | None:
    """Return what `Store.put_if_match` knows CURRENT by, whatever it holds; None: absent."""
    try:
        return store.get_with_etag(CURRENT)[1]
    except FileNotFoundError:
        return None


def all_versions(store: Store) -> dict[str, Manifest]:
    """Return every version whose manifest can be read, by its whole hash."""
    found = {}
    for key in store.list_all("versions"):
        with suppress(CorruptData, FileNotFoundError):
            version = ids.sha256_hex(store.get(key))
            if key == manifest_key(version):
                found[version] = read_version(store, version)
    return found


def find_version(store: Store, name: str) -> Version:
    """Return the version whose hash starts with ``name``. Raises UsageError."""
    found = {v: m for v, m in all_versions(store).items() if v.startswith(name.lower())}
    if len(found) != 1 or not name:
        many = "several versions start" if found else "no version starts"
        raise UsageError(f"{many} with {name!r} in {store.uri}: facepipe index versions lists them")
    return next(iter(found.items()))


def kept_versions(store: Store) -> dict[str, Manifest]:
    """Return the version in force, its parent, and those made of it that are not in force yet."""
    current = _current(store)
    versions = all_versions(store)
    parent = versions[current].parent if current in versions else None
    return {v: m for v, m in versions.items() if v in (current, parent) or m.parent == current}


def waiting(store: Store) -> set[str]:
    """Return the versions that were made of the one in force and are not in force yet."""
    current = _current(store)
    return {v for v, m in all_versions(store).items() if m.parent == current and v != current}


def unreadable(store: Store) -> set[str]:
    """Return the keys of manifests that cannot be read."""
    readable = {manifest_key(version) for version in all_versions(store)}
    present = {key for key in store.list_all("versions") if _MANIFEST.fullmatch(key)}
    return present - readable


def _current(store: Store) -> str | None:
    with suppress(CorruptData):
        return current_version(store)
    return None


# -- writing -----------------------------------------------------------------------------


def write_version(store: Store, held: Held, manifest: Manifest) -> str:
    """Write a manifest, which nothing names yet; return its version."""
    data = manifest.to_json()
    version = ids.sha256_hex(data)
    held.check()
    store.put(manifest_key(version), data)
    return version


def put_in_force(store: Store, held: Held, version: str, etag: str | None) -> None:
    """Make CURRENT name a version. Raises StoreError where it has changed since ``etag``."""
    held.check()
    data = f"{version}\n".encode()
    if store.put_if_match(CURRENT, data, etag) is not None:
        return
    if _current(store) != version:  # the answer to a swap that was made may be lost
        raise StoreError(
            f"another run has put a version of {store.uri} in force meanwhile: run the same "
            "command again"
        )


# -- removing ----------------------------------------------------------------------------


def leftovers(store: Store, keep: Iterable[Version]) -> list[str]:
    """Return the index's keys that no kept version names, in the order to remove them in.

    None is below a linked shard, template or version: what is linked to is not the index's alone.
    """
    named = {key for version, manifest in keep for key in version_keys(version, manifest)}
    present = [key for key in store.list_all() if key not in named]
    own_keys = [key for own in OWN_KEYS for key in present if own.fullmatch(key)]
    return [key for key in own_keys if not _is_linked(store, PurePosixPath(key).parts)]


def _is_linked(store: Store, parts: tuple[str, ...]) -> bool:
    return (
        len(parts) > 2 and store.local is not None and store.local.joinpath(*parts[:2]).is_symlink()
    )


def _unobeyed(store: Store, keys: Iterable[str]) -> list[str]:
    """Return the keys without the lists of the deleted where a manifest cannot be read.

    Nobody knows then whether it was in force: such a list may be all that is left of a deletion.
    The manifest stays beside it, as what says so.
    """
    damaged = unreadable(store)
    lists = f"{SUPPRESSED_FOLDER}/" if damaged else "\0"
    return [key for key in keys if key not in damaged and not key.startswith(lists)]


def retire(store: Store, held: Held, *, only_current: bool = False, forget: bool = False) -> int:
    """Remove what no kept version names; return how many files.

    ``only_current``: keep nothing but the version in force. Lists of the deleted stay where a
    manifest cannot be read, but for ``only_current`` and ``forget``: they have been obeyed.
    """
    current = _current(store)
    keep = kept_versions(store)
    if current is not None and current not in keep:
        return 0  # a damaged manifest says nothing of what it names
    if only_current:
        keep = {v: m for v, m in keep.items() if v == current}
    keys = leftovers(store, keep.items())
    if not (only_current or forget):
        keys = _unobeyed(store, keys)
    for key in keys:
        held.check()
        store.delete(key)
    if keys:
        _remove_empty_folders(store, keys)
    return len(keys)


def tidy(store: Store) -> None:
    """Remove what a run that was killed has left, where it has left anything."""
    if _unobeyed(store, leftovers(store, kept_versions(store).items())):
        with suppress(StoreError), locked(store) as held:  # a run that is at work does it itself
            store.sweep()
            retire(store, held)


def _remove_empty_folders(store: Store, keys: Iterable[str]) -> None:
    if store.local is None:
        return
    folders = {parent for key in keys for parent in PurePosixPath(key).parents}
    for folder in sorted(folders, key=lambda f: -len(f.parts)):
        if folder.parts:
            with suppress(OSError):  # not empty
                (store.local / folder).rmdir()
