"""What a person should look at first: decisions at even odds, labels that may be one person.

A check names faces by their row in `pipelines.report_faces.FaceRows`; the few that are chosen
are read afterwards. Choices are by numbers, ties by row or name, so that the same dataset
always gives the same page. Legend: N faces, R chosen rows, P pairs of identity and label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facepipe.constraint_lines import LABEL, Kind, Said
from facepipe.errors import DatasetNotFound
from facepipe.schema import Decision, PairVerdict, Reason
from facepipe.shards import Dataset
from pipelines.report_faces import Bool, FaceRows, Int64
from pipelines.report_sheets import certainty
from pipelines.report_shots import shown

BORDERLINE = 24  # faces on either side
PAIRS, PAIR_FACES = 12, 3
GROUPS, GROUP_LABELS = 10, 6
MIXED, MIXED_FACES = 6, 6
EVEN = 0.5
SURE = 0.95  # of a decision that is not borderline: one in twenty at its limit is wrong
_GUESSED = {  # by probability: of the others a person or a fact is certain
    Reason.SAME_PERSON,
    Reason.OTHER_IDENTITY,
    Reason.MERGED,
    Reason.CLUSTERED,
    Reason.OUTLIER,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Borderline:
    """Faces whose decision is nearest to even odds: row, and its probability."""

    title: str
    faces: tuple[tuple[int, float], ...]
    in_all: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two labels that look like one person, with faces of both, and the lines that decide."""

    names: tuple[str, str]
    rows: tuple[tuple[int, ...], tuple[int, ...]]
    similarity: float
    support: float
    rank: int
    confidence: float
    same: str
    different: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedGroup:
    """Labels that were merged into one person: name, faces, and the most typical one."""

    name: str
    labels: tuple[tuple[str, int, int], ...]
    more: int
    faces: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixed:
    """A label without a dominant person, and some of its faces."""

    name: str
    count: int
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checks:
    """All there is to check, each kind with how many there are in all."""

    borderline: tuple[Borderline, ...]
    pairs: tuple[Pair, ...]
    pairs_in_all: int
    groups: tuple[MergedGroup, ...]
    groups_in_all: int
    mixed: tuple[Mixed, ...]
    mixed_in_all: int

    @property
    def rows(self) -> list[int]:
        """Return every row that is shown, as often as it is."""
        found = [row for strip in self.borderline for row, _ in strip.faces]
        found += [row for pair in self.pairs for side in pair.rows for row in side]
        found += [row for group in self.groups for _, _, row in group.labels]
        return found + [row for label in self.mixed for row in label.rows]


def find_checks(dataset: Dataset, faces: FaceRows, threshold: float | None) -> Checks:
    """Return what to check in a dataset; nothing where clean has decided nothing."""
    pairs, pairs_in_all = _pairs(dataset, faces)
    groups, groups_in_all = _groups(faces)
    mixed, mixed_in_all = _mixed(faces)
    return Checks(
        borderline=_borderline(faces, threshold),
        pairs=pairs,
        pairs_in_all=pairs_in_all,
        groups=groups,
        groups_in_all=groups_in_all,
        mixed=mixed,
        mixed_in_all=mixed_in_all,
    )


def _borderline(faces: FaceRows, threshold: float | None) -> tuple[Borderline, ...]:
    guessed_N = faces.equal("decisions.reason", *_GUESSED)
    moved_N = faces.equal("decisions.decision", Decision.RELABEL)
    kept_N = faces.kept()
    sides = (
        ("Kept, and nearly not", guessed_N & kept_N & ~moved_N),
        ("Dropped, and nearly not", guessed_N & faces.equal("decisions.decision", Decision.DROP)),
        ("Moved to another label, and nearly not", guessed_N & moved_N),
    )
    return tuple(
        strip for title, side_N in sides if (strip := _strip(faces, title, side_N, threshold)).faces
    )


def _strip(faces: FaceRows, title: str, side_N: Bool, threshold: float | None) -> Borderline:
    rows = np.flatnonzero(side_N & (faces.numbers("decisions.confidence") < SURE))
    sure_R = faces.numbers("decisions.confidence")[rows]
    away_R = np.round(np.abs(sure_R - EVEN), 6)
    best = np.lexsort((rows, certainty(faces, rows, threshold), away_R))[:BORDERLINE]
    chosen = zip(rows[best].tolist(), sure_R[best].tolist(), strict=True)
    return Borderline(title=title, faces=tuple(chosen), in_all=len(rows))


# -- labels --------------------------------------------------------------------------------


