"""The columns of DECISIONS while they are filled in, and the table that they become.

Legend: R rows of FACES, N usable, labelled faces sorted by label, L labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facepipe.schema import DECISIONS, Decision, FaceStatus, Reason

Float = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

TEMPLATE_EYES_PX = 35.24  # between the eyes in insightface's 112 x 112 template
ROW_KEY = ("face_id", "uri", "member")
_DECISIONS, _REASONS, _STATUSES = list(Decision), list(Reason), list(FaceStatus)
MAX_TEXT_BYTES = (1 << 31) - 1  # of a text column in one piece: Arrow's offsets have 32 bits
_STAYING = (Decision.KEEP, Decision.RELABEL, Decision.MERGE)


def row_order(table: pa.Table) -> pa.Array:
    """Return the order of rows by ROW_KEY, in which DECISIONS and DUPLICATES are."""
    keys = [(name, "ascending", "at_start") for name in ROW_KEY]
    return pc.sort_indices(table, sort_keys=keys)


def take_rows(table: pa.Table, order: pa.Array) -> pa.Table:
    """Return rows in an order, also where a text column is larger than Arrow takes at once.

    Such a table comes back in pieces; it has the same schema.
    """
    texts = [c for c in table.columns if pa.types.is_string(c.type)]
    most = max((pc.sum(pc.binary_length(c)).as_py() or 0 for c in texts), default=0)
    if most <= MAX_TEXT_BYTES:
        return table.take(order)
    fields = [
        field.with_type(pa.large_string()) if pa.types.is_string(field.type) else field
        for field in table.schema
    ]
    wide = table.cast(pa.schema(fields)).combine_chunks()
    pieces = 2 * -(-most // MAX_TEXT_BYTES)  # half as large: rows are not all equally long
    rows = max(1, -(-len(order) // pieces))
    parts = [
        wide.take(order.slice(start, rows)).cast(table.schema)
        for start in range(0, max(1, len(order)), rows)
    ]
    return pa.concat_tables(parts)


def resolution_weight(eyes_px_R: npt.NDArray[np.floating]) -> Float:
    """Return the share of the crop's resolution that the photo had, by the eyes' distance."""
    eyes_R = np.nan_to_num(eyes_px_R.astype(np.float64))
    weight_R: Float = np.clip(eyes_R / TEMPLATE_EYES_PX, 0.0, 1.0)
    return weight_R


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The columns of DECISIONS while they are filled in; -1 and NaN stand for null."""

    decision_R: Int64  # place in _DECISIONS; -1: not decided yet
    reason_R: Int64  # place in _REASONS
    confidence_R: npt.NDArray[np.float32]
    status_R: Int64  # evidence that is a status: place in _STATUSES
    label_R: Int64  # evidence that is a label
    similarity_R: npt.NDArray[np.float32]
    identity_R: Int64  # label
    quality_R: Float

    @classmethod
    def of(cls, faces: pa.Table, duplicates: pa.Table, vector_R: Int64) -> Columns:
        """Decide what needs no look at the labels."""
        count = len(faces)
        columns = cls(
            decision_R=np.full(count, -1),
            reason_R=np.full(count, -1),
            confidence_R=np.ones(count, np.float32),
            status_R=np.full(count, -1),
            label_R=np.full(count, -1),
            similarity_R=np.full(count, np.nan, np.float32),
            identity_R=np.full(count, -1),
            quality_R=resolution_weight(faces.column("eye_distance_px").to_numpy()),
        )
        status = faces.column("status")
        unfit_R = pc.not_equal(status, FaceStatus.OK.value).to_numpy()
        code_R = pc.index_in(status, value_set=pa.array([s.value for s in _STATUSES]))
        columns.status_R[unfit_R] = code_R.to_numpy()[unfit_R]
        columns.put(unfit_R, Decision.DROP, Reason.QUALITY)
        twin_R = pc.equal(duplicates.column("decision"), Decision.DUPLICATE.value).to_numpy()
        for reason in (Reason.SAME_BYTES, Reason.SAME_PICTURE, Reason.SAME_CROP):
            this_R = pc.equal(duplicates.column("reason"), reason.value).to_numpy()
            columns.put(twin_R & this_R, Decision.DUPLICATE, reason)
        columns.put(vector_R < 0, Decision.DROP, Reason.NO_VECTOR)
        bare_R = faces.column("source_label").is_null().to_numpy()
        columns.put(bare_R, Decision.KEEP, Reason.UNLABELLED)
        return columns

    def put(self, rows: Bool | Int64, decision: Decision, reason: Reason) -> None:
        """Decide rows; of a mask over all rows, those that are not decided yet."""
        if rows.dtype == np.bool_:
            rows = np.flatnonzero(rows & (self.decision_R < 0))
        self.decision_R[rows] = _DECISIONS.index(decision)
        self.reason_R[rows] = _REASONS.index(reason)

    def repeat(self, rows: Int64, of: Int64) -> None:
        """Decide some rows as others have been decided, but for their quality."""
        for column in (
            self.decision_R,
            self.reason_R,
            self.confidence_R,
            self.label_R,
            self.similarity_R,
            self.identity_R,
        ):
            column[rows] = column[of]

    def table(
        self, faces: pa.Table, duplicates: pa.Table, names: pa.Array, identities: pa.Array
    ) -> pa.Table:
        """Return the rows as schema.DECISIONS. names, identities: of each label."""
        twin = pa.array(self.decision_R == _DECISIONS.index(Decision.DUPLICATE))
        own = pa.array(self.similarity_R, mask=np.isnan(self.similarity_R))
        stays_R = np.isin(self.decision_R, [_DECISIONS.index(d) for d in _STAYING])
        kept = _named(self.identity_R, identities)
        decided = {
            **{name: faces.column(name) for name in (*ROW_KEY, "source_label")},
            "identity_id": pc.if_else(twin, self._kept_identity(duplicates, kept, stays_R), kept),
            "decision": _named(self.decision_R, pa.array([d.value for d in _DECISIONS])),
            "reason": _named(self.reason_R, pa.array([r.value for r in _REASONS])),
            "confidence": pc.if_else(
                twin, duplicates.column("confidence"), pa.array(self.confidence_R)
            ),
            "evidence": pc.coalesce(
                pc.if_else(twin, duplicates.column("evidence"), None),
                _named(self.status_R, pa.array([s.value for s in _STATUSES])),
                _named(self.label_R, names),
            ),
            "similarity": pc.if_else(twin, duplicates.column("similarity"), own),
            "weight": np.where(stays_R, self.confidence_R * self.quality_R, 0.0).astype(np.float32),
        }
        return pa.table([decided[field.name] for field in DECISIONS], schema=DECISIONS)

    def _kept_identity(
        self, duplicates: pa.Table, kept: pa.Array, stays_R: Bool
    ) -> pa.ChunkedArray:
        """Return for each duplicate the identity of the face that was kept for it."""
        stay = pa.array(np.flatnonzero(stays_R))
        ids = duplicates.column("face_id").take(stay).combine_chunks()
        return kept.take(stay).take(pc.index_in(duplicates.column("evidence"), value_set=ids))


def _named(code_R: Int64, names: pa.Array) -> pa.Array:
    """Return names by their place; null for -1."""
    return names.take(pa.array(code_R, mask=code_R < 0))
