"""Faces that a person says are one person, or two: they get one identity, or two.

Legend: R rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from facepipe.constraint_lines import Kind, Said
from facepipe.decided_rows import SAID, UNFIT, DecidedRows, Strength
from facepipe.obey_people import People, join, part
from facepipe.schema import Decision


def moved(rows: DecidedRows, row: int, identity: int) -> Decision:
    """Return what it is called to give a face an identity: its own label's is kept."""
    return Decision.KEEP if rows.label_R[row] in (identity, -1) else Decision.RELABEL


def bring_together(people: People) -> None:
    """Give the faces of one person one identity: their label's, else the one that agrees best."""
    rows = people.rows
    for nodes in people.groups.values():
        labels, faces = people.labels(nodes), people.faces(nodes)
        in_use = [row for row in faces if rows.kept(row)]
        known = [row for row in in_use if rows.identity_R[row] >= 0]
        if labels:
            target, evidence = int(rows.home_C[labels[0]]), rows.names[labels[0]]
        elif known:
            target, evidence = int(rows.identity_R[known[0]]), rows.face_of(known[0])
        elif in_use and len(faces) > 1:
            target, evidence = rows.new_person(np.array(faces)), rows.face_of(in_use[0])
        else:
            continue  # they are one person, but whoever that is has been dropped
        for row in faces:
            if rows.identity_R[row] != target or not rows.kept(row):
                rows.say(row, moved(rows, row, target), target, evidence)


# -- two people ------------------------------------------------------------------------------


@dataclass(slots=True)
class _Side:
    """One of two people: labels, and rows in use, those that agree best first."""

    labels: Sequence[int]
    faces: Sequence[int]
    named: bool

    def identities(self, rows: DecidedRows) -> set[int]:
        """Return the identities in which it is."""
        own = {int(i) for i in rows.identity_R[list(self.faces)]} - {-1}
        return own | {int(rows.home_C[c]) for c in self.labels}

    def strength(self, rows: DecidedRows) -> tuple[bool, bool, Strength]:
        """Return how firmly it is where it is."""
        best = rows.strength(self.faces[0]) if self.faces else (False, 0.0, 0.0, 0)
        return bool(self.labels), self.named, best


def take_apart(people: People, *, labels: bool) -> None:
    """Give faces that lines say are two people, or that have two names, two identities.

    With ``labels``, to the labels that they are under, where these are two.
    """
    for line in people.constraints.of_kind(Kind.DIFFERENT):
        _take_apart(people, line.a, line.b, labels)
    for lines in _named(people).values():
        best = max(lines, key=lambda pair: people.rows.strength(pair[0]))[1]
        for _, line in lines:
            if line.b != best.b:
                _take_apart(people, best.a, line.a, labels)


def _named(people: People) -> dict[int, list[tuple[int, Said]]]:
    """Return, of each identity, the rows that lines name, and these."""
    found: dict[int, list[tuple[int, Said]]] = {}
    for line in people.constraints.of_kind(Kind.NAME):
        row = people.rows.row_of(line.a)
        if row is not None and people.rows.kept(row) and people.rows.identity_R[row] >= 0:
            found.setdefault(int(people.rows.identity_R[row]), []).append((row, line))
    return found


def _take_apart(people: People, one: str, other: str, labels: bool) -> None:
    rows = people.rows
    sides = [_side(people, node) for node in (one, other)]
    shared = sides[0].identities(rows) & sides[1].identities(rows)
    if not shared:
        return
    if labels:
        part(people, *(people.own_labels(people.group(node)) for node in (one, other)))
    shared = sides[0].identities(rows) & sides[1].identities(rows)
    stays, goes = sorted(sides, key=lambda side: side.strength(rows), reverse=True)
    evidence = rows.face_of(stays.faces[0]) if stays.faces else rows.names[min(stays.labels)]
    leaving = [row for row in goes.faces if int(rows.identity_R[row]) in shared]
    if goes.named or len(leaving) > 1:  # somebody, if not who
        new = rows.new_person(np.array(leaving)) if leaving else -1
        for row in leaving:
            rows.say(row, moved(rows, row, new), new, evidence)
    for row in leaving[: 0 if goes.named or len(leaving) > 1 else 1]:
        bare = rows.label_R[row] < 0  # nothing says that it does not belong here
        rows.say(row, Decision.KEEP if bare else Decision.DROP, -1, evidence)


