"""Deletes faces, photos and people from a gallery, at once: rows are named as deleted.

Their rows and vectors stay in the files until `pipelines.index_compact` rewrites those; that they
are not to come back with what is added is kept as digests of their ids (`facepipe.suppressed`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from facepipe import ids
from facepipe.errors import StoreError, UsageError
from facepipe.index_manifest import Manifest, Shard, Totals, read_manifest
from facepipe.index_settings import IndexSettings
from facepipe.store import Store
from facepipe.suppressed import DELETED
from facepipe.tombstones import living, with_dead
from pipelines.index_build import Build, changed, described
from pipelines.index_files import living_rows, read_dead, read_rows
from pipelines.index_suppressed import put_suppressed, read_suppressed
from pipelines.index_versions import own_folder, tidy
from pipelines.progress import Progress

ROW_COLUMNS = ("face_id", "uri", "member", "identity_id")

Int64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Doomed:
    """What is to be deleted: face ids; photos by uri or photo id; people by identity."""

    faces: tuple[str, ...] = ()
    photos: tuple[str, ...] = ()
    people: tuple[str, ...] = ()

    def mask(self, rows: pa.Table, found: Counter[str] | None = None) -> NDArray[np.bool_]:
        """Return which rows (ROW_COLUMNS) are meant, and count the rows of each name."""
        found = Counter() if found is None else found
        face_ids, uris = rows.column("face_id"), rows.column("uri")
        inside = pc.binary_join_element_wise(uris, rows.column("member"), " : ")
        total = np.zeros(len(rows), dtype=bool)
        for name in self.faces:
            total |= _count(pc.equal(face_ids, name), name, found)
        for name in self.photos:
            photo = pc.or_(pc.equal(uris, name), pc.starts_with(face_ids, f"{name}-"))
            photo = pc.or_(photo, pc.fill_null(pc.equal(inside, name), False))
            total |= _count(photo, name, found)
        for name in self.people:
            person = pc.fill_null(pc.equal(rows.column("identity_id"), name), False)
            total |= _count(person, name, found)
        return total

    @property
    def names(self) -> tuple[str, ...]:
        """Return all of them."""
        return (*self.faces, *self.photos, *self.people)


def _count(mask: Any, name: str, found: Counter[str]) -> NDArray[np.bool_]:
    rows: NDArray[np.bool_] = np.asarray(mask)
    found[name] += int(rows.sum())
    return rows


def delete_from_index(
    uri: str,
    doomed: Doomed,
    *,
    progress: Progress | None = None,
    publish: bool = True,
    dry: bool = False,
) -> dict[str, Any]:
    """Take faces out of a gallery at once, and return its manifest.

    It comes with ``built``, with the counts ``removed`` (faces) and ``photos``, and with the ids
    of the ``faces``. Their rows and vectors stay on disk until `compact_index`. No later add or
    build takes them in again, nor any other face of a photo that was named, unless it is told to.
    ``dry``: only look for them.
    Raises UsageError where nothing is named, or a name is not in the gallery.
    """
    progress = progress or Progress(quiet=True)
    store = own_folder(uri)
    version, manifest = read_manifest(store)
    if not doomed.names:
        raise UsageError("nothing to delete: give --face, --photo or --person")
    gone, faces, whole_photos = _doomed_rows(store, manifest, doomed)
    photos = len({ids.photo_of(face) for face in faces})
    counts = {"removed": len(faces), "photos": photos, "faces": faces}
    if dry or not counts["removed"]:
        if not dry:
            tidy(store)
        progress.say(f"index: {counts['removed']} faces of {photos} photos to delete in {uri}")
        return described(version, manifest, built=False, published=True, **counts)
    with _held_as_read(store, version, progress) as build:
        shards = without(store, manifest.shards, gone)
        suppressed = read_suppressed(store, manifest).joined(faces, whole_photos)
        later = changed(
            manifest,
            inputs=ids.digest(["delete", manifest.inputs, [s.tombstones_key for s in shards]]),
            parent=version,
            action="delete",
            shards=tuple(shards),
            totals=_less(manifest.totals, gone, _people(store, shards)),
            suppressed=put_suppressed(store, suppressed),
        )
        version = build.publish(later, in_force=publish)
    progress.say(f"index: {counts['removed']} faces deleted in {uri}")
    return described(version, later, built=True, published=publish, **counts)


@contextmanager
def _held_as_read(store: Store, version: str, progress: Progress) -> Iterator[Build]:
    """Hold an index that is still at a version; publishing fails where it is not."""
    with Build.begin(store, IndexSettings(), progress=progress) as build:
        if build.before is None or build.before[0] != version:
            raise StoreError(f"{store.uri} has just got another version: run the command again")
        yield build


def _doomed_rows(
    store: Store, manifest: Manifest, doomed: Doomed
) -> tuple[list[Int64], list[str], set[str]]:
    """Return the living rows of each shard that are meant, their face ids, and whole photos."""
    found: Counter[str] = Counter()
    gone: list[Int64] = []
    faces: list[str] = []
    whole_photos: set[str] = set()
    by_photo = Doomed(photos=doomed.photos)
    for shard in manifest.shards:
        rows = read_rows(store, shard, ROW_COLUMNS)
        meant = doomed.mask(rows, found) & living(shard, read_dead(store, shard))
        gone.append(np.flatnonzero(meant))
        lost = rows.take(pa.array(gone[-1]))
        faces += lost.column("face_id").to_pylist()
        of_photos = lost.filter(pa.array(by_photo.mask(lost))).column("face_id")
        whole_photos.update(map(ids.photo_of, of_photos.to_pylist()))
    unknown = [name for name in doomed.names if not found[name]]
    if unknown:
        raise UsageError(
            f"{unknown[0]!r} is not in {store.uri} ({len(unknown)} of {len(doomed.names)} given "
            "are not): facepipe index verify --absent says whether any trace of it is left"
        )
    return gone, sorted(faces), whole_photos


def _less(totals: Totals, gone: Iterable[Int64], people: int) -> Totals:
    count = sum(map(len, gone))
    left_out = Counter({**totals.left_out, DELETED: totals.left_out.get(DELETED, 0) + count})
    return Totals(
        expected=totals.expected,
        indexed=totals.indexed - count,
        left_out=dict(sorted(left_out.items())),
        identities=people,
    )


def _people(store: Store, shards: Sequence[Shard]) -> int:
    names: set[str | None] = set()
    for _, _, rows in living_rows(store, shards, ("identity_id",)):
        names.update(pc.unique(rows.column("identity_id")).to_pylist())
    return len(names - {None})


def without(store: Store, shards: Sequence[Shard], gone: Sequence[Int64]) -> list[Shard]:
    """Return the shards with more rows deleted, and write which those are."""
    later_shards = []
    for shard, places in zip(shards, gone, strict=True):
        if not len(places):
            later_shards.append(shard)
            continue
        later, data = with_dead(shard, np.concatenate([read_dead(store, shard), places]))
        if later.tombstones_key is not None:
            store.put(later.tombstones_key, data)
        later_shards.append(later)
    return later_shards
