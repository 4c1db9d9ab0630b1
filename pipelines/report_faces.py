"""Every face of a dataset with what became of it, for the report.

All faces are held without their crops, in the order of (face_id, uri, member); a row number
below means that order. Legend: N faces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from facepipe.schema import FACES, Decision, FaceStatus, Reason
from facepipe.shards import STEP_OF_TABLE, Dataset

Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

_KEYS = ("face_id", "uri", "member")  # an occurrence of a face: at most one row of each table
_MEASURES = (
    "det_score",
    "eye_distance_px",
    "sharpness",
    "yaw_deg",
    "pitch_deg",
    "roll_deg",
    "brightness",
    "inside_frame",
)
_DECIDED = ("decision", "reason", "identity_id", "confidence", "evidence", "similarity")
_TAKEN_AWAY = {Decision.DROP, Decision.DUPLICATE}


class Stage(StrEnum):
    """Where in the funnel a face goes out; ``kept`` is its end."""

    QUALITY = "quality"
    DUPLICATE = "duplicate"
    VECTOR = "vector"
    CLEAN = "clean"
    KEPT = "kept"


UNDECIDED = "undecided"  # kept for want of a clean step


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Fate:
    """What became of a face: where it went out, and why."""

    stage: Stage
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceRows:
    """All faces without crops; ``table`` has FACES' columns, and those of the decisions.

    The columns of DUPLICATES and DECISIONS are there as ``duplicates.reason``,
    ``decisions.similarity`` and so on: null where the step has not run.
    """

    table: pa.Table
    fates: tuple[Fate, ...]
    fate_N: Int64  # index into fates

    def __len__(self) -> int:
        """Return how many faces there are."""
        return len(self.fate_N)

    def numbers(self, column: str) -> NDArray[np.float64]:
        """Return a column as float64, NaN where it is null."""
        return np.asarray(self.table[column].cast(pa.float64()).to_numpy(), np.float64)

    def equal(self, column: str, *values: str) -> Bool:
        """Tell which rows have one of some values; a null has none."""
        found = pc.is_in(self.table[column], value_set=pa.array(values, pa.string()))
        return np.asarray(found.to_numpy(), np.bool_)

    def where(self, fate: Fate) -> Int64:
        """Return the rows that met a fate."""
        code = self.fates.index(fate) if fate in self.fates else -1
        return np.flatnonzero(self.fate_N == code)

    def kept(self) -> Bool:
        """Tell which rows are kept, whatever the reason."""
        codes = [i for i, fate in enumerate(self.fates) if fate.stage is Stage.KEPT]
        return np.isin(self.fate_N, codes)

    def counts(self) -> dict[Fate, int]:
        """Return how many faces met each fate, most first, then by name."""
        counts = np.bincount(self.fate_N, minlength=len(self.fates)).tolist()
        pairs = [(fate, n) for fate, n in zip(self.fates, counts, strict=True) if n]
        return dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))

    def values(self, column: str) -> tuple[list[str], Int64]:
        """Return a text column as its distinct values, sorted, and each row's (-1: null)."""
        encoded = self.table[column].combine_chunks().dictionary_encode()
        names = encoded.dictionary.to_pylist()
        order = sorted(range(len(names)), key=names.__getitem__)
        rank = np.empty(len(names) + 1, np.int64)
        rank[order], rank[-1] = np.arange(len(names)), -1
        codes = encoded.indices.fill_null(len(names)).to_numpy(zero_copy_only=False)
        return [names[i] for i in order], rank[codes]

    def records(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Return some rows as dicts."""
        found: list[dict[str, Any]] = self.table.take(pa.array(rows, pa.int64())).to_pylist()
        return found


def read_faces(dataset: Dataset) -> tuple[FaceRows, dict[str, str]]:
    """Return all faces, and for each step that could not be used, why.

    Raises CorruptData.
    """
    names = [*_KEYS, "source_label", "status", *_MEASURES]
    parts = [_place(dataset.read(f, names), i) for i, f in enumerate(dataset.files("faces"))]
    fields = [*(FACES.field(n) for n in names), ("file", pa.int32()), ("row", pa.int64())]
    table = pa.concat_tables([pa.schema(fields).empty_table(), *parts])
    table, problems = _sorted(table), {}
    for name in ("duplicates", "decisions"):
        rows, problem = _decided(dataset, name, table)
        if problem:
            problems[STEP_OF_TABLE[name]] = problem
        for column in _DECIDED:
            table = table.append_column(f"{name}.{column}", rows[column])
    fates, fate_N = _fates(table)
    return FaceRows(table=table, fates=fates, fate_N=fate_N), problems


def _place(table: pa.Table, file: int) -> pa.Table:
    rows = np.arange(table.num_rows)
    table = table.append_column("file", pa.array(np.full(len(rows), file, np.int32)))
    return table.append_column("row", pa.array(rows))


def _sorted(table: pa.Table) -> pa.Table:
    keys = [(name, "ascending", "at_start") for name in _KEYS]
    return table.take(pc.sort_indices(table, sort_keys=keys)).combine_chunks()


def _decided(dataset: Dataset, name: str, faces: pa.Table) -> tuple[pa.Table, str]:
    """Return a table of decisions, row for row with the faces; or nulls, and why."""
    step = STEP_OF_TABLE[name]
    if dataset.plan(step) is None:
        problem = "has not run yet"
    elif not dataset.finished(step):
        problem = "was interrupted before its end"
    else:
        table = _sorted(dataset.table(name, [*_KEYS, *_DECIDED]))
        if _same_occurrences(table, faces):
            return table, ""
        problem = "ran before the faces changed"
    types = {"confidence": pa.float32(), "similarity": pa.float32()}
    nothing = {c: pa.nulls(faces.num_rows, types.get(c, pa.string())) for c in _DECIDED}
    return pa.table(nothing), problem


def _same_occurrences(one: pa.Table, other: pa.Table) -> bool:
    if one.num_rows != other.num_rows:
        return False
    pairs = [(one[name].fill_null(""), other[name].fill_null("")) for name in _KEYS]
    return all(pc.all(pc.equal(a, b)).as_py() is not False for a, b in pairs)


def _fates(table: pa.Table) -> tuple[tuple[Fate, ...], Int64]:
    """Return the distinct fates, and each row's: few combinations decide for many rows."""
    names = ["status"]
    names += [f"{t}.{c}" for t in ("duplicates", "decisions") for c in ("decision", "reason")]
    combined = np.zeros(table.num_rows, np.int64)
    columns = []
    for name in names:
        encoded = table[name].combine_chunks().dictionary_encode()
        values = [*encoded.dictionary.to_pylist(), None]
        codes = encoded.indices.fill_null(len(values) - 1).to_numpy(zero_copy_only=False)
        combined = combined * len(values) + codes
        columns.append(values)
    found, which_N = np.unique(combined, return_inverse=True)
    fates = []
    for code in found.tolist():
        row: list[str | None] = []
        for values in reversed(columns):
            code, place = divmod(code, len(values))
            row.insert(0, values[place])
        fates.append(_fate(*row))
    distinct = tuple(sorted(set(fates)))
    place_of = np.array([distinct.index(fate) for fate in fates], np.int64)
    return distinct, place_of[which_N] if fates else which_N.astype(np.int64)


def _fate(
    status: str | None,
    duplicate: str | None,
    duplicate_reason: str | None,
    decision: str | None,
    reason: str | None,
) -> Fate:
    """Return the first loss that applies; the last step that has run decides who is kept."""
    if decision is not None and decision not in _TAKEN_AWAY:
        return Fate(stage=Stage.KEPT, reason=str(reason))
    if status != FaceStatus.OK:
        return Fate(stage=Stage.QUALITY, reason=str(status))
    if reason == Reason.NO_VECTOR:
        return Fate(stage=Stage.VECTOR, reason=str(reason))
    if decision == Decision.DUPLICATE:
        return Fate(stage=Stage.DUPLICATE, reason=str(reason))
    if decision == Decision.DROP:
        return Fate(stage=Stage.CLEAN, reason=str(reason))
    if duplicate == Decision.DUPLICATE:
        return Fate(stage=Stage.DUPLICATE, reason=str(duplicate_reason))
    return Fate(stage=Stage.KEPT, reason=UNDECIDED)
