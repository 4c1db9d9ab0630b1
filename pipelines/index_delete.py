"""Deletes faces, photos and people from a gallery, at once: rows are named as deleted.

Their rows and vectors stay in the files until `pipelines.index_compact` rewrites those; that they
are not to come back with what is added is kept as digests of their ids (`facepipe.suppressed`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from facepipe import ids
from facepipe.errors import CorruptData, StoreError, UsageError
from facepipe.index_manifest import Manifest, Shard, Totals, read_manifest
from facepipe.index_settings import IndexSettings
from facepipe.store import Store
from facepipe.suppressed import DELETED
from facepipe.tombstones import living, with_dead
from pipelines.index_build import Build, changed, described
from pipelines.index_files import living_rows, read_dead, read_rows
from pipelines.index_suppressed import put_suppressed, read_suppressed
from pipelines.index_versions import current_etag, own_folder, tidy
from pipelines.progress import Progress

ROW_COLUMNS = ("face_id", "uri", "member", "identity_id")

Int64 = NDArray[np.int64]


INSIDE = " : "  # between an archive's uri and the name of a photo in it
MEANT = 3  # photos that are named at most where only the end of a path was given


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
        inside = pc.binary_join_element_wise(uris, rows.column("member"), INSIDE)
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

    def need_text(self) -> None:
        """Raise UsageError for a name that is no Unicode text, as a stored one always is."""
        for name in self.names:
            if not name.isascii() and any("\ud800" <= char <= "\udfff" for char in name):
                raise UsageError(
                    f"{name!r} is no UTF-8 text: a file or folder of such a name is stored as "
                    "file://... with %FF for each such byte, as facepipe search prints it"
                )

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
    doomed.need_text()
    etag = current_etag(store)
    try:
        version, manifest = read_manifest(store)
        rows = _doomed_rows(store, manifest, doomed)
        listed_before = read_suppressed(store, manifest)
    except CorruptData as error:  # or files that another version does not need any more
        if current_etag(store) != etag:
            raise _meanwhile(store) from error
        raise
    gone, faces = rows.gone, rows.faces
    suppressed = listed_before.joined([*faces, *rows.gone_before], rows.whole_photos)
    photos = len({ids.photo_of(face) for face in faces})
    counts = {"removed": len(faces), "photos": photos, "faces": faces}
    if dry or (not counts["removed"] and suppressed == listed_before):
        if not dry:
            tidy(store)
        progress.say(f"index: {counts['removed']} faces of {photos} photos to delete in {uri}")
        return described(version, manifest, built=False, published=True, **counts)
    with _held_as_read(store, version, progress) as build:
        shards = without(store, manifest.shards, gone)
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
            raise _meanwhile(store)
        yield build


def _meanwhile(store: Store) -> StoreError:
    return StoreError(f"{store.uri} has just got another version: run the same command again")


@dataclass(slots=True)
class _Rows:
    """What of a gallery is meant."""

    gone: list[Int64] = field(default_factory=list)  # the living rows of each shard
    faces: list[str] = field(default_factory=list)  # of those
    gone_before: set[str] = field(default_factory=set)  # faces that were taken out earlier
    whole_photos: set[str] = field(default_factory=set)


def _doomed_rows(store: Store, manifest: Manifest, doomed: Doomed) -> _Rows:
    """Return the rows that are meant: living ones, and dead ones of which faces are kept out.

    Of rows that are dead already, faces and photos are taken down too, and no people: a name
    may be that of a row from before another name came.
    """
    if not doomed.names:
        raise UsageError("nothing to delete: give --face, --photo or --person")
    found: Counter[str] = Counter()
    meant = _Rows()
    by_photo = Doomed(photos=doomed.photos)
    by_id = Doomed(faces=doomed.faces, photos=doomed.photos)
    for shard in manifest.shards:
        rows = read_rows(store, shard, ROW_COLUMNS)
        alive = living(shard, read_dead(store, shard))
        wanted, face_ids = doomed.mask(rows, found), rows.column("face_id")
        meant.gone.append(np.flatnonzero(wanted & alive))
        meant.faces += face_ids.take(pa.array(meant.gone[-1])).to_pylist()
        dead = face_ids.filter(pa.array(by_id.mask(rows) & ~alive))
        meant.gone_before.update(dead.to_pylist())
        of_photos = face_ids.filter(pa.array(by_photo.mask(rows)))
        meant.whole_photos.update(map(ids.photo_of, of_photos.to_pylist()))
    meant.faces.sort()
    meant.gone_before -= set(meant.faces)
    _spare(store, manifest, meant)
    unknown = [name for name in doomed.names if not found[name]]
    if unknown:
        remedy = "facepipe index verify --absent says whether any trace of it is left"
        if unknown[0] in doomed.faces:
            remedy = f"give a whole face id, as facepipe why prints it, or {remedy}"
        meaning = _meaning(store, manifest, unknown[0]) if unknown[0] in doomed.photos else ()
        if meaning:
            remedy = f"give a photo's whole uri, as {' or '.join(map(repr, meaning))}"
        raise UsageError(
            f"{unknown[0]!r} is not in {store.uri} ({len(unknown)} of {len(doomed.names)} given "
            f"are not): {remedy}"
        )
    return meant


def _meaning(store: Store, manifest: Manifest, ending: str) -> list[str]:
    """Return some photos of a gallery whose path ends so."""
    found: set[str] = set()
    ending = ending.lstrip("/")
    for _, _, rows in living_rows(store, manifest.shards, ("uri", "member")):
        for name in (rows.column("uri"), pc.binary_join_element_wise(*rows.columns, INSIDE)):
            ends = pc.or_(pc.ends_with(name, f"/{ending}"), pc.ends_with(name, INSIDE + ending))
            found.update(name.filter(pc.fill_null(ends, False)).slice(0, MEANT).to_pylist())
        if len(found) >= MEANT:
            break
    return sorted(found)[:MEANT]


def _spare(store: Store, manifest: Manifest, meant: _Rows) -> None:
    """Take down nothing of dead rows that lives on in the gallery, as under a later uri."""
    going = set(meant.faces)
    earlier = meant.whole_photos - {ids.photo_of(face) for face in going}
    if not earlier and not meant.gone_before:
        return
    for _, _, rows in living_rows(store, manifest.shards, ("face_id",)):
        staying = set(rows.column("face_id").to_pylist()) - going
        meant.gone_before -= staying
        meant.whole_photos -= earlier & {ids.photo_of(face) for face in staying}


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
