"""Occurrences of faces, the row that stands for each face, and what they are marked as.

Legend: N rows of FACES, F distinct faces.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facepipe.decisions import row_order, take_rows
from facepipe.ids import PHOTO_ID_HEX
from facepipe.schema import DUPLICATES, Decision, FaceStatus, Reason

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]

NAMES = ("face_id", "uri", "member", "source_label")  # the columns that are passed on


@dataclass(frozen=True, slots=True, kw_only=True)
class Occurrences:
    """The rows of FACES in output order, and the distinct faces among them.

    ``row_N`` is where each was found; ``face_N`` numbers the distinct face ids in their
    order; ``chosen_F`` is the row that stands for each of them.
    """

    table: pa.Table  # NAMES
    row_N: Int64
    face_N: Int64
    chosen_F: Int64
    order_F: Int64  # distinct faces, best first

    @classmethod
    def of(cls, faces: pa.Table) -> Occurrences:
        """Sort rows by (face_id, uri, member) and choose the best of each face."""
        row_N = row_order(faces)
        table = take_rows(faces.select(NAMES), row_N)
        row_N = row_N.to_numpy().astype(np.int64)
        starts_N = _changes(table.column("face_id").combine_chunks())
        face_N = np.cumsum(starts_N) - 1
        unfit_N = pc.not_equal(faces.column("status"), FaceStatus.OK.value).to_numpy()[row_N]
        unlabelled_N = table.column("source_label").is_null().to_numpy()
        by_fitness = np.lexsort((unlabelled_N, unfit_N, face_N))
        chosen_F = by_fitness[np.flatnonzero(np.diff(face_N[by_fitness], prepend=-1))]
        worse = [unfit_N[chosen_F], unlabelled_N[chosen_F]]
        for name in ("eye_distance_px", "sharpness", "det_score"):
            value_F = faces.column(name).to_numpy()[row_N[chosen_F]]
            worse.append(-np.where(np.isnan(value_F), -np.inf, value_F))
        order_F = np.lexsort((np.arange(len(chosen_F)), *worse[::-1]))
        return cls(table=table, row_N=row_N, face_N=face_N, chosen_F=chosen_F, order_F=order_F)

    def photo_F(self) -> Int64:
        """Return the number of each distinct face's photo."""
        ids = self.table.column("face_id").combine_chunks().take(pa.array(self.chosen_F))
        return np.cumsum(_changes(pc.utf8_slice_codeunits(ids, 0, PHOTO_ID_HEX))) - 1


def _changes(sorted_ids: pa.Array) -> Bool:
    """Return which ids are not those before them."""
    changes_N = np.ones(len(sorted_ids), dtype=bool)
    if len(sorted_ids) > 1:
        changes_N[1:] = pc.not_equal(sorted_ids[1:], sorted_ids[:-1]).to_numpy(False)
    return changes_N


@dataclass(frozen=True, slots=True, kw_only=True)
class Stars:
    """For each distinct face the one that is kept for its picture, and how that is known."""

    kept_F: Int64  # itself where it is kept
    similarity_F: Float32  # cosine to that
    probability_F: Float32  # that it is the same picture
    same_photo_F: Bool  # the whole photos are alike too, not just the crops

    @classmethod
    def single(cls, faces: int) -> Stars:
        """Return that every face is kept."""
        return cls(
            kept_F=np.arange(faces, dtype=np.int64),
            similarity_F=np.ones(faces, np.float32),
            probability_F=np.ones(faces, np.float32),
            same_photo_F=np.zeros(faces, bool),
        )


def duplicates_table(rows: Occurrences, stars: Stars) -> pa.Table:
    """Return the DUPLICATES rows for the kept face of each face."""
    kept_N = stars.kept_F[rows.face_N]
    picture_N = kept_N != rows.face_N
    own_N = np.arange(len(rows.face_N)) == rows.chosen_F[rows.face_N]
    duplicate_N = picture_N | ~own_N
    evidence_N = rows.chosen_F[kept_N]
    evidence = rows.table.column("face_id").take(pa.array(evidence_N, mask=~duplicate_N))
    decision = _coded(duplicate_N.astype(np.int8), [Decision.KEEP, Decision.DUPLICATE])
    columns = {
        **{name: rows.table.column(name) for name in NAMES},
        "identity_id": pa.nulls(len(kept_N), pa.string()),
        "decision": decision,
        "reason": _reasons(rows, stars, own_N),
        "confidence": np.where(picture_N, stars.probability_F[rows.face_N], np.float32(1.0)),
        "evidence": evidence,
        "similarity": pa.array(stars.similarity_F[rows.face_N], mask=~duplicate_N),
        "weight": np.where(duplicate_N, np.float32(0.0), np.float32(1.0)),
    }
    return pa.table([columns[field.name] for field in DUPLICATES], schema=DUPLICATES)


def _reasons(rows: Occurrences, stars: Stars, own_N: Bool) -> pa.Array:
    """Return why each row is a duplicate, or of what kind are those that it stands for."""
    faces = np.arange(len(stars.kept_F))
    copy_F = stars.kept_F != faces
    bytes_F = np.bincount(rows.face_N, minlength=len(faces)) > 1
    code_F = np.where(copy_F, np.where(stars.same_photo_F, 3, 2), bytes_F.astype(np.int64))
    # A kept face has the strongest reason of its copies; a further occurrence of its own
    # bytes is none of them.
    head_F = code_F.copy()
    np.maximum.at(head_F, stars.kept_F[copy_F], code_F[copy_F])
    code_N = np.where(own_N, head_F[rows.face_N], code_F[rows.face_N])
    reasons = [Reason.SINGLE, Reason.SAME_BYTES, Reason.SAME_CROP, Reason.SAME_PICTURE]
    return _coded(code_N.astype(np.int8), reasons)


def _coded(code_N: npt.NDArray[np.int8], words: list[Decision] | list[Reason]) -> pa.Array:
    names = pa.array([word.value for word in words], pa.string())
    return pa.DictionaryArray.from_arrays(pa.array(code_N), names).cast(pa.string())
