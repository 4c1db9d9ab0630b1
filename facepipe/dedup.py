"""Duplicates: the same bytes, and the same picture stored twice.

A burst (several photos of one person, moments apart) is no duplicate: the hash of the whole
picture, the place of the face in it and the face vector all have to agree.

Legend: N photos or hashes, F faces, B a block of faces, K kept faces, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from facepipe.centres import VectorRows
from facepipe.detection_score import paired_iou
from facepipe.neighbors import unit_rows, vector_matrix, vector_rows
from facepipe.occurrences import Occurrences, duplicates_table
from facepipe.picture_hash import candidate_pairs, featureless, perceptual_hash
from facepipe.schema import PHASH_BYTES

__all__ = [
    "DedupSettings",
    "candidate_pairs",
    "find_duplicates",
    "perceptual_hash",
    "same_bytes",
]

FACE_BLOCK = 512  # faces compared at a time with as many kept ones
READ_FACES = 16384  # vectors read at a time: 16 MB at 512 dimensions; more for a larger crowd
# Of the boxes in units of their photo. 99 % of the faces of copies at a third of the size
# overlap by 0.8 (SCRFD on LFW and WIDER); two people of one photo rarely by 0.4.
MIN_BOX_IOU = 0.6

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
Bool = npt.NDArray[np.bool_]


class DedupSettings(BaseModel):
    """When two photos are the same picture."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_distance_bits: int = Field(
        6, ge=0, le=16, description="bits of 64 in which the hashes of one picture may differ"
    )
    min_similarity: float = Field(
        0.85, gt=0.0, le=1.0, description="cosine of two faces that confirms one picture"
    )