def _side(people: People, node: str) -> _Side:
    nodes = people.group(node)
    faces = [row for row in people.faces(nodes) if people.rows.kept(row)]
    return _Side(people.labels(nodes), faces, bool(people.named & set(nodes)))


# -- names -----------------------------------------------------------------------------------


def join_named(people: People) -> None:
    """Make one identity of those that lines, or lines and a label, call the same.

    Not of two that lines say are two: of these only the faces that are named so move.
    """
    rows, named = people.rows, _named(people)
    called: dict[str, set[int]] = {}
    for identity, lines in named.items():
        called.setdefault(lines[0][1].b, set()).add(identity)
    apart = _apart(people)
    for name in sorted(called):
        own = rows.code(name)
        others = sorted(called[name], key=lambda identity: (identity != own, identity))
        if own >= 0 and own not in named and rows.in_use(own):
            if not any(_pair(own, identity) in apart for identity in others):
                others.append(own)
        one = others[0]
        for other in others[1:]:
            if _pair(one, other) in apart:
                stays = _move_named(people, named, one, other)
                if stays is not None:
                    one = stays
                    continue
            kept = join(rows, (one, other))
            gone = one if kept == other else other
            apart = {_pair(kept if a == gone else a, kept if b == gone else b) for a, b in apart}
            named[kept] = [*named.get(kept, ()), *named.pop(gone, ())]
            one = kept
        if own not in (-1, one) and own not in named and rows.in_use(own):  # somebody else
            rows.call(own, rows.names[rows.new_person(np.flatnonzero(rows.identity_R == own))])


def _move_named(
    people: People, named: dict[int, list[tuple[int, Said]]], one: int, other: int
) -> int | None:
    """Move the faces that are named from one of two identities to the other; return which.

    None where lines hold such faces in both: then those that are somebody else have to go.
    """
    rows = people.rows
    for goes, stays in ((other, one), (one, other)):
        leaving = named.get(goes, [])
        if not any(_held(people, line.a, stays) for _, line in leaving):
            for row, line in leaving:
                rows.say(row, moved(rows, row, stays), stays, line.text)
            named[stays] = [*named.get(stays, ()), *leaving]
            named.pop(goes, None)
            return stays
    return None


def _held(people: People, face: str, identity: int) -> bool:
    """Tell whether lines say that a face is some label's person, or not an identity's."""
    root = people.joined.find(face)
    if people.labels(people.group(face)):
        return True
    for line in people.constraints.of_kind(Kind.DIFFERENT):
        for node, other in ((line.a, line.b), (line.b, line.a)):
            if people.joined.find(node) == root:
                if identity in _side(people, other).identities(people.rows):
                    return True
    return False


def _pair(one: int, other: int) -> tuple[int, int]:
    return min(one, other), max(one, other)


def _apart(people: People) -> set[tuple[int, int]]:
    """Return the pairs of identities that lines say are two people."""
    found = set()
    for line in people.constraints.of_kind(Kind.DIFFERENT):
        one, other = (_side(people, n).identities(people.rows) for n in (line.a, line.b))
        found |= {_pair(a, b) for a in one for b in other if a != b}
    return found


def bring_back_named(people: People) -> None:
    """Give faces that lines name, and that are nobody's, an identity of their own."""
    rows = people.rows
    for line in people.constraints.of_kind(Kind.NAME):
        row = rows.row_of(line.a)
        if row is None or (rows.kept(row) and rows.identity_R[row] >= 0):
            continue
        if rows.kept(row) or int(rows.reason_R[row]) not in (*UNFIT, SAID):
            new = rows.new_person(np.array([row]))
            rows.say(row, moved(rows, row, new), new, line.text)


def call(people: People) -> None:
    """Name identities as lines say."""
    rows = people.rows
    for lines in _named(people).values():
        for row, line in lines:
            identity = int(rows.identity_R[row])
            rows.call(identity, line.b)
            rows.say(row, rows.decision_of(row), identity, line.text)