def _pairs(dataset: Dataset, faces: FaceRows) -> tuple[tuple[Pair, ...], int]:
    """Return ambiguous pairs of labels, nearest to even odds first, and how many there are."""
    records, count = _ambiguous(dataset)
    names, label_N = faces.values("source_label")
    place = {name: i for i, name in enumerate(names)}
    wanted = [place[r[k]] for r in records for k in ("label_a", "label_b") if r[k] in place]
    rows_of = _typical_rows(faces, label_N, wanted, faces.kept(), PAIR_FACES)
    found = []
    for record in records:
        a, b = record["label_a"], record["label_b"]
        lines = [Said(kind, LABEL + a, LABEL + b).text for kind in (Kind.SAME, Kind.DIFFERENT)]
        found.append(
            Pair(
                names=(shown(a), shown(b)),
                rows=(rows_of.get(place.get(a, -1), ()), rows_of.get(place.get(b, -1), ())),
                similarity=float(record["similarity"]),
                support=float(record["support"]),
                rank=int(record["rank"]),
                confidence=float(record["confidence"]),
                same=shown(lines[0]),
                different=shown(lines[1]),
            )
        )
    return tuple(found), count


def _ambiguous(dataset: Dataset) -> tuple[list[dict[str, Any]], int]:
    """Return the first ambiguous pairs, and how many there are; a shard at a time."""
    try:
        files = dataset.files("label_pairs")
    except DatasetNotFound:
        return [], 0
    best: list[dict[str, Any]] = []
    count = 0
    for file in files:
        table = dataset.read(file)
        table = table.filter(pc.equal(table["verdict"], PairVerdict.AMBIGUOUS.value))
        count += len(table)
        away = pc.abs(pc.subtract(table["confidence"], pa.scalar(EVEN, pa.float32())))
        table = table.append_column("away", away)
        keys = [("away", "ascending"), ("label_a", "ascending"), ("label_b", "ascending")]
        best += table.sort_by(keys).slice(0, PAIRS).to_pylist()
        best = sorted(best, key=lambda r: (r["away"], r["label_a"], r["label_b"]))[:PAIRS]
    return best, count


def _groups(faces: FaceRows) -> tuple[tuple[MergedGroup, ...], int]:
    """Return the people with most labels merged, and how many have several."""
    names, label_N = faces.values("source_label")
    people, person_N = faces.values("decisions.identity_id")
    kept_N = faces.equal("decisions.decision", Decision.KEEP, Decision.MERGE)
    kept_N &= (label_N >= 0) & (person_N >= 0)
    rows = np.flatnonzero(kept_N)
    pair_P, count_P = np.unique(
        person_N[rows] * max(1, len(names)) + label_N[rows], return_counts=True
    )
    person_P, label_P = np.divmod(pair_P, max(1, len(names)))
    labels = np.bincount(person_P, minlength=len(people))
    total = np.bincount(person_P, count_P, minlength=len(people)).astype(np.int64)
    merged = np.flatnonzero(labels > 1)
    chosen = merged[np.lexsort((merged, -total[merged], -labels[merged]))][:GROUPS]
    found = []
    for person in chosen.tolist():
        mine = np.flatnonzero(person_P == person)
        mine = mine[np.lexsort((mine, -count_P[mine]))]
        shown_labels = mine[:GROUP_LABELS]
        own_N = kept_N & (person_N == person)
        row_of = _typical_rows(faces, label_N, label_P[shown_labels].tolist(), own_N, 1)
        found.append(
            MergedGroup(
                name=shown(people[person]),
                labels=tuple(
                    (shown(names[label_P[p]]), int(count_P[p]), row_of[int(label_P[p])][0])
                    for p in shown_labels.tolist()
                ),
                more=len(mine) - len(shown_labels),
                faces=int(total[person]),
            )
        )
    return tuple(found), len(merged)


def _mixed(faces: FaceRows) -> tuple[tuple[Mixed, ...], int]:
    """Return the largest labels without a dominant person, and how many there are."""
    names, label_N = faces.values("source_label")
    none_N = faces.equal("decisions.reason", Reason.NO_DOMINANT) & (label_N >= 0)
    counts = np.bincount(label_N[none_N], minlength=len(names))
    several = np.flatnonzero(counts)
    chosen = several[np.lexsort((several, -counts[several]))][:MIXED].tolist()
    rows_of = _typical_rows(faces, label_N, chosen, none_N, MIXED_FACES)
    found = [
        Mixed(name=shown(names[label]), count=int(counts[label]), rows=rows_of[label])
        for label in chosen
    ]
    return tuple(found), len(several)


def _typical_rows(
    faces: FaceRows, label_N: Int64, labels: Sequence[int], among_N: Bool, most: int
) -> dict[int, tuple[int, ...]]:
    """Return, of each of some labels, the rows that agree best with it."""
    rows = np.flatnonzero(np.isin(label_N, list(labels)) & among_N)
    similarity_R = np.nan_to_num(faces.numbers("decisions.similarity")[rows], nan=-2.0)
    order = rows[np.lexsort((rows, -similarity_R, label_N[rows]))]
    starts = np.flatnonzero(np.diff(label_N[order], prepend=-1))
    parts = np.split(order, starts[1:]) if len(order) else []
    return {int(label_N[part[0]]): tuple(part[:most].tolist()) for part in parts}
