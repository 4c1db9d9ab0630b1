"""The faces that were deleted and are to stay out, though a dataset may still have them.

A gallery that forgot whom it has deleted would take them in again with the next photos. Kept is
a digest of each deleted face's id, and of the photo's id where a whole photo was deleted: 16 bytes
each, rising, and nothing else. A face of such a photo that was asked back has a digest of another
kind, so that the photo's other faces stay out; who does not know that kind leaves the face out.
No id, vector or name can be had from them. Who has the very file of a photo can work out its id,
and so tell that a face of it was deleted; nobody else can.

Legend: F faces.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from facepipe import ids
from facepipe.errors import CorruptData
from facepipe.index_manifest import DIGEST_BYTES, IndexFile

DELETED = "deleted"  # the reason in the account of a gallery
# BLAKE2's person (RFC 7693, 2.5), 16 bytes: no other digest of an id is equal.
_PURPOSE, _RESTORED = b"facepipe-deleted", b"facepipe-restore"
_REMEDY = (
    "the list of those who were deleted is damaged: go back with facepipe index rollback, or "
    "build the index again with --restore-all, and delete them again"
)


@dataclass(frozen=True, slots=True)
class Suppressed:
    """Whom a gallery does not take in again, by the digests of their ids."""

    digests: frozenset[bytes] = frozenset()

    def __len__(self) -> int:
        """Return how many digests there are: of faces, of whole photos, and of those asked back."""
        return len(self.digests)

    def mask(self, face_ids: pa.Array | pa.ChunkedArray) -> NDArray[np.bool_]:
        """Return which faces (F, bool) are to stay out, by their own id or their photo's.

        A face that was asked back comes in though its photo stays out, unless it has been
        deleted again by its own id.
        """
        if not self.digests:
            return np.zeros(len(face_ids), dtype=bool)
        return np.array([self._names(face) for face in face_ids.to_pylist()], dtype=bool)

    def _names(self, face: str) -> bool:
        if _digest(face) in self.digests:
            return True
        photo_out = _digest(ids.photo_of(face)) in self.digests
        return photo_out and _digest(face, _RESTORED) not in self.digests

    def joined(self, faces: Iterable[str], photos: Iterable[str] = ()) -> Suppressed:
        """Return the same with more face ids, and photo ids for all faces of a photo."""
        faces = tuple(faces)
        back = {_digest(face, _RESTORED) for face in faces}
        return Suppressed((self.digests - back) | {_digest(name) for name in (*faces, *photos)})

    def without(self, faces: Iterable[str]) -> Suppressed:
        """Return the same without faces; where their whole photo stays out, they come in still."""
        faces = tuple(faces)
        own = {_digest(face) for face in faces}
        of_photos = [face for face in faces if _digest(ids.photo_of(face)) in self.digests]
        return Suppressed((self.digests - own) | {_digest(f, _RESTORED) for f in of_photos})

    def encode(self) -> bytes:
        """Return the bytes of the file."""
        return b"".join(sorted(self.digests))


NOBODY = Suppressed()


def decode_suppressed(data: bytes, file: IndexFile, where: str) -> Suppressed:
    """Return what a file holds, which is to be that of ``file``. Raises CorruptData, naming it."""
    if len(data) != file.bytes or ids.sha256_hex(data) != file.sha256:
        raise CorruptData(f"{where} does not match its checksum: {_REMEDY}")
    starts = range(0, len(data), DIGEST_BYTES)
    digests = [data[start : start + DIGEST_BYTES] for start in starts]
    found = Suppressed(frozenset(digests))
    if found.encode() != data or len(data) % DIGEST_BYTES:
        raise CorruptData(f"{where} holds no rising digests of {DIGEST_BYTES} bytes: {_REMEDY}")
    return found


def _digest(name: str, purpose: bytes = _PURPOSE) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=DIGEST_BYTES, person=purpose).digest()
