"""Occurrences of faces, the row that stands for each face, and what they are marked as.

Legend: N rows of FACES, F distinct faces.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facepipe.schema import DUPLICATES, Decision, FaceStatus, Reason

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Occurrences:
    """The rows of FACES in output order, and the distinct faces among them.

    ``face_N`` numbers the distinct face ids in their order; ``chosen_F`` is the row that
    stands for each of them.
    """

    table: pa.Table
    face_N: Int64
    chosen_F: Int64
    order_F: Int64  # distinct faces, best first

    @classmethod
    def of(cls, faces: pa.Table) -> Occurrences:
        """Sort rows by (face_id, uri, member) and choose the best of each face."""
        keys = [(name, "ascending", "at_start") for name in ("face_id", "uri", "member")]
        table = faces.take(pc.sort_indices(faces, sort_keys=keys))
        face_ids = table.column("face_id").combine_chunks()
        starts_N = np.ones(len(table), dtype=bool)
        if len(table) > 1:
            starts_N[1:] = pc.not_equal(face_ids[1:], face_ids[:-1]).to_numpy(False)
        face_N = np.cumsum(starts_N) - 1
        unfit_N = pc.not_equal(table.column("status"), FaceStatus.OK.value).to_numpy()
        unlabelled_N = table.column("source_label").is_null().to_numpy()
        by_fitness = np.lexsort((unlabelled_N, unfit_N, face_N))
        first = np.flatnonzero(np.diff(face_N[by_fitness], prepend=-1))
        chosen_F = by_fitness[first]
        worse = [unfit_N[chosen_F], unlabelled_N[chosen_F]]
        for name in ("eye_distance_px", "sharpness", "det_score"):
            value_F = table.column(name).to_numpy()[chosen_F]
            worse.append(-np.where(np.isnan(value_F), -np.inf, value_F))
        order_F = np.lexsort((np.arange(len(chosen_F)), *worse[::-1]))
        return cls(table=table, face_N=face_N, chosen_F=chosen_F, order_F=order_F)


def duplicates_table(
    rows: Occurrences, kept_F: Int64, similarity_F: npt.NDArray[np.float32]
) -> pa.Table:
    """Return the DUPLICATES rows for the kept face, and the cosine to it, of each face."""
    kept_N = kept_F[rows.face_N]
    picture_N = kept_N != rows.face_N
    own_N = np.arange(len(rows.face_N)) == rows.chosen_F[rows.face_N]
    duplicate_N = picture_N | ~own_N
    heads_picture = np.isin(rows.face_N, kept_N[picture_N])
    heads_bytes = np.bincount(rows.face_N, minlength=len(kept_F))[rows.face_N] > 1
    by_picture_N = picture_N | (heads_picture & own_N)
    reason_N = np.select(
        [by_picture_N, heads_bytes],
        [Reason.SAME_PICTURE.value, Reason.SAME_BYTES.value],
        Reason.SINGLE.value,
    )
    ids = rows.table.column("face_id").combine_chunks()
    evidence = ids.take(pa.array(rows.chosen_F[kept_N]))
    decision_N = np.where(duplicate_N, Decision.DUPLICATE.value, Decision.KEEP.value)
    missing = pa.nulls(len(kept_N), pa.string())
    columns = {
        **{n: rows.table.column(n) for n in ("face_id", "uri", "member", "source_label")},
        "identity_id": missing,
        "decision": pa.array(decision_N.astype(object), pa.string()),
        "reason": pa.array(reason_N.astype(object), pa.string()),
        "confidence": np.where(picture_N, similarity_F[rows.face_N], 1.0).astype(np.float32),
        "evidence": pc.if_else(pa.array(duplicate_N), evidence, missing),
        "similarity": pa.array(similarity_F[rows.face_N], mask=~duplicate_N),
        "weight": np.where(duplicate_N, 0.0, 1.0).astype(np.float32),
    }
    return pa.table([columns[field.name] for field in DUPLICATES], schema=DUPLICATES)
