"""Who is one person by a person's own list, and the identities of labels that follow from it.

Legend: R rows, C codes of names (see facepipe.decided_rows).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from facepipe.constraint_lines import LABEL, PAIRS, Kind, Said
from facepipe.constraints import Constraints, OnePerson, label_rules
from facepipe.decided_rows import (
    AT_HOME,
    DECISION,
    KEPT,
    REASON,
    RELABEL,
    UNFIT,
    Bool,
    DecidedRows,
)
from facepipe.errors import UsageError
from facepipe.schema import Decision, Reason


@dataclass(frozen=True, slots=True)
class People:
    """The rows of decisions, and which faces and labels of the list are one person."""

    rows: DecidedRows
    constraints: Constraints
    joined: OnePerson
    groups: Mapping[str, Sequence[str]]
    named: frozenset[str]  # faces
    passed_over: tuple[Said, ...]  # lines, as they were given

    @classmethod
    def of(cls, rows: DecidedRows, constraints: Constraints) -> People:
        """Join what the list says; faces that are to be kept are their label's.

        Raises UsageError, naming the lines, where that contradicts another line.
        """
        label_rules(constraints, labels_of_faces(rows, constraints))  # raises
        constraints, passed_over = _of_heads(rows, constraints)
        joined = OnePerson(constraints.lines, labels_of_faces(rows, constraints), names=False)
        named = frozenset(line.a for line in constraints.of_kind(Kind.NAME))
        return cls(rows, constraints, joined, joined.groups(), named, passed_over)

    def group(self, node: str) -> Sequence[str]:
        """Return all that is one person with a face or label."""
        return self.groups.get(self.joined.find(node), [node])

    def labels(self, nodes: Iterable[str]) -> list[int]:
        """Return the codes of the labels among nodes that the data has, rising."""
        found = (self.rows.code(n.removeprefix(LABEL)) for n in nodes if n.startswith(LABEL))
        return sorted(code for code in found if code >= 0)

    def faces(self, nodes: Iterable[str]) -> list[int]:
        """Return the rows of the faces among nodes that say who somebody is, best first."""
        found = {self.rows.row_of(n) for n in nodes if not n.startswith(LABEL)}
        rows = [r for r in found if r is not None and self._speaks(r)]
        return sorted(rows, key=self.rows.strength, reverse=True)

    def own_labels(self, nodes: Iterable[str]) -> list[int]:
        """Return the labels among nodes, else those of its faces that were not moved."""
        nodes, rows = list(nodes), self.rows
        home = [r for r in self.faces(nodes) if int(rows.decision_R[r]) in AT_HOME]
        return self.labels(nodes) or sorted({int(c) for c in rows.label_R[home] if c >= 0})

    def all_labels(self, codes: Iterable[int]) -> list[int]:
        """Return labels with those that are one person with them, rising."""
        groups = (self.group(LABEL + self.rows.names[c]) for c in codes)
        return sorted({code for nodes in groups for code in self.labels(nodes)})

    def _speaks(self, row: int) -> bool:
        """Tell whether a row is in use, or could be: neither unfit, nor dropped by a person."""
        dropped = self.rows.decision_R[row] == DECISION.index(Decision.DROP)
        can = dropped and not self.rows.said(row) and int(self.rows.reason_R[row]) not in UNFIT
        return self.rows.kept(row) or bool(can)


def _of_heads(rows: DecidedRows, constraints: Constraints) -> tuple[Constraints, tuple[Said, ...]]:
    """Return a list in which the face that was kept stands for its duplicates.

    And the lines that are passed over: they part two copies of a picture, or contradict others
    because one is. The list was valid when it was given: a new photo must not end a run.
    """

    def head(node: str) -> str:
        row = None if node.startswith(LABEL) else rows.row_of(node)
        return node if row is None else rows.face_of(row)

    heads: dict[Said, Said] = {}
    passed_over = set()
    for line in constraints.lines:
        pair = line.kind in PAIRS
        a, b = head(line.a), head(line.b) if pair else line.b
        if not (pair and a == b):  # two copies of a picture: one is in use
            heads[line] = line if line.kind is Kind.DROP else Said(line.kind, a, b, line.where)
        elif line.kind is Kind.DIFFERENT:
            passed_over.add(line)
    taken = list(heads.values())
    if not _agree(rows, taken):
        taken = [line for line, as_head in heads.items() if line == as_head]
        for line, as_head in sorted(heads.items()):
            if line != as_head and not _agree(rows, [*taken, as_head]):
                passed_over.add(line)
            elif line != as_head:
                taken.append(as_head)
        taken = [as_head for line, as_head in heads.items() if line not in passed_over]
    return Constraints.of(taken), tuple(sorted(passed_over))


def _agree(rows: DecidedRows, lines: Iterable[Said]) -> bool:
    try:
        constraints = Constraints.of(lines)
        label_rules(constraints, labels_of_faces(rows, constraints))
    except UsageError:
        return False
    return True


def labels_of_faces(rows: DecidedRows, constraints: Constraints) -> dict[str, str | None]:
    """Return the source label of each face that a list names."""
    found = ((face, rows.own_row(face)) for face in constraints.faces)
    return {
        face: None if row is None or rows.label_R[row] < 0 else rows.names[rows.label_R[row]]
        for face, row in found
    }


def part_labels(people: People) -> None:
    """Make two identities of labels that are two people, and were merged."""
    for line in people.constraints.of_kind(Kind.DIFFERENT):
        one, other = (people.own_labels(people.group(node)) for node in (line.a, line.b))
        part(people, one, other)


def part(people: People, one: Sequence[int], other: Sequence[int]) -> None:
    """Take one of two groups of labels out of the identity that they share, if they do.

    The one whose name it has stays, else the larger, else the one with the lower name. Labels
    that lines say are one person stay together.
    """
    rows = people.rows
    one, other = people.all_labels(one), people.all_labels(other)
    if set(one) & set(other):
        return
    shared = {int(rows.home_C[c]) for c in one} & {int(rows.home_C[c]) for c in other}
    for identity in sorted(shared):
        sides = [
            (identity not in codes, -int(_at_home(rows, codes, identity).sum()), list(codes))
            for codes in (one, other)
        ]
        (_, _, stays), (_, _, goes) = sorted(sides)
        _leave(rows, goes, identity, rows.names[min(stays)])


def _at_home(rows: DecidedRows, codes: Sequence[int], identity: int) -> Bool:
    here_R = np.isin(rows.label_R, codes) & (rows.identity_R == identity)
    home_R: Bool = here_R & np.isin(rows.decision_R, AT_HOME)
    return home_R


def _leave(rows: DecidedRows, codes: Sequence[int], identity: int, evidence: str) -> None:
    """Give labels an identity of their own, with the faces that were moved to them."""
    leaving_R = _at_home(rows, codes, identity)
    moved_R = (rows.decision_R == RELABEL) & (rows.identity_R == identity)
    for row in np.flatnonzero(moved_R).tolist():
        leaving_R[row] = rows.code(rows.evidence_of(row) or "") in codes
    leaving = np.flatnonzero(leaving_R)
    free = [c for c in sorted(codes) if c != identity and not rows.in_use(c)]
    new = free[0] if free else rows.new_person(leaving)
    rows.say_of_people(leaving, new, evidence)
    for code in codes:
        if rows.home_C[code] == identity:
            rows.home_C[code] = new


def join(rows: DecidedRows, identities: Iterable[int]) -> int:
    """Make one identity of several: the largest by its rows, then the one with the lower code."""
    people = sorted(set(identities))
    count = {p: int((rows.identity_R == p).sum()) for p in people}
    survivor = min(people, key=lambda p: (-count[p], p))
    others = [p for p in people if p != survivor]
    joined = np.flatnonzero(np.isin(rows.identity_R, others) & np.isin(rows.decision_R, KEPT))
    rows.say_of_people(joined, survivor, rows.names[survivor])
    rows.home_C[np.isin(rows.home_C, others)] = survivor
    return survivor


def join_labels(people: People) -> None:
    """Make one identity of labels that are one person; say so also where the rules did."""
    rows = people.rows
    group_C = np.full(len(rows.names) + 1, -1)  # the last is of rows without one
    for number, nodes in enumerate(people.groups.values()):
        codes = people.labels(nodes)
        group_C[codes] = number
        if len({int(rows.home_C[c]) for c in codes}) > 1:
            join(rows, [int(rows.home_C[c]) for c in codes])
    merged_R = rows.decision_R == DECISION.index(Decision.MERGE)
    merged_R &= rows.reason_R == REASON.index(Reason.MERGED)
    merged_R &= (group_C[rows.label_R] >= 0) & (group_C[rows.label_R] == group_C[rows.identity_R])
    for identity in np.unique(rows.identity_R[merged_R]).tolist():
        those = np.flatnonzero(merged_R & (rows.identity_R == identity))
        rows.say_of_people(those, identity, rows.names[identity])
