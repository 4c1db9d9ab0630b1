"""The parts of the report that set faces side by side: duplicates, moved faces, people.

A section names faces by their row in `pipelines.report_faces.FaceRows`; the few that are
chosen are read afterwards, all at once. Choices are by numbers, ties by row, so that the
same dataset always gives the same page. Legend: N faces, R chosen rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from facepipe.schema import Decision, FaceStatus, Reason
from pipelines.report_faces import FaceRows, Int64
from pipelines.report_sheets import certainty
from pipelines.report_shots import shown

DUPLICATE_GROUPS, GROUP_FACES = 40, 5
MOVES = 40
PEOPLE = 30
LABELS = 60  # names of labels without a dominant identity


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A kept face and its duplicates; ``similarity`` is of the least alike."""

    kept: int
    duplicates: tuple[tuple[int, str, float], ...]  # row, reason, similarity
    more: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A face that was given another label, with a kept face of either, if there is one."""

    row: int
    old: str
    new: str
    similarity: float
    confidence: float
    old_row: int | None
    new_row: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """A label with how many faces are under it, or were moved there, and how many are kept."""

    name: str
    found: int
    kept: int
    row: int


def duplicate_groups(faces: FaceRows) -> tuple[list[Group], int]:
    """Return groups of duplicates to look at, fit and least alike first, and how many there are."""
    duplicate_N = faces.equal("duplicates.decision", Decision.DUPLICATE)
    rows = np.flatnonzero(duplicate_N)
    heads = np.flatnonzero(faces.equal("duplicates.decision", Decision.KEEP))
    face_ids = faces.table["face_id"]
    head_R = pc.index_in(
        faces.table["duplicates.evidence"].take(pa.array(rows)),
        value_set=face_ids.take(pa.array(heads)).combine_chunks(),
    )
    place_R = head_R.fill_null(-1).to_numpy().astype(np.int64)
    rows, place_R = rows[place_R >= 0], place_R[place_R >= 0]
    similarity_R = np.nan_to_num(faces.numbers("duplicates.similarity")[rows], nan=1.0)
    other_R = ~faces.equal("duplicates.reason", Reason.SAME_BYTES)[rows]
    rank_R = np.where(other_R, similarity_R, 2.0)  # the same bytes are beyond doubt
    rank_R = rank_R + 4.0 * ~faces.equal("status", FaceStatus.OK)[rows]  # and these go anyway
    order = np.lexsort((rows, rank_R, place_R))
    first = np.flatnonzero(np.diff(place_R[order], prepend=-1))
    groups = np.split(order, first[1:]) if len(order) else []
    groups.sort(key=lambda g: (float(rank_R[g[0]]), int(place_R[g[0]])))
    found = []
    for group in groups[:DUPLICATE_GROUPS]:
        members = faces.records(rows[group[:GROUP_FACES]].tolist())
        found.append(
            Group(
                kept=int(heads[place_R[group[0]]]),
                duplicates=tuple(
                    (int(rows[i]), shown(m["duplicates.reason"]), float(similarity_R[i]))
                    for i, m in zip(group, members, strict=False)
                ),
                more=max(0, len(group) - GROUP_FACES),
            )
        )
    return found, len(groups)


def moves(faces: FaceRows) -> tuple[list[Move], int]:
    """Return faces that were given another label, least certain first, and how many there are."""
    rows = np.flatnonzero(faces.equal("decisions.decision", Decision.RELABEL))
    chosen = rows[np.lexsort((rows, certainty(faces, rows, None)))][:MOVES]
    face_of = {name: row for name, row in _faces_of_labels(faces)} if len(chosen) else {}
    found = []
    for row, record in zip(chosen.tolist(), faces.records(chosen.tolist()), strict=True):
        old, new = record["source_label"], record["decisions.identity_id"]
        found.append(
            Move(
                row=row,
                old=shown(old),
                new=shown(new),
                similarity=float(record["decisions.similarity"] or 0.0),
                confidence=float(record["decisions.confidence"]),
                old_row=face_of.get(old),
                new_row=face_of.get(new),
            )
        )
    return found, len(rows)


def _faces_of_labels(faces: FaceRows) -> list[tuple[str, int]]:
    """Return, for each label, the kept face that was under it from the start and fits best."""
    stayed_N = faces.kept() & ~faces.equal("decisions.decision", Decision.RELABEL)
    names, label_N = faces.values("source_label")
    rows = np.flatnonzero(stayed_N & (label_N >= 0))
    first = _first_of_each(label_N[rows], _typical(faces)[rows])
    return [(names[label_N[row]], int(row)) for row in rows[first]]


def _typical(faces: FaceRows) -> NDArray[np.float64]:
    """Return a number that is higher the better a face stands for its person."""
    similarity_N = faces.numbers("decisions.similarity")
    return np.where(np.isnan(similarity_N), faces.numbers("det_score") - 2.0, similarity_N)


def _first_of_each(code_R: Int64, value_R: NDArray[np.float64]) -> Int64:
    """Return the place of the highest value of each code, the first of equals."""
    order = np.lexsort((np.arange(len(code_R)), -value_R, code_R))
    return order[np.flatnonzero(np.diff(code_R[order], prepend=-1))]


def people(faces: FaceRows, cleaned: bool) -> tuple[list[Person], int]:
    """Return the labels with most kept faces, and how many labels have one."""
    names, person_N = faces.values("decisions.identity_id" if cleaned else "source_label")
    rows = np.flatnonzero(faces.kept() & (person_N >= 0))
    kept_P = np.bincount(person_N[rows], minlength=len(names))
    best = rows[_first_of_each(person_N[rows], _typical(faces)[rows])]
    chosen = best[np.lexsort((person_N[best], -kept_P[person_N[best]]))][:PEOPLE]
    own_N = ~faces.equal("status", FaceStatus.BYSTANDER)
    found = []
    for row in chosen.tolist():
        name = names[person_N[row]]
        of_label_N = own_N & faces.equal("source_label", name)
        found.append(
            Person(
                name=shown(name),
                found=int((of_label_N | (person_N == person_N[row])).sum()),
                kept=int(kept_P[person_N[row]]),
                row=row,
            )
        )
    return found, len(best)


def labels_without_dominant(faces: FaceRows) -> tuple[list[tuple[str, int]], int]:
    """Return labels in which no person is dominant, with their faces, and how many there are."""
    names, label_N = faces.values("source_label")
    rows = faces.equal("decisions.reason", Reason.NO_DOMINANT) & (label_N >= 0)
    counts = np.bincount(label_N[rows], minlength=len(names)).tolist()
    pairs = sorted(((n, i) for i, n in enumerate(counts) if n), key=lambda p: (-p[0], p[1]))
    return [(shown(names[i]), n) for n, i in pairs[:LABELS]], len(pairs)


def rows_of(
    groups: Sequence[Group],
    moves: Sequence[Move],
    people: Sequence[Person],
) -> list[int]:
    """Return every row that these sections show."""
    rows = [row for g in groups for row in (g.kept, *(d[0] for d in g.duplicates))]
    rows += [row for m in moves for row in (m.row, m.old_row, m.new_row) if row is not None]
    return rows + [p.row for p in people]
