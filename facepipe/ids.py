"""Names of things: photos by content, faces by photo and rank, settings by digest."""

from __future__ import annotations

import hashlib
import json
from typing import Any

PHOTO_ID_HEX = 32  # 16 bytes of SHA-256: 2**64 photos before a collision is likely


def photo_id(data: bytes) -> str:
    """Return the id of a photo: the first 16 bytes of the SHA-256 of its bytes, in hex."""
    return hashlib.sha256(data).hexdigest()[:PHOTO_ID_HEX]


def face_id(photo: str, ordinal: int) -> str:
    """Return the id of a face: its photo's id and its rank by score, then box.

    Ids of one photo sort by rank: ``<32 hex>-0000``, ``<32 hex>-0001``, ...
    """
    return f"{photo}-{ordinal:04d}"


def photo_of(face: str) -> str:
    """Return the photo id inside a face id."""
    return face[:PHOTO_ID_HEX]


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of bytes in hex."""
    return hashlib.sha256(data).hexdigest()


def digest(value: Any) -> str:
    """Return the SHA-256 (hex) of a JSON value in canonical form (sorted keys, no spaces).

    Raises TypeError for a value that JSON cannot hold, so that nothing enters a plan id by
    its memory address.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
