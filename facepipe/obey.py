"""The last pass of cleaning: decisions are made to agree with what a person said.

What a person says about a face is certain: reason ``said``, confidence 1, and as evidence the
other face, the label, or the line itself. What is said about a label as a whole changes who
its faces are, not how sure it is that each belongs there.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from facepipe.constraint_lines import Kind, Said
from facepipe.constraints import Constraints
from facepipe.decided_rows import NO_VECTOR, DecidedRows, Float32
from facepipe.obey_faces import (
    bring_back_named,
    bring_together,
    call,
    join_named,
    take_apart,
)
from facepipe.obey_people import People, join_labels, part_labels
from facepipe.schema import Decision

MAX_ROUNDS = 10  # labels that are taken apart may part faces that are one, and so on


@dataclass(frozen=True, slots=True, kw_only=True)
class Obeyed:
    """DECISIONS in which a person's list holds, but for the lines that were passed over."""

    table: pa.Table
    passed_over: tuple[Said, ...] = ()


def apply_constraints(
    decisions: pa.Table, constraints: Constraints, full_weight_R: Float32 | None = None
) -> Obeyed:
    """Return DECISIONS in which every line of a person's list holds; as many rows, in order.

    decisions: schema.DECISIONS, sorted by (face_id, uri, member). full_weight_R: float32, the
    weight each row has where it is certain; where not given, that of rows in use as it is by
    their confidence, and 1 for the others. Faces and labels that are not there are passed over.

    - ``drop``: drop. ``keep``: keep, or merge, with its label's identity; also of a duplicate,
      or of a face that went for its quality; not of one without a vector.
    - ``same`` of labels: one identity. ``different``: two; the smaller goes back to its name.
    - ``same`` with a face: of faces, the one that agrees less goes to where the other is;
      with a label, the face goes there. A duplicate stands for the face kept for it. A face
      that went for its quality stays away.
    - ``different`` of faces with one identity: where they are under two labels, these are two
      people again. Else the one that agrees less goes: to where a line says, or it is dropped.
    - ``name``: the identity that the face has is called so. Where another is, too, or has that
      name, the two are one. A face that was dropped from its label comes back alone.

    Lines that contradict others only since two faces were found to be one picture are passed
    over: of those whose face is the duplicate, in their order. Raises UsageError, naming the
    lines, where keeping a face contradicts another line.
    """
    if not constraints.lines:
        return Obeyed(table=decisions)
    rows = DecidedRows.of(decisions, constraints.faces, full_weight_R)
    _drop_and_keep(rows, constraints)
    people = People.of(rows, constraints)  # raises
    part_labels(people)
    join_labels(people)
    _settle(people, labels=True)
    bring_back_named(people)
    join_named(people)
    _settle(people, labels=False)  # names have just made one of two
    call(people)
    return Obeyed(table=rows.result(), passed_over=people.passed_over)


def _settle(people: People, *, labels: bool) -> None:
    """Bring together and take apart until nothing moves any more."""
    rows = people.rows
    for _ in range(MAX_ROUNDS):
        before = rows.identity_R.tobytes()
        bring_together(people)
        take_apart(people, labels=labels)
        if rows.identity_R.tobytes() == before:
            break


def _drop_and_keep(rows: DecidedRows, constraints: Constraints) -> None:
    for line in constraints.of_kind(Kind.DROP):
        row = rows.own_row(line.a)
        if row is not None:
            rows.say(row, Decision.DROP, -1, line.text)
    for line in constraints.of_kind(Kind.KEEP):
        row = rows.own_row(line.a)
        if row is None or rows.reason_R[row] == NO_VECTOR:
            continue
        label = int(rows.label_R[row])
        identity = int(rows.home_C[label]) if label >= 0 else int(rows.identity_R[row])
        at_home = label in (identity, -1)
        rows.say(row, Decision.KEEP if at_home else Decision.MERGE, identity, line.text)
        for other in rows.rows_of[line.a]:
            if other != row:
                rows.again(other, line.a)
