"""The crops of a dataset that can be compared, and what is asked of pairs of them.

Legend: C crops, best first, F distinct faces, P pairs, K numbers of a hash.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facepipe.centres import VectorRows
from facepipe.crop_hash import Int8, hash_rows
from facepipe.ids import PHOTO_ID_HEX
from facepipe.neighbors import unit_rows, vector_rows
from facepipe.occurrences import Occurrences
from facepipe.picture_hash import featureless, mirrored_words
from facepipe.schema import CROP_HASH_BYTES, PHASH_BYTES

READ_FACES = 16384  # vectors read at a time
PAIR_BLOCK = 1 << 20  # pairs whose signs are compared at a time
COMPARED = 1024  # crops laid over one another: 12 MB of small pictures
# Bits of 64 in which the hashes of two photos of one picture may differ, and how many more in
# the mirror (see mirrored_words). Only the name of the reason hangs on it.
SAME_PHOTO_BITS, MIRROR_BITS_MORE = 10, 6
CODE_BITS = 256  # most signs of a vector looked at before vectors themselves are compared
CODE_SIGMAS = 2.5  # that the share of differing signs may exceed angle / pi by

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
UInt8 = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]


class GreyRows(Protocol):
    """Small grey pictures of crops that are read by the row: an array, or a stored column."""

    def __getitem__(self, rows: Int64, /) -> UInt8:
        """Return the pictures of rows, (len(rows), 48, 48)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Crops:
    """Faces whose crops can be compared, best first; each array has one entry a face."""

    face_C: Int64  # number of the face among the distinct face ids
    photo_C: Int64
    word_C: UInt64  # hash of its photo; 0 where that says nothing
    eyes_C: Float32  # distance in px
    hash_CK: Int8
    grey_C: Int64  # row in greys
    vector_C: Int64  # row in vectors
    greys: GreyRows
    vectors: VectorRows

    def cosines(self, first_P: Int64, second_P: Int64) -> Float32:
        """Return the cosines of the vectors of pairs."""
        faces, place = np.unique(np.concatenate([first_P, second_P]), return_inverse=True)
        unit = unit_rows(self.vectors[self.vector_C[faces]])
        dots = np.empty(len(first_P), np.float32)
        for start in range(0, len(first_P), COMPARED):
            one, other = place.reshape(2, -1)[:, start : start + COMPARED]
            dots[start : start + COMPARED] = np.einsum("pd,pd->p", unit[one], unit[other])
        return np.minimum(dots, np.float32(1.0))

    def probabilities(self, first_P: Int64, second_P: Int64, mirrored_P: Bool) -> Float32:
        """Return how likely pairs of crops are copies of one picture."""
        from facepipe.crop_match import match_probability, unexplained_motion

        faces, place = np.unique(np.concatenate([first_P, second_P]), return_inverse=True)
        grey = self.greys[self.grey_C[faces]]
        place_P2 = place.reshape(2, -1).T
        eyes_P2 = np.nan_to_num(self.eyes_C[np.stack([first_P, second_P], axis=1)])
        chance_P = np.empty(len(first_P), np.float32)
        for start in range(0, len(first_P), COMPARED):
            block = slice(start, start + COMPARED)
            first, second = grey[place_P2[block, 0]], grey[place_P2[block, 1]]
            second = np.where(mirrored_P[block, None, None], second[:, :, ::-1], second)
            better = (eyes_P2[block, 0] >= eyes_P2[block, 1])[:, None, None]
            motion = unexplained_motion(
                np.where(better, second, first), np.where(better, first, second)
            )
            least = eyes_P2[block].min(axis=1).astype(np.float64)
            chance_P[block] = match_probability(motion, least)
        return chance_P

    def same_photos(self, first_P: Int64, second_P: Int64, mirrored_P: Bool) -> Bool:
        """Return in which pairs the whole photos are alike, too."""
        one, other = self.word_C[first_P], self.word_C[second_P]
        differing = np.bitwise_count(one ^ np.where(mirrored_P, mirrored_words(other), other))
        most = np.where(mirrored_P, SAME_PHOTO_BITS + MIRROR_BITS_MORE, SAME_PHOTO_BITS)
        return np.asarray((one > 0) & (other > 0) & (differing <= most))

    def may_be_alike(self, pairs_P2: Int64, min_similarity: float) -> Bool:
        """Return which pairs may have that cosine, by the signs of their vectors.

        Two vectors at an angle a differ in a share a / pi of their signs (Charikar 2002), so that
        32 bytes a face say it of most pairs, and few crops of different people are compared.
        """
        faces, place = np.unique(pairs_P2, return_inverse=True)
        place = place.reshape(-1, 2)
        bits = min(CODE_BITS, self.vectors.shape[1])
        codes = np.zeros((len(faces), CODE_BITS // 64), np.uint64)
        rows = self.vector_C[faces]
        order = np.argsort(rows, kind="stable")
        for start in range(0, len(order), READ_FACES):
            block = order[start : start + READ_FACES]
            packed = np.packbits(self.vectors[rows[block]][:, :bits] > 0, axis=1)
            codes.view(np.uint8)[block, : packed.shape[1]] = packed
        share = np.arccos(min_similarity) / np.pi
        most = bits * share + CODE_SIGMAS * np.sqrt(bits * share * (1 - share))
        alike = np.empty(len(pairs_P2), bool)
        for start in range(0, len(pairs_P2), 1 << 20):
            one, other = place[start : start + (1 << 20)].T
            differing = np.bitwise_count(codes[one] ^ codes[other]).sum(axis=1)
            alike[start : start + (1 << 20)] = differing <= most
        return alike


def comparable_crops(
    rows: Occurrences,
    faces: pa.Table,
    photos: pa.Table,
    embeddings: pa.Table,
    vectors: VectorRows,
    greys: GreyRows,
) -> Crops:
    """Return the distinct faces, best first, that have a hash of their crop and a vector."""
    chosen = rows.chosen_F[rows.order_F]
    face_ids = rows.table.column("face_id").take(pa.array(chosen))
    vector_C = vector_rows(face_ids, embeddings)
    source_C = rows.row_N[chosen]
    hashed = faces.column("crop_hash").is_valid().to_numpy()[source_C]
    fit = np.flatnonzero(hashed & (vector_C >= 0))
    source_C = source_C[fit]
    return Crops(
        face_C=rows.order_F[fit],
        photo_C=rows.photo_F()[rows.order_F[fit]],
        word_C=_photo_words(face_ids.take(pa.array(fit)), photos),
        eyes_C=faces.column("eye_distance_px").to_numpy()[source_C].astype(np.float32),
        hash_CK=hash_rows(fixed_rows(faces.column("crop_hash"), CROP_HASH_BYTES))[source_C],
        grey_C=source_C,
        vector_C=vector_C[fit],
        greys=greys,
        vectors=vectors,
    )


def _photo_words(face_ids: pa.ChunkedArray, photos: pa.Table) -> UInt64:
    """Return the hash of each face's photo as a word, 0 where there is none that says much."""
    known = pc.and_(pc.is_valid(photos.column("photo_id")), pc.is_valid(photos.column("phash")))
    hashed = photos.select(["photo_id", "phash"]).filter(known)
    word_H = fixed_rows(hashed.column("phash"), PHASH_BYTES).view(">u8").astype(np.uint64)[:, 0]
    word_H = np.append(np.where(featureless(word_H), np.uint64(0), word_H), np.uint64(0))
    place = pc.index_in(
        pc.utf8_slice_codeunits(face_ids, 0, PHOTO_ID_HEX),
        value_set=hashed.column("photo_id").combine_chunks(),
    )
    return np.asarray(word_H[place.fill_null(len(word_H) - 1).to_numpy()])


def fixed_rows(column: pa.ChunkedArray, width: int) -> UInt8:
    """Return a column of fixed-size binary as (rows, width); what is null holds anything."""
    parts = [
        np.frombuffer(c.buffers()[1], np.uint8, len(c) * width, c.offset * width)
        for c in column.chunks
        if len(c)
    ]
    return np.concatenate([np.empty(0, np.uint8), *parts]).reshape(-1, width)
