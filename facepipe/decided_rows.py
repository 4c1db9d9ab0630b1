"""DECISIONS while a person's own list is applied: rows as numbers, changed in place.

Legend: R rows, C codes: a label, an identity or a name is its place in one list of names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facepipe.identity_names import new_name
from facepipe.schema import DECISIONS, Decision, Reason

Int64 = npt.NDArray[np.int64]
Int8 = npt.NDArray[np.int8]
Float32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]

DECISION = list(Decision)
REASON = list(Reason)
KEPT = tuple(DECISION.index(d) for d in (Decision.KEEP, Decision.RELABEL, Decision.MERGE))
AT_HOME = tuple(DECISION.index(d) for d in (Decision.KEEP, Decision.MERGE))
DUPLICATE = DECISION.index(Decision.DUPLICATE)
RELABEL = DECISION.index(Decision.RELABEL)
SAID = REASON.index(Reason.SAID)
NO_VECTOR = REASON.index(Reason.NO_VECTOR)
UNFIT = (REASON.index(Reason.QUALITY), NO_VECTOR)

Strength = tuple[bool, float, float, int]


@dataclass(slots=True, kw_only=True)
class DecidedRows:
    """The columns of DECISIONS that a person's word can change."""

    table: pa.Table
    names: list[str]
    label_R: Int64  # -1: none
    identity_R: Int64  # -1: nobody
    decision_R: Int8
    reason_R: Int8
    confidence_R: Float32
    weight_R: Float32
    full_R: Float32  # the weight of a row that is certain
    similarity_R: Float32  # NaN: none
    home_C: Int64  # the identity that a label's own faces have; itself where it has none
    before_R: Int64  # identities as they were
    place_of: dict[str, int]  # of each name
    evidence: dict[int, str | None] = field(default_factory=dict)  # of changed rows
    rows_of: dict[str, list[int]] = field(default_factory=dict)  # of the faces that are named
    called: dict[int, str] = field(default_factory=dict)  # identities that get another name

    @classmethod
    def of(cls, table: pa.Table, faces: Collection[str], full_R: Float32 | None) -> DecidedRows:
        """Take a table's columns; find the rows of some faces, and of what they duplicate."""
        names, label_R, identity_R = _codes(table)
        weight_R = _floats(table, "weight", 0.0)
        confidence_R = _floats(table, "confidence", 1.0)
        if full_R is None:
            known_R = (weight_R > 0) & (confidence_R > 0)
            full_R = np.divide(weight_R, confidence_R, out=np.ones_like(weight_R), where=known_R)
        rows = cls(
            table=table,
            names=names,
            label_R=label_R,
            identity_R=identity_R,
            decision_R=_places(table, "decision", DECISION),
            reason_R=_places(table, "reason", REASON),
            confidence_R=confidence_R,
            weight_R=weight_R,
            full_R=full_R.astype(np.float32),
            similarity_R=_floats(table, "similarity", np.nan),
            home_C=np.arange(len(names)),
            before_R=identity_R.copy(),
            place_of={name: place for place, name in enumerate(names)},
        )
        rows._find_homes()
        heads = rows._find(faces)
        rows._find(heads - set(faces))
        return rows

    def _find_homes(self) -> None:
        home = np.isin(self.decision_R, AT_HOME) & (self.label_R >= 0) & (self.identity_R >= 0)
        pairs, count = np.unique(
            self.label_R[home] * len(self.names) + self.identity_R[home], return_counts=True
        )
        label, identity = np.divmod(pairs, max(1, len(self.names)))
        order = np.lexsort((identity, -count, label))
        first = order[np.flatnonzero(np.diff(label[order], prepend=-1))]
        self.home_C[label[first]] = identity[first]

    def _find(self, faces: Collection[str]) -> set[str]:
        """Remember the rows of faces; return the faces that they are duplicates of."""
        ids = self.table["face_id"]
        wanted = pc.is_in(ids, value_set=pa.array(sorted(faces), pa.string()))
        places = np.flatnonzero(wanted.to_numpy())
        named = ids.take(pa.array(places)).to_pylist()
        evidence = self.table["evidence"].take(pa.array(places)).to_pylist()
        heads = set()
        for row, face, other in zip(places.tolist(), named, evidence, strict=True):
            self.rows_of.setdefault(face, []).append(row)
            if self.decision_R[row] == DUPLICATE and other is not None:
                heads.add(other)
        return heads

    # -- looking -------------------------------------------------------------------------

    def face_of(self, row: int) -> str:
        """Return the id of a row's face."""
        return str(self.table["face_id"][row].as_py())

    def evidence_of(self, row: int) -> str | None:
        """Return what decided on a row."""
        found = self.table["evidence"][row].as_py() if row not in self.evidence else None
        return self.evidence.get(row, found)

    def kept(self, row: int) -> bool:
        """Tell whether a row is in use."""
        return int(self.decision_R[row]) in KEPT

    def own_row(self, face: str) -> int | None:
        """Return the row that stands for a face: the one in use, or no duplicate, or labelled."""
        rows = self.rows_of.get(face, [])
        duplicate_R, label_R = self.decision_R, self.label_R
        return min(
            rows,
            key=lambda r: (not self.kept(r), duplicate_R[r] == DUPLICATE, label_R[r] < 0, r),
            default=None,
        )

    def row_of(self, face: str) -> int | None:
        """Return the row of a face, or of the face that it is a duplicate of."""
        row = self.own_row(face)
        if row is None or self.decision_R[row] != DUPLICATE:
            return row
        head = self.own_row(self.evidence_of(row) or "")
        return row if head is None else head

    def code(self, name: str) -> int:
        """Return the place of a name, or -1 where no label or identity has it."""
        return self.place_of.get(name, -1)

    def decision_of(self, row: int) -> Decision:
        """Return what is to be done with a row."""
        return DECISION[int(self.decision_R[row])]

    def said(self, row: int) -> bool:
        """Tell whether a person decided on a row."""
        return int(self.reason_R[row]) == SAID

    def strength(self, row: int) -> Strength:
        """Return how well a row agrees with where it is; of equals the first is above."""
        similarity = float(self.similarity_R[row])
        if similarity != similarity:  # NaN
            similarity = -1.0
        return self.said(row), float(self.confidence_R[row]), similarity, -row

    def in_use(self, identity: int) -> bool:
        """Tell whether a row in use has an identity."""
        return bool(np.isin(self.decision_R[self.identity_R == identity], KEPT).any())

    # -- changing ------------------------------------------------------------------------

    def new_identity(self, name: str) -> int:
        """Return a new code; what it is called may be somebody's name before `call`."""
        place = len(self.names)
        self.place_of.setdefault(name, place)
        self.names.append(name)
        self.home_C = np.append(self.home_C, place)
        return place

    def new_person(self, rows: Int64) -> int:
        """Return a new code for the person of some rows, named after the lowest face id."""
        lowest = min((self.face_of(row) for row in rows.tolist()), default="")
        return self.new_identity(new_name(lowest, self.place_of))

    def call(self, identity: int, name: str) -> None:
        """Give an identity another name; labels keep theirs."""
        self.called[identity] = name

    def say(self, row: int, decision: Decision, identity: int, evidence: str) -> None:
        """Decide a row as a person says: with certainty."""
        self.decision_R[row] = DECISION.index(decision)
        self.identity_R[row] = identity
        self.confidence_R[row] = 1.0
        self.weight_R[row] = self.full_R[row] if self.kept(row) else 0.0
        self._because(row, evidence)

    def say_of_people(self, rows: Int64, identity: int, evidence: str) -> None:
        """Give rows another identity, since a person says so of all of their label.

        How sure it is that each belongs to its label, and so its weight, stays. A face that
        was moved to that label stays moved.
        """
        moved = rows[self.decision_R[rows] == RELABEL]
        own = np.setdiff1d(rows, moved)
        keep, merge = DECISION.index(Decision.KEEP), DECISION.index(Decision.MERGE)
        self.decision_R[own] = np.where(self.label_R[own] == identity, keep, merge)
        self.identity_R[rows] = identity
        for row in own.tolist():
            self._because(row, evidence)

    def again(self, row: int, face: str) -> None:
        """Make a row another copy of the file of a face that is in use."""
        if self.decision_R[row] == DUPLICATE and self.evidence_of(row) == face:
            return
        self.say(row, Decision.DUPLICATE, -1, face)
        self.reason_R[row] = REASON.index(Reason.SAME_BYTES)

    def _because(self, row: int, evidence: str) -> None:
        self.reason_R[row] = SAID
        self.evidence[row] = evidence
        self.similarity_R[row] = np.nan  # it was to what decided before

    # -- the end -------------------------------------------------------------------------

    def result(self) -> pa.Table:
        """Return the table; duplicates have the identity of the face that is kept for them."""
        self._follow()
        final = [self.called.get(code, name) for code, name in enumerate(self.names)]
        names = pa.array(final, pa.string())
        columns = {n: self.table[n] for n in DECISIONS.names}
        columns["identity_id"] = names.take(pa.array(self.identity_R, mask=self.identity_R < 0))
        columns["decision"] = pa.array([d.value for d in DECISION]).take(pa.array(self.decision_R))
        columns["reason"] = pa.array([r.value for r in REASON]).take(pa.array(self.reason_R))
        columns["confidence"] = pa.array(self.confidence_R)
        columns["evidence"] = _replaced(self.table["evidence"], self.evidence)
        columns["similarity"] = pa.array(self.similarity_R, mask=np.isnan(self.similarity_R))
        columns["weight"] = pa.array(self.weight_R)
        return pa.table([columns[n] for n in DECISIONS.names], schema=DECISIONS)

    def _follow(self) -> None:
        """Give the duplicates of changed faces the identity those have now."""
        changed_R = self.identity_R != self.before_R
        changed_R[list(self.evidence)] = True
        own = np.flatnonzero(changed_R & (self.decision_R != DUPLICATE))
        own = own[np.argsort(~np.isin(self.decision_R[own], KEPT), kind="stable")]  # in use first
        faces = self.table["face_id"].take(pa.array(own)).combine_chunks()
        twins = np.flatnonzero(self.decision_R == DUPLICATE)
        evidence = _replaced(self.table["evidence"], self.evidence).take(pa.array(twins))
        head = pc.index_in(evidence, value_set=faces).fill_null(-1).to_numpy(False)
        follows = head >= 0
        identity = np.where(np.isin(self.decision_R[own], KEPT), self.identity_R[own], -1)
        self.identity_R[twins[follows]] = identity[head[follows]]