def same_bytes(photo_ids: Sequence[str]) -> list[Int64]:
    """Return the rows of each photo id that occurs more than once, in order of the id."""
    _, code_N, count_U = np.unique(
        np.asarray(photo_ids, dtype=np.str_), return_inverse=True, return_counts=True
    )
    order = np.argsort(code_N, kind="stable")
    groups = np.split(order, np.cumsum(count_U)[:-1]) if len(count_U) else []
    return [rows for rows in groups if len(rows) > 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pictures:
    """Faces that can be compared by picture, best first; each array has one entry a face."""

    face_F: Int64  # number of the face among the distinct face ids
    photo_F: Int64
    word_F: UInt64  # hash of its photo
    place_F4: npt.NDArray[np.float64]  # box in units of the photo's width and height
    vector_F: Int64  # row in vectors_ND
    vectors_ND: VectorRows
    settings: DedupSettings

    def compare(self, rows_B: Int64, others_K: Int64) -> tuple[Bool, npt.NDArray[np.float32]]:
        """Return which faces are the same picture's same face, and all cosines; (B, K)."""
        cosine_BK = (
            unit_rows(self.vectors_ND[self.vector_F[rows_B]])
            @ unit_rows(self.vectors_ND[self.vector_F[others_K]]).T
        )
        agree_BK = cosine_BK >= self.settings.min_similarity
        row, other = np.nonzero(agree_BK)  # few: the rest is asked of these alone
        a, b = rows_B[row], others_K[other]
        near = np.bitwise_count(self.word_F[a] ^ self.word_F[b]) <= self.settings.max_distance_bits
        place = paired_iou(self.place_F4[a], self.place_F4[b]) >= MIN_BOX_IOU
        agree_BK[row, other] = near & place & (self.photo_F[a] != self.photo_F[b])
        return agree_BK, np.minimum(cosine_BK, np.float32(1.0))


def find_duplicates(
    faces: pa.Table,
    photos: pa.Table,
    embeddings: pa.Table,
    settings: DedupSettings,
    vectors: VectorRows | None = None,
) -> pa.Table:
    """Return one row of schema.DUPLICATES for each row of faces, by (face_id, uri, member).

    faces: schema.FACES, of which these columns are read (so that a caller may leave out
    the crops): face_id, photo_id, uri, member, box_xyxy_px, det_score, eye_distance_px,
    sharpness, source_label, status. photos: photo_id, phash, width_px, height_px.
    embeddings: schema.embeddings of any dimension; with ``vectors``, which holds the rows of
    embeddings, its column vector need only be null where there is none.

    ``same_bytes``: the face of a photo that was found under several names. The occurrence
    kept is one that is fit for use, before one with a label, before the smallest (uri,
    member). ``same_picture``: another photo whose hash is within max_distance_bits, with a
    face at the same relative place and a cosine of at least min_similarity. Of such faces
    the best is kept: fit for use, labelled, then most pixels between the eyes, sharpest,
    highest score, smallest face_id. Every duplicate agrees with the very face it is put
    down to (``evidence``); agreement is never chained. A duplicate keeps its source_label.

    ``keep`` rows have the reason of the duplicates they stand for, or ``single``.
    confidence is 1, but for same_picture the cosine, for want of a measured probability.
    """
    rows = Occurrences.of(faces)
    vectors = vector_matrix(embeddings) if vectors is None else vectors
    pictures = _pictures(rows, photos, embeddings, vectors, settings)
    kept_F, similarity_F = _kept_pictures(pictures, len(rows.chosen_F))
    return duplicates_table(rows, kept_F, similarity_F)


def _kept_pictures(pictures: _Pictures, faces: int) -> tuple[Int64, npt.NDArray[np.float32]]:
    """Return for each distinct face the one kept for its picture (itself), and the cosine."""
    kept_F = np.arange(faces, dtype=np.int64)
    similarity_F = np.ones(faces, np.float32)
    for batches, read in _read(pictures):
        for batch in batches:
            star_B, cosine_B = _stars(read, batch)
            kept_F[read.face_F[batch]] = read.face_F[star_B]
            similarity_F[read.face_F[batch]] = cosine_B
    return kept_F, similarity_F


def _read(pictures: _Pictures) -> Iterator[tuple[list[Int64], _Pictures]]:
    """Yield batches of faces that can be in reach of one another, with their vectors read.

    Several batches at a time, so that a stored shard is not read for each of them.
    """
    place_F = np.empty(len(pictures.face_F), np.int64)
    together: list[Int64] = []
    batches = _batches(pictures.word_F, pictures.photo_F, pictures.settings.max_distance_bits)
    for batch in chain(batches, [np.empty(0, np.int64)]):
        if together and (not len(batch) or sum(map(len, together)) + len(batch) > READ_FACES):
            faces = np.concatenate(together)
            place_F[faces] = np.arange(len(faces))
            vectors_ND = pictures.vectors_ND[pictures.vector_F[faces]]
            yield together, replace(pictures, vector_F=place_F, vectors_ND=vectors_ND)
            together = []
        together.append(batch)


def _pictures(
    rows: Occurrences,
    photos: pa.Table,
    embeddings: pa.Table,
    vectors: VectorRows,
    settings: DedupSettings,
) -> _Pictures:
    """Return the distinct faces, best first, that have a vector and a photo with a hash."""
    chosen = rows.table.select(["face_id", "photo_id", "box_xyxy_px"]).take(
        pa.array(rows.chosen_F[rows.order_F])
    )
    hashed = photos.filter(pc.is_valid(photos.column("phash")))
    hashed = hashed.filter(pc.is_valid(hashed.column("photo_id")))
    photo_ids = hashed.column("photo_id").combine_chunks()
    photo_F = pc.index_in(chosen.column("photo_id"), value_set=photo_ids)
    photo_F = photo_F.fill_null(-1).to_numpy().astype(np.int64)
    vector_F = vector_rows(chosen.column("face_id"), embeddings)
    words = _words(hashed.column("phash"))
    sides = np.stack(
        [hashed.column(n).fill_null(0).to_numpy() for n in ("width_px", "height_px")], axis=1
    )
    fit = (photo_F >= 0) & (vector_F >= 0)
    fit[fit] &= ~featureless(words[photo_F[fit]]) & (sides[photo_F[fit]] > 0).all(axis=1)
    box_F4 = chosen.column("box_xyxy_px").combine_chunks().flatten().to_numpy().reshape(-1, 4)
    return _Pictures(
        face_F=rows.order_F[fit],
        photo_F=photo_F[fit],
        word_F=words[photo_F[fit]],
        place_F4=box_F4[fit] / np.tile(sides[photo_F[fit]], (1, 2)),
        vector_F=vector_F[fit],
        vectors_ND=vectors,
        settings=settings,
    )


def _words(hashes: pa.ChunkedArray) -> UInt64:
    """Return a column of perceptual hashes, none of them null, as 64-bit words."""
    parts = [
        np.frombuffer(c.buffers()[1], ">u8", len(c), c.offset * PHASH_BYTES)
        for c in hashes.chunks
        if len(c)
    ]
    return np.concatenate([np.empty(0, ">u8"), *parts]).astype(np.uint64)


def _batches(word_F: UInt64, photo_F: Int64, max_distance_bits: int) -> Iterator[Int64]:
    """Yield faces, best first, in batches outside of which no hash of theirs is in reach."""
    words, word_code_F = np.unique(word_F, return_inverse=True)
    group_W = _connected(len(words), candidate_pairs(words, max_distance_bits))
    group_F = group_W[word_code_F]
    photos_of = np.unique(np.stack([group_F, photo_F]), axis=1)[0]
    shared_F = np.bincount(photos_of, minlength=len(words))[group_F] > 1
    order = np.argsort(group_F, kind="stable")
    order = order[shared_F[order]]
    ends = np.flatnonzero(np.diff(group_F[order], append=-1)) + 1
    start = 0
    for end in ends:
        if end - start >= FACE_BLOCK or end == len(order):
            yield np.sort(order[start:end])
            start = int(end)


def _connected(nodes: int, edges_E2: Int64) -> Int64:
    """Return for each node the lowest node it is connected with (Shiloach and Vishkin 1982)."""
    group = np.arange(nodes, dtype=np.int64)
    while True:
        low = np.minimum(group[edges_E2[:, 0]], group[edges_E2[:, 1]])
        before = group.copy()
        for side in (0, 1):
            np.minimum.at(group, group[edges_E2[:, side]], low)
        group = group[group]
        if (group == before).all():
            return group


def _stars(pictures: _Pictures, batch_B: Int64) -> tuple[Int64, npt.NDArray[np.float32]]:
    """Return for each face of a batch, best first, the kept face it duplicates, or itself.

    A face is kept unless it agrees with a face that is kept already; of several it goes to
    the best.
    """
    star_B, cosine_B = batch_B.copy(), np.ones(len(batch_B), np.float32)
    kept = np.empty(0, np.int64)
    for start in range(0, len(batch_B), FACE_BLOCK):
        block = np.arange(start, min(start + FACE_BLOCK, len(batch_B)))
        for first in range(0, len(kept), FACE_BLOCK):
            others = kept[first : first + FACE_BLOCK]
            agree, cosine = pictures.compare(batch_B[block], batch_B[others])
            hit = agree.any(axis=1)
            best = agree[hit].argmax(axis=1)
            star_B[block[hit]] = batch_B[others[best]]
            cosine_B[block[hit]] = cosine[hit, best]
            block = block[~hit]
        agree, cosine = pictures.compare(batch_B[block], batch_B[block])
        free = np.ones(len(block), dtype=bool)
        for place in np.flatnonzero(np.triu(agree, 1).any(axis=1)):
            if free[place]:
                taken = np.flatnonzero(agree[place] & free)
                taken = taken[taken > place]
                star_B[block[taken]] = batch_B[block[place]]
                cosine_B[block[taken]] = cosine[taken, place]
                free[taken] = False
        kept = np.concatenate([kept, block[free]])
    return star_B, cosine_B
