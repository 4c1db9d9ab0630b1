"""Puts a version of an index in force, goes back to the one before, and lists them."""

from __future__ import annotations

from typing import Any

from facepipe.errors import CorruptData, StoreError, UsageError
from facepipe.index_manifest import Manifest, read_manifest
from facepipe.store import Store, locked
from pipelines.index_build import described, need_recall, say_dropped
from pipelines.index_files import check_size, version_files
from pipelines.index_verify import Findings, check_version
from pipelines.index_versions import (
    Version,
    all_versions,
    current_etag,
    find_version,
    in_force,
    own_folder,
    put_in_force,
    retire,
    unreadable,
    waiting,
)
from pipelines.progress import Progress


def publish_version(
    uri: str, name: str | None = None, *, progress: Progress | None = None
) -> dict[str, Any]:
    """Put a version in force that was written by ``--no-publish``, and return its manifest.

    name: the start of its hash; None: the one that was made of the version in force. First
    every byte is hashed, the counts and vectors are checked, and the recall must be what was
    asked for. Raises UsageError for no such version, CorruptData where anything is wrong,
    GateFailed where it was measured to find too little.
    """
    progress = progress or Progress(quiet=True)
    store = own_folder(uri)
    with locked(store) as held:
        store.sweep()
        etag, before = current_etag(store), in_force(store)
        version, manifest = find_version(store, name) if name else _staged(store, before)
        if before is not None and version == before[0]:
            retire(store, held)
            progress.say(f"index: {version[:12]} is in force already")
            return described(version, manifest, published=False)
        findings = Findings()
        check_version(store, version, manifest, findings, full=False)
        if findings.problems:
            raise CorruptData(
                f"version {version[:12]} is not put in force: {'; '.join(findings.problems[:3])}"
            )
        need_recall(manifest, version)
        waited = waiting(store) - {version}
        put_in_force(store, held, version, etag)
        if before is not None:
            say_dropped(progress, waited)
        retire(store, held)
    progress.say(f"index: {version[:12]} is in force in {uri}")
    return described(version, manifest, published=True)


def _staged(store: Store, before: Version | None) -> Version:
    current, versions = before[0] if before else None, all_versions(store)
    staged = [(v, m) for v, m in versions.items() if m.parent == current and v != current]
    lost = current_etag(store) is not None or len(versions) > len(staged) or unreadable(store)
    if before is None and lost:  # and not merely a first version that waits
        raise UsageError(
            f"the version of {store.uri} that is in force cannot be read, so that none is known "
            "to wait for it: name one that facepipe index versions lists, which takes back what "
            "was deleted since, or facepipe index build makes the index again and nobody comes back"
        )
    if len(staged) != 1:
        raise UsageError(
            f"{len(staged)} versions of {store.uri} wait to be put in force: facepipe index "
            "versions lists them; name one"
        )
    return staged[0]


def roll_back(uri: str, *, progress: Progress | None = None) -> dict[str, Any]:
    """Put the version before the one in force back in force, and return its manifest.

    Its files are there, or it is refused: only their sizes are looked at, so that this takes
    no longer for a large gallery. Raises UsageError where there is no version before, or
    its files are gone, as after a compaction.
    """
    progress = progress or Progress(quiet=True)
    store = own_folder(uri)
    with locked(store) as held:
        store.sweep()
        etag = current_etag(store)
        version, manifest = read_manifest(store)
        before, old = _parent(store, version, manifest)
        waited = waiting(store)
        put_in_force(store, held, before, etag)
        say_dropped(progress, waited)
        retire(store, held)
    progress.say(f"index: {before[:12]} is in force again in {uri}, {version[:12]} is not")
    return described(before, old, published=True)


def _parent(store: Store, version: str, manifest: Manifest) -> Version:
    if manifest.parent is None and manifest.action == "compact":
        raise UsageError(
            f"version {version[:12]} of {store.uri} was made by a compaction, and the one "
            "before held deleted rows or was not to be kept: a compaction erases it"
        )
    if manifest.parent is None:
        raise UsageError(f"version {version[:12]} of {store.uri} is the first: none is before it")
    gone = (
        f"the version before, {manifest.parent[:12]}, is not in {store.uri} any more: a compaction "
        "erases it, and so does a second version after it"
    )
    old = all_versions(store).get(manifest.parent)
    if old is None:
        raise UsageError(gone)
    try:
        for named in version_files(old):
            check_size(store, named)
    except CorruptData as error:
        raise StoreError(f"{gone} ({error})") from error
    return manifest.parent, old


def list_versions(uri: str) -> list[dict[str, Any]]:
    """Return the versions of an index from the one in force backwards, then those that wait.

    Raises DatasetNotFound where there is no index.
    """
    store = own_folder(uri)
    versions = all_versions(store)
    current, _ = read_manifest(store) if not versions else (in_force(store) or (None, None))
    rows = [
        {
            "version": version,
            "state": _state(version, manifest, current, versions),
            "action": manifest.action,
            "parent": manifest.parent,
            "indexed": manifest.totals.indexed,
            "dead": sum(shard.dead for shard in manifest.shards),
            "identities": manifest.totals.identities,
            "kind": manifest.kind,
            "model_id": manifest.embedding.model_id,
            "shards": len(manifest.shards),
            "bytes": sum(named.file.bytes for named in version_files(manifest)),
        }
        for version, manifest in versions.items()
    ]
    order = {"in force": 0, "before": 1, "waits": 2}
    return sorted(rows, key=lambda row: (order[str(row["state"])], row["version"]))


def _state(
    version: str, manifest: Manifest, current: str | None, versions: dict[str, Manifest]
) -> str:
    if version == current:
        return "in force"
    if current in versions and versions[current].parent == version:
        return "before"
    return "waits"
