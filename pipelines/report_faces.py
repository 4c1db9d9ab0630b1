"""Every face of a dataset with what became of it, for the report.

All faces are held without their crops and paths, in the order of (face_id, uri, member); a row
number below means that order. Legend: N faces.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from facepipe.commits import ShardFile
from facepipe.schema import DECISIONS, DUPLICATES, FACES, Decision, FaceStatus, Reason
from facepipe.shards import STEP_OF_TABLE, Dataset

Int64 = NDArray[np.int64]
Int32 = NDArray[np.int32]
Bool = NDArray[np.bool_]

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
# Of each table: the columns that repeat few values, and the others.
_COLUMNS = {
    "faces": (("source_label", "status"), _MEASURES),
    "duplicates": (("decision", "reason", "source_label"), ("evidence", "similarity")),
    "decisions": (
        ("decision", "reason", "identity_id", "source_label"),
        ("confidence", "similarity"),
    ),
}
_TAKEN_AWAY = {Decision.DROP, Decision.DUPLICATE}
SLICE_ROWS = 1 << 17


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
class Coded:
    """A text column as its distinct values, sorted, and each row's place in them (-1: null)."""

    names: list[str]
    code_N: Int32


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceRows:
    """All faces, without crops and paths; a row is about 150 bytes.

    The columns of DUPLICATES and DECISIONS are there as ``duplicates.reason``,
    ``decisions.similarity`` and so on: null where the step has not run. ``table`` has
    face_id, numbers, and ``file`` and ``row``: where in the dataset's faces it is.
    """

    table: pa.Table
    texts: dict[str, Coded]
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
        text = self.texts[column]
        wanted = {str(v) for v in values}
        codes = [code for code, name in enumerate(text.names) if name in wanted]
        return np.isin(text.code_N, codes)

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
        text = self.texts[column]
        return text.names, text.code_N.astype(np.int64)

    def records(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Return some rows as dicts."""
        found: list[dict[str, Any]] = self.table.take(pa.array(rows, pa.int64())).to_pylist()
        for column, text in self.texts.items():
            for row, code in zip(found, text.code_N[list(rows)].tolist(), strict=True):
                row[column] = text.names[code] if code >= 0 else None
        return found


def read_faces(dataset: Dataset) -> tuple[FaceRows, dict[str, str]]:
    """Return all faces, and for each step that could not be used, why.

    Raises CorruptData.
    """
    table, texts = _read(dataset, "faces")
    problems = {}
    for name in ("duplicates", "decisions"):
        rows, coded, problem = _decided(dataset, name, table, texts["source_label"])
        if problem:
            problems[STEP_OF_TABLE[name]] = problem
        for column in _COLUMNS[name][1]:
            table = table.append_column(f"{name}.{column}", rows[column])
        texts |= {f"{name}.{c}": text for c, text in coded.items() if c != "source_label"}
    fates, fate_N = _fates(texts, table.num_rows)
    return FaceRows(table=table, texts=texts, fates=fates, fate_N=fate_N), problems


def _read(dataset: Dataset, name: str) -> tuple[pa.Table, dict[str, Coded]]:
    """Return a table in the order of (face_id, uri, member), its repeated texts apart."""
    files = dataset.files(name)
    few, others = _COLUMNS[name]
    schema = {"faces": FACES, "duplicates": DUPLICATES, "decisions": DECISIONS}[name]
    parts: dict[str, list[pa.Array]] = {c: [] for c in ("face_id", *others)}
    coded = {c: _Coding() for c in few}
    for file in files:
        for column, values in _columns(dataset, file, [*parts, *few]):
            if column in coded:
                coded[column].add(values)
            else:
                parts[column] += values.chunks
    where = [
        np.repeat(np.arange(len(files), dtype=np.int32), [f.rows for f in files]),
        np.concatenate(
            [np.empty(0, np.int32), *(np.arange(f.rows, dtype=np.int32) for f in files)]
        ),
    ]
    ids = _whole(parts.pop("face_id"), pa.string())
    order = _order(dataset, files, ids, *where)
    columns = {"face_id": ids.take(pa.array(order))}
    del ids
    for column in others:
        values = _whole(parts.pop(column), schema.field(column).type)
        columns[column] = values.take(pa.array(order))
    columns |= {"file": pa.array(where[0][order]), "row": pa.array(where[1][order])}
    return pa.table(columns), {c: coding.coded(order) for c, coding in coded.items()}


def _columns(
    dataset: Dataset, file: ShardFile, names: Sequence[str]
) -> Iterator[tuple[str, pa.ChunkedArray]]:
    """Yield columns of a file; of a large one so that one of text is there as it is stored."""
    together = [names] if file.rows <= SLICE_ROWS else [[name] for name in names]
    for some in together:
        table = dataset.read(file, some)
        yield from zip(some, (table[name] for name in some), strict=True)


def _whole(chunks: Sequence[pa.Array], kind: pa.DataType) -> pa.Array:
    return pa.chunked_array(chunks, kind).combine_chunks()


class _Coding:
    """A column of text as it is read, file after file, each distinct value held once."""

    def __init__(self) -> None:
        self._codes, self._places = [np.empty(0, np.int32)], dict[str, int]()

    def add(self, values: pa.ChunkedArray) -> None:
        encoded = values.combine_chunks().dictionary_encode()
        texts = encoded.dictionary.to_pylist()
        own = [self._places.setdefault(text, len(self._places)) for text in texts]
        lookup = np.array([*own, -1], np.int32)
        codes = encoded.indices.fill_null(len(own)).to_numpy(zero_copy_only=False)
        self._codes.append(lookup[codes])

    def coded(self, order: Int64) -> Coded:
        names = sorted(self._places)
        rank = np.full(len(names) + 1, -1, np.int32)
        rank[[self._places[n] for n in names]] = np.arange(len(names))
        return Coded(names=names, code_N=rank[np.concatenate(self._codes)[order]])


def _order(
    dataset: Dataset, files: Sequence[ShardFile], ids: pa.Array, file_N: Int32, row_N: Int32
) -> Int64:
    """Return the order of (face_id, uri, member): paths are read only of ids that are repeated."""
    order: Int64 = pc.array_sort_indices(ids).to_numpy().astype(np.int64)
    if len(order) < 2:
        return order
    repeats = np.zeros(len(order), np.bool_)
    for start in range(0, len(order) - 1, SLICE_ROWS):  # not all ids a second time
        stretch = ids.take(pa.array(order[start : start + SLICE_ROWS + 1]))
        same = pc.equal(stretch[1:], stretch[:-1]).to_numpy(zero_copy_only=False)
        repeats[start : start + len(same)] |= same
        repeats[start + 1 : start + 1 + len(same)] |= same
    places = np.flatnonzero(repeats)
    paths: dict[int, tuple[str, str]] = {}
    rows = order[places]
    for file in np.unique(file_N[rows]).tolist():
        here = rows[file_N[rows] == file]
        table = dataset.read(files[file], ["uri", "member"]).take(pa.array(row_N[here]))
        pairs = zip(table["uri"].to_pylist(), table["member"].to_pylist(), strict=True)
        paths |= zip(here.tolist(), ((u, m or "") for u, m in pairs), strict=True)
    face = ids.take(pa.array(rows)).to_pylist()
    by_path = sorted(range(len(rows)), key=lambda i: (face[i], paths[int(rows[i])], int(rows[i])))
    order[places] = rows[by_path]
    return order


def _decided(
    dataset: Dataset, name: str, faces: pa.Table, labels: Coded
) -> tuple[pa.Table, dict[str, Coded], str]:
    """Return a table of decisions, row for row with the faces; or nulls, and why."""
    step = STEP_OF_TABLE[name]
    if dataset.plan(step) is None:
        problem = "has not run yet"
    elif not dataset.finished(step):
        problem = "was interrupted before its end"
    else:
        table, texts = _read(dataset, name)
        if table["face_id"].equals(faces["face_id"]) and _same(texts["source_label"], labels):
            return table, texts, ""
        problem = "ran before the faces changed"
    few, others = _COLUMNS[name]
    types = {"confidence": pa.float32(), "similarity": pa.float32()}
    nothing = {c: pa.nulls(faces.num_rows, types.get(c, pa.string())) for c in others}
    code_N = np.full(faces.num_rows, -1, np.int32)
    return pa.table(nothing), {c: Coded(names=[], code_N=code_N) for c in few}, problem


def _same(one: Coded, other: Coded) -> bool:
    return one.names == other.names and bool((one.code_N == other.code_N).all())


def _fates(texts: Mapping[str, Coded], count: int) -> tuple[tuple[Fate, ...], Int64]:
    """Return the distinct fates, and each row's: few combinations decide for many rows."""
    names = ["status"]
    names += [f"{t}.{c}" for t in ("duplicates", "decisions") for c in ("decision", "reason")]
    combined = np.zeros(count, np.int64)
    columns = []
    for name in names:
        values = [None, *texts[name].names]
        combined = combined * len(values) + (texts[name].code_N + 1)
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