def _codes(table: pa.Table) -> tuple[list[str], Int64, Int64]:
    """Return the names of labels and identities, sorted, and each row's."""
    columns = [table[name].combine_chunks() for name in ("source_label", "identity_id")]
    parts = [pc.unique(column.drop_null()) for column in columns]
    names = pc.unique(pa.concat_arrays(parts))
    names = names.take(pc.sort_indices(names))
    found = [pc.index_in(c, value_set=names).fill_null(-1).to_numpy(False) for c in columns]
    label_R, identity_R = (codes.astype(np.int64) for codes in found)
    return names.to_pylist(), label_R, identity_R


def _places(table: pa.Table, column: str, values: Iterable[str]) -> Int8:
    known = pa.array([str(v) for v in values])
    return np.asarray(pc.index_in(table[column], value_set=known).to_numpy(), np.int8)


def _floats(table: pa.Table, column: str, null: float) -> Float32:
    return np.array(table[column].fill_null(null).to_numpy(), np.float32)


def _replaced(column: pa.ChunkedArray, changes: dict[int, str | None]) -> pa.Array:
    """Return a text column with some rows changed."""
    mask = np.zeros(len(column), np.bool_)
    rows = sorted(changes)
    mask[rows] = True
    values = pa.array([changes[r] for r in rows], pa.string())
    return pc.replace_with_mask(column.combine_chunks(), pa.array(mask), values)
