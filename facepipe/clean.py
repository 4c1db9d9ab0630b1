"""Cleaning of labels: one decision for every face, with its reason, evidence and weight.

Legend: R rows of FACES, N usable, labelled faces sorted by label, L labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from facepipe.centres import LabelledFaces, VectorRows, dominant_centre
from facepipe.errors import CorruptData
from facepipe.identities import LabelFit, Moves, dominant_labels, find_moves, fit_labels
from facepipe.mixture import CosineMixture
from facepipe.neighbors import vector_matrix, vector_rows
from facepipe.schema import DECISIONS, Decision, FaceStatus, Reason

__all__ = ["CleanFit", "CleanSettings", "clean_faces", "dominant_centre"]

Float = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

REPORT_OTHERS = 10  # faces in the centre for which the report states the threshold
TEMPLATE_EYES_PX = 35.24  # between the eyes in insightface's 112 x 112 template
_ROW_KEY = ("face_id", "uri", "member")
_DECISIONS, _REASONS, _STATUSES = list(Decision), list(Reason), list(FaceStatus)


class CleanSettings(BaseModel):
    """When a face is moved to another label; what is dropped follows from the data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    relabel_confidence: float = Field(
        0.95, ge=0.5, lt=1.0, description="probability of another label that moves a face there"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanFit:
    """What the cleaning learned from the data, for the report."""

    mixture: CosineMixture
    threshold: float  # cosine to a centre of ten others at which a face is as good as not
    impostor_quantiles: tuple[tuple[float, float], ...]  # (share below, cosine), other centres
    labels: int  # with a usable face
    labels_single: int  # with just one
    labels_without_dominant: tuple[str, ...]
    counts: tuple[tuple[str, str, int], ...]  # (decision, reason, rows), sorted


def clean_faces(
    faces: pa.Table,
    duplicates: pa.Table,
    embeddings: pa.Table,
    settings: CleanSettings,
    vectors: VectorRows | None = None,
) -> tuple[pa.Table, CleanFit]:
    """Return one row of schema.DECISIONS for each row of faces, and what was learned.

    faces: schema.FACES, of which these columns are read: face_id, uri, member,
    eye_distance_px, source_label, status. duplicates: what ``find_duplicates`` made of the
    same faces. embeddings: schema.embeddings of any dimension; with ``vectors``, which holds
    the rows of embeddings, its column vector need only be null where there is none. Rows by
    (face_id, uri, member). Raises CorruptData where duplicates is of other faces.

    The first that applies: status not ok, drop/quality. A duplicate stays one, with the
    identity of the face kept for it. No vector, drop/no_vector. No label, keep/unlabelled.
    Else P(clean), from the cosine to the mean of the label's *other* members:

    - >= 0.5: keep/same_person. Lower: relabel/other_identity where another label's centre
      makes at least ``relabel_confidence`` of the probability, else drop/outlier.
    - The only usable face of a label, or the only one left: keep/single.
    - A label in which no two faces agree, or fewer than a tenth, or in which a second
      identity is as large as the first, has no dominant one: its faces are drop/no_dominant.
      But of just two nobody can say which is wrong: both stay, keep/no_dominant, with their
      probability as weight.

    confidence is the probability of the decision. weight is that of the identity, times
    the share of the crop's resolution that the photo had (eye distance over the
    template's); of an unlabelled face that share alone; 0 where dropped or a duplicate.
    """
    faces, duplicates = _aligned(faces, duplicates)
    vector_R = vector_rows(faces.column("face_id"), embeddings)
    columns = _Columns.of(faces, duplicates, vector_R)
    rows = np.flatnonzero(columns.decision_R < 0)
    labels = faces.column("source_label").take(pa.array(rows)).combine_chunks()
    names = pc.unique(labels)
    names = names.take(pc.sort_indices(names))
    label = pc.index_in(labels, value_set=names).to_numpy(zero_copy_only=False).astype(np.int64)
    order = np.argsort(label, kind="stable")
    rows = rows[order]
    labelled = LabelledFaces(
        label_N=label[order],
        vector_N=vector_R[rows],
        vectors_ND=vector_matrix(embeddings) if vectors is None else vectors,
        labels=len(names),
    )
    fitted = fit_labels(labelled)
    moves = find_moves(fitted, settings.relabel_confidence)
    dominant_L = dominant_labels(fitted, moves.label_N < 0)
    _decide(columns, rows, fitted, moves, dominant_L)
    table = columns.table(faces, duplicates, names)
    return table, _report(table, fitted, dominant_L, names)


def _aligned(faces: pa.Table, duplicates: pa.Table) -> tuple[pa.Table, pa.Table]:
    keys = [(name, "ascending", "at_start") for name in _ROW_KEY]
    faces = faces.take(pc.sort_indices(faces, sort_keys=keys))
    duplicates = duplicates.take(pc.sort_indices(duplicates, sort_keys=keys))
    if any(not faces.column(n).equals(duplicates.column(n)) for n in _ROW_KEY):
        raise CorruptData(
            f"the duplicates table ({len(duplicates)} rows) is not of these {len(faces)} "
            "faces: run dedup again"
        )
    return faces, duplicates


@dataclass(frozen=True, slots=True, kw_only=True)
class _Columns:
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
    def of(cls, faces: pa.Table, duplicates: pa.Table, vector_R: Int64) -> _Columns:
        """Decide what needs no look at the labels."""
        count = len(faces)
        eyes_R = np.nan_to_num(faces.column("eye_distance_px").to_numpy().astype(np.float64))
        columns = cls(
            decision_R=np.full(count, -1),
            reason_R=np.full(count, -1),
            confidence_R=np.ones(count, np.float32),
            status_R=np.full(count, -1),
            label_R=np.full(count, -1),
            similarity_R=np.full(count, np.nan, np.float32),
            identity_R=np.full(count, -1),
            quality_R=np.clip(eyes_R / TEMPLATE_EYES_PX, 0.0, 1.0),
        )
        status = faces.column("status")
        unfit_R = pc.not_equal(status, FaceStatus.OK.value).to_numpy()
        code_R = pc.index_in(status, value_set=pa.array([s.value for s in _STATUSES]))
        columns.status_R[unfit_R] = code_R.to_numpy()[unfit_R]
        columns.put(unfit_R, Decision.DROP, Reason.QUALITY)
        twin_R = pc.equal(duplicates.column("decision"), Decision.DUPLICATE.value).to_numpy()
        for reason in (Reason.SAME_BYTES, Reason.SAME_PICTURE):
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

    def table(self, faces: pa.Table, duplicates: pa.Table, names: pa.Array) -> pa.Table:
        """Return the rows as schema.DECISIONS."""
        twin = pa.array(self.decision_R == _DECISIONS.index(Decision.DUPLICATE))
        own = pa.array(self.similarity_R, mask=np.isnan(self.similarity_R))
        stays_R = np.isin(
            self.decision_R, [_DECISIONS.index(d) for d in (Decision.KEEP, Decision.RELABEL)]
        )
        kept = _named(self.identity_R, names)
        decided = {
            **{name: faces.column(name) for name in (*_ROW_KEY, "source_label")},
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


def _decide(
    columns: _Columns, rows_N: Int64, fitted: LabelFit, moves: Moves, dominant_L: Bool
) -> None:
    """Fill in the rows of labelled faces."""
    label_N, share = fitted.faces.label_N, fitted.mixture.clean_share
    moved_N = moves.label_N >= 0
    left_N = np.bincount(label_N[~moved_N], minlength=fitted.faces.labels)[label_N]
    dominant_N = dominant_L[label_N]
    pair_N = fitted.faces.size_L[label_N] == 2
    even_N = np.where(pair_N, fitted.clean_N, share / (1 + share))  # one of two is wrong
    cases = [  # which faces, decision, reason, confidence; the first that applies
        (moved_N, Decision.RELABEL, Reason.OTHER_IDENTITY, moves.confidence_N),
        (dominant_N & fitted.member_N, Decision.KEEP, Reason.SAME_PERSON, fitted.clean_N),
        (dominant_N, Decision.DROP, Reason.OUTLIER, 1 - fitted.clean_N),
        (left_N == 1, Decision.KEEP, Reason.SINGLE, np.full(len(label_N), share)),
        (left_N == 2, Decision.KEEP, Reason.NO_DOMINANT, even_N),
        (left_N > 2, Decision.DROP, Reason.NO_DOMINANT, 1 - 1 / np.maximum(left_N, 1)),
    ]
    open_N = np.ones(len(label_N), dtype=bool)
    for which_N, decision, reason, confidence_N in cases:
        now = np.flatnonzero(open_N & which_N)
        open_N[now] = False
        columns.put(rows_N[now], decision, reason)
        columns.confidence_R[rows_N[now]] = confidence_N[now]
        if decision != Decision.DROP:
            columns.identity_R[rows_N[now]] = label_N[now]
        if reason != Reason.SINGLE:
            columns.label_R[rows_N[now]] = label_N[now]
            columns.similarity_R[rows_N[now]] = fitted.cosine_N[now]
    to = rows_N[moved_N]
    columns.identity_R[to] = columns.label_R[to] = moves.label_N[moved_N]
    columns.similarity_R[to] = moves.cosine_N[moved_N]


def _report(table: pa.Table, fitted: LabelFit, dominant_L: Bool, names: pa.Array) -> CleanFit:
    size_L = fitted.faces.size_L
    counted = table.group_by(["decision", "reason"]).aggregate([([], "count_all")]).to_pylist()
    without = np.flatnonzero(~dominant_L & (size_L > 1))
    return CleanFit(
        mixture=fitted.mixture,
        threshold=fitted.mixture.threshold(REPORT_OTHERS),
        impostor_quantiles=fitted.quantiles,
        labels=len(names),
        labels_single=int((size_L == 1).sum()),
        labels_without_dominant=tuple(names.take(pa.array(without)).to_pylist()),
        counts=tuple(sorted((c["decision"], c["reason"], c["count_all"]) for c in counted)),
    )
