"""Duplicates: the same bytes, the same picture, and the same picture of a face.

A burst (several photos of one person, moments apart) is no duplicate, however alike its
frames are: crops whose hashes are near are laid over one another, and what then is left
tells a copy from another exposure (facepipe.crop_match).

Legend: N rows of FACES, F distinct faces, C crops that can be compared, best first, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from facepipe.centres import VectorRows
from facepipe.crop_pairs import CROWD, near_pairs
from facepipe.crop_rows import Crops, GreyRows, comparable_crops, fixed_rows
from facepipe.neighbors import vector_matrix
from facepipe.occurrences import Occurrences, Stars, duplicates_table
from facepipe.schema import CROP_GREY_PX

__all__ = ["DedupSettings", "GreyRows", "find_duplicates", "same_bytes"]

READ_PAIRS = 16384  # compared at a time: 75 MB of small grey pictures, 100 MB of vectors

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


class DedupSettings(BaseModel):
    """When two faces are the same picture."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_confidence: float = Field(
        0.9,
        ge=0.5,
        lt=1.0,
        description="probability that two crops are copies and not frames of a burst",
    )
    min_similarity: float = Field(
        0.5, gt=0.0, le=1.0, description="cosine of two faces under which they are not compared"
    )


def same_bytes(photo_ids: Sequence[str]) -> list[Int64]:
    """Return the rows of each photo id that occurs more than once, in order of the id."""
    _, code_N, count_U = np.unique(
        np.asarray(photo_ids, dtype=np.str_), return_inverse=True, return_counts=True
    )
    order = np.argsort(code_N, kind="stable")
    groups = np.split(order, np.cumsum(count_U)[:-1]) if len(count_U) else []
    return [rows for rows in groups if len(rows) > 1]


def find_duplicates(
    faces: pa.Table,
    photos: pa.Table,
    embeddings: pa.Table,
    settings: DedupSettings,
    vectors: VectorRows | None = None,
    greys: GreyRows | None = None,
) -> pa.Table:
    """Return one row of schema.DUPLICATES for each row of faces, by (face_id, uri, member).

    faces: schema.FACES, of which these columns are read (so that a caller may leave out
    the crops): face_id, uri, member, det_score, eye_distance_px, sharpness, source_label,
    status, crop_hash, and crop_grey unless ``greys`` holds it, row for row. photos: photo_id,
    phash. embeddings: schema.embeddings of any dimension; with ``vectors``, which holds the
    rows of embeddings, its column vector need only be null where there is none.

    ``same_bytes``: the face of a photo that was found under several names. The occurrence
    kept is one that is fit for use, before one with a label, before the smallest (uri,
    member). ``same_picture``: the face of another photo whose crop is a copy with a
    probability of at least min_confidence, also mirrored, and the whole photos are alike;
    ``same_crop``: the photos around the face differ, as in one that was cut out, or a
    collage. Of such faces the best is kept: fit for use, labelled, then most pixels between
    the eyes, sharpest, highest score, smallest face_id. Every duplicate agrees with the very
    face it is put down to (``evidence``); agreement is never chained. A duplicate keeps its
    source_label. Faces of one photo are not compared.

    ``keep`` rows have the reason of the duplicates they stand for, or ``single``.
    confidence is that probability, 1 where nothing was compared.
    """
    rows = Occurrences.of(faces)
    vectors = vector_matrix(embeddings) if vectors is None else vectors
    if greys is None:
        greys = fixed_rows(faces.column("crop_grey"), CROP_GREY_PX**2).reshape(
            -1, CROP_GREY_PX, CROP_GREY_PX
        )
    crops = comparable_crops(rows, faces, photos, embeddings, vectors, greys)
    stars = Stars.single(len(rows.chosen_F))
    left = np.arange(len(crops.face_C))
    while len(left) > 1:
        pairs, mirrored = near_pairs(crops.hash_CK[left])
        found = _assign(crops, left[pairs], mirrored, settings, stars)
        if not len(found):
            break
        # Once the copies of the best are gone from a crowd, others are its best.
        crowded = np.bincount(pairs.ravel(), minlength=len(left)) >= CROWD // 2
        left = np.setdiff1d(left[crowded], found, assume_unique=True)
    return duplicates_table(rows, stars)


def _assign(
    crops: Crops, pairs_P2: Int64, mirrored_P: Bool, settings: DedupSettings, stars: Stars
) -> Int64:
    """Put each crop that is a copy of a kept one down to the best such; return those put down.

    pairs_P2: near pairs, the better first. Crops that no chain of pairs joins say nothing about
    one another, so that pairs are worked through a few scenes at a time, as they are stored:
    a file is read once or twice, not once for each of the longest scene's rounds.
    """
    other = crops.photo_C[pairs_P2[:, 0]] != crops.photo_C[pairs_P2[:, 1]]
    pairs_P2, mirrored_P = pairs_P2[other], mirrored_P[other]
    alike = crops.may_be_alike(pairs_P2, settings.min_similarity)
    pairs_P2, mirrored_P = pairs_P2[alike], mirrored_P[alike]
    put_down = [np.empty(0, np.int64)]
    for part in _scenes(pairs_P2, crops.grey_C):
        put_down.append(_assign_scenes(crops, pairs_P2[part], mirrored_P[part], settings, stars))
    return np.concatenate(put_down)


