"""The faces that were deleted and are to stay out, though a dataset may still have them.

A gallery that forgot whom it has deleted would take them in again with the next photos. Kept is
a digest of each deleted face's id, and of the photo's id where a whole photo was deleted: 16 bytes
each, rising, and nothing else. No id, vector or name can be had from them. Who has the very file
of a photo can work out its id, and so tell that a face of it was deleted; nobody else can.

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
_PURPOSE = b"facepipe-deleted"  # BLAKE2's person (RFC 7693, 2.5): no other digest of an id is equal
_REMEDY = (
    "the list of those who were deleted is damaged: go back with facepipe index rollback, or "
    "build the index again with --restore-all, and delete them again"
)


@dataclass(frozen=True, slots=True)
class Suppressed:
    """Whom a gallery does not take in again, by the digests of their ids."""

    digests: frozenset[bytes] = frozenset()

    def __len__(self) -> int:
        """Return how many digests there are: of faces, and of whole photos."""
        return len(self.digests)

    def mask(self, face_ids: pa.Array | pa.ChunkedArray) -> NDArray[np.bool_]:
        """Return which faces (F, bool) are to stay out, by their own id or their photo's."""
        if not self.digests:
            return np.zeros(len(face_ids), dtype=bool)
        known = self.digests
        return np.array(
            [
                _digest(face) in known or _digest(ids.photo_of(face)) in known
                for face in face_ids.to_pylist()
            ],
            dtype=bool,
        )

    def joined(self, faces: Iterable[str], photos: Iterable[str] = ()) -> Suppressed:
        """Return the same with more face ids, and photo ids for all faces of a photo."""
        return Suppressed(self.digests | {_digest(name) for name in (*faces, *photos)})

    def without(self, faces: Iterable[str]) -> Suppressed:
        """Return the same without faces, and without their photos as a whole.

        Other faces of such a photo stay out by their own ids, which were taken down with it.
        """
        names = [name for face in faces for name in (face, ids.photo_of(face))]
        return Suppressed(self.digests - {_digest(name) for name in names})

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


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=DIGEST_BYTES, person=_PURPOSE).digest()