def _scenes(pairs_P2: Int64, row_C: Int64) -> Iterator[Int64]:
    """Yield places of pairs, whole scenes at a time, about READ_PAIRS of them, in stored order."""
    if len(pairs_P2) <= READ_PAIRS:
        yield np.arange(len(pairs_P2))
        return
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    crop_L, ends = np.unique(pairs_P2, return_inverse=True)
    ends = ends.reshape(-1, 2)
    joined = (np.ones(len(ends), bool), (ends[:, 0], ends[:, 1]))
    graph = coo_matrix(joined, shape=(len(crop_L), len(crop_L)))
    scene_L = connected_components(graph, directed=False)[1]
    first_S = np.full(int(scene_L.max()) + 1, np.iinfo(np.int64).max)
    np.minimum.at(first_S, scene_L, row_C[crop_L])
    place_S = np.argsort(np.argsort(first_S, kind="stable"), kind="stable")
    place_P = place_S[scene_L[ends[:, 0]]]
    order = np.argsort(place_P, kind="stable")
    upto_S = np.cumsum(np.bincount(place_P))
    block_S = (upto_S - 1) // READ_PAIRS  # of a scene's last pair
    yield from np.split(order, np.flatnonzero(np.diff(block_S[place_P[order]])) + 1)


def _assign_scenes(
    crops: Crops, pairs_P2: Int64, mirrored_P: Bool, settings: DedupSettings, stars: Stars
) -> Int64:
    """Do what `_assign` says for all pairs of some scenes.

    A crop is kept once none of the better ones near it can still claim it, and then claims; so
    few of a crowd's pairs are ever compared.
    """
    crop_L, near_P2 = np.unique(pairs_P2, return_inverse=True)  # L: crops of these pairs
    near_P2 = near_P2.reshape(-1, 2)
    open_L, kept_L = np.ones(len(crop_L), bool), np.zeros(len(crop_L), bool)
    put_down = [np.empty(0, np.int64)]
    while len(near_P2):
        claimed_L = np.zeros(len(crop_L), bool)
        claimed_L[near_P2[:, 1]] = True
        kept_L |= open_L & ~claimed_L
        open_L &= claimed_L
        ask = kept_L[near_P2[:, 0]]
        taken = _claims(crops, crop_L[near_P2[ask]], mirrored_P[ask], settings, stars)
        put_down.append(taken)
        lost_L = np.zeros(len(crop_L), bool)
        lost_L[np.searchsorted(crop_L, taken)] = True
        open_L &= ~lost_L
        still = ~ask & open_L[near_P2[:, 1]] & ~lost_L[near_P2[:, 0]]
        near_P2, mirrored_P = near_P2[still], mirrored_P[still]
    return np.concatenate(put_down)


def _claims(
    crops: Crops, pairs_P2: Int64, mirrored_P: Bool, settings: DedupSettings, stars: Stars
) -> Int64:
    """Compare pairs, note in ``stars`` the best claim on each second crop, and return those."""
    taken = [np.empty(0, np.int64)]
    order = np.lexsort((mirrored_P, pairs_P2[:, 0], pairs_P2[:, 1]))
    for start in range(0, len(order), READ_PAIRS):
        block = order[start : start + READ_PAIRS]
        first, second, mirrored = pairs_P2[block, 0], pairs_P2[block, 1], mirrored_P[block]
        cosine = crops.cosines(first, second)
        hit = cosine >= settings.min_similarity  # first: it costs far less than what follows
        first, second, mirrored, cosine = first[hit], second[hit], mirrored[hit], cosine[hit]
        sure = crops.probabilities(first, second, mirrored)
        hit = sure >= settings.min_confidence
        first, second, mirrored = first[hit], second[hit], mirrored[hit]
        fresh = stars.kept_F[crops.face_C[second]] == crops.face_C[second]
        _, best = np.unique(second, return_index=True)  # the first of each: the best claims it
        best = best[fresh[best]]
        face = crops.face_C[second[best]]
        stars.kept_F[face] = crops.face_C[first[best]]
        stars.similarity_F[face] = cosine[hit][best]
        stars.probability_F[face] = sure[hit][best]
        stars.same_photo_F[face] = crops.same_photos(first, second, mirrored)[best]
        taken.append(second[best])
    return np.concatenate(taken)
