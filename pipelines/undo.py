"""Takes decisions back: a person's word in the dataset's list, which clean then obeys."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from facepipe.config import Settings
from facepipe.constraint_lines import LABEL, Kind, Said
from facepipe.constraints import Constraints, label_rules
from facepipe.errors import UsageError
from facepipe.schema import FACES, Decision, Reason
from facepipe.shards import Dataset
from pipelines.constraints import own_labels, read_constraints, store_constraints

_PLACE = ("face_id", "uri", "member")
_COLUMNS = (*_PLACE, "source_label", "decision", "reason", "evidence")
_WHOLE = re.compile(r"[0-9a-f]{32}-[0-9]{4,9}")
_START = re.compile(r"[0-9a-f]{1,32}(-[0-9]{0,9})?")
_SEPARATELY = 50  # ids: more of them are looked up by whole ids alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which decisions: those that meet everything that is given."""

    faces: Sequence[str] = ()  # ids, or their starts
    generation: int | None = None  # of the run that brought the photos
    reason: str | None = None
    label: str | None = None
    said: bool = False  # forget what was said, and say nothing new


@dataclass(slots=True, kw_only=True)
class Undo:
    """What taking decisions back means for the list."""

    taken_back: Counter[str] = field(default_factory=Counter)  # "decision reason" -> rows
    left: Counter[str] = field(default_factory=Counter)  # why -> rows
    added: list[Said] = field(default_factory=list)
    removed: list[Said] = field(default_factory=list)
    lines: int = 0  # in the list afterwards

    def as_json(self) -> dict[str, Any]:
        """Return it as --json prints it."""
        return {
            "taken_back": dict(sorted(self.taken_back.items())),
            "left": dict(sorted(self.left.items())),
            "added": [line.text for line in self.added],
            "removed": [line.text for line in self.removed],
            "lines": self.lines,
        }


def plan_undo(dataset: Dataset, choice: Choice) -> Undo:
    """Return what taking decisions back would add to the list and remove; writes nothing.

    A face that was dropped, moved or called a duplicate is to be kept under its label. Labels
    that were merged are to be two people. Where a person decided, or a person's line does not
    agree with that, the line goes instead. Raises UsageError for a choice that is none, or that
    contradicts lines of others, and DatasetNotFound before clean has run.
    """
    return _plan(dataset, choice, read_constraints(dataset))


def undo(dataset: Dataset, choice: Choice) -> Undo:
    """Take decisions back in the list; the next run of clean obeys it.

    Raises what `plan_undo` does, and StoreError where another run has the dataset.
    """
    with dataset.held():
        before = read_constraints(dataset)
        plan = _plan(dataset, choice, before)
        if plan.added or plan.removed:
            store_constraints(dataset, before.without(plan.removed).added(plan.added))
    return plan


def settings_as_run(dataset: Dataset) -> Settings:
    """Return the settings that clean ran with, so that it changes nothing but what was said."""
    plan = dataset.plan("clean")
    basis = plan.basis if plan else {}
    given = {k: v for k, v in basis.items() if k in Settings.model_fields}
    try:
        return Settings.model_validate({k: v for k, v in given.items() if isinstance(v, Mapping)})
    except ValidationError:  # of another version, whose decisions would not be the same anyway
        return Settings()


def _plan(dataset: Dataset, choice: Choice, before: Constraints) -> Undo:
    rows = _chosen(dataset, choice)
    found = Undo()
    known, of_face, of_label = set(before.lines), _by_face(before), _by_label(before)
    add: dict[Said, list[Said]] = {}  # with the lines on the same face or labels
    remove: dict[Said, None] = {}
    if choice.said:
        for face in choice.faces:
            remove |= dict.fromkeys(of_face.get(face, ()))
        if choice.label is not None:
            remove |= dict.fromkeys(of_label.get(choice.label, ()))
    for row in rows:
        what = f"{row['decision']} {row['reason']}"
        own = of_face.get(row["face_id"], [])
        if row["reason"] == Reason.SAID and not own:
            own = of_label.get(row["source_label"], [])
        if choice.said or row["reason"] == Reason.SAID:
            remove |= dict.fromkeys(own)
            (found.taken_back if own else found.left)[what if own else "nothing said"] += 1
            continue
        why = _stays(row)
        if why:
            found.left[why] += 1
            continue
        line = _against(row)
        if line not in add:
            of_labels = [one for label in line.labels for one in of_label.get(label, ())]
            add[line] = of_labels if line.labels else own
        found.taken_back[what] += 1
    wanted = {line: own for line, own in add.items() if line not in known}
    found.added = _agreeing(dataset, before, wanted, remove)
    found.removed = [line for line in before.lines if line in remove]
    found.lines = len(before.without(found.removed).added(found.added).lines)
    return found


def _agreeing(
    dataset: Dataset,
    before: Constraints,
    wanted: Mapping[Said, Sequence[Said]],
    remove: dict[Said, None],
) -> list[Said]:
    """Return the wanted lines that the list can take; instead of the others own lines go.

    Raises UsageError, naming the lines, where others than its own contradict a wanted line.
    """
    if not wanted:
        return []
    faces = {face for line in (*before.lines, *wanted) for face in line.faces}
    labels = own_labels(dataset, sorted(faces), "decisions")

    def agrees(lines: Sequence[Said], without: Sequence[Said] = ()) -> bool:
        try:
            label_rules(before.without([*remove, *without]).added(lines), labels)
        except UsageError:
            return False
        return True

    if agrees(list(wanted)):
        return list(wanted)
    added: list[Said] = []
    for line, own in wanted.items():
        if not own or agrees([*added, line]):  # where nothing was said nothing is contradicted
            added.append(line)
        else:
            gone = next(([one] for one in own if agrees([*added, line], [one])), own)
            remove |= dict.fromkeys(gone)
    label_rules(before.without(remove).added(added), labels)  # raises
    return added


def _stays(row: Mapping[str, Any]) -> str:
    """Return why a decision cannot be taken back, empty where it can."""
    if row["decision"] == Decision.KEEP:
        return "kept already"
    if row["reason"] == Reason.SAME_BYTES:
        return "another copy of a kept file"
    if row["reason"] == Reason.NO_VECTOR:
        return "no vector"
    return ""


def _against(row: Mapping[str, Any]) -> Said:
    merged = row["decision"] == Decision.MERGE and row["source_label"] and row["evidence"]
    if merged and row["source_label"] != row["evidence"]:
        return Said(Kind.DIFFERENT, LABEL + row["source_label"], LABEL + row["evidence"])
    return Said(Kind.KEEP, row["face_id"])


def _by_face(constraints: Constraints) -> dict[str, list[Said]]:
    found: dict[str, list[Said]] = {}
    for line in constraints.lines:
        for face in line.faces:
            found.setdefault(face, []).append(line)
    return found


def _by_label(constraints: Constraints) -> dict[str | None, list[Said]]:
    found: dict[str | None, list[Said]] = {}
    for line in constraints.lines:
        for label in line.labels:
            found.setdefault(label, []).append(line)
    return found


# -- which rows ------------------------------------------------------------------------------


def _chosen(dataset: Dataset, choice: Choice) -> list[dict[str, Any]]:
    """Return the rows of DECISIONS that are chosen; only those are in memory."""
    wanted: list[pc.Expression] = []
    if choice.reason is not None:
        reason = choice.reason.replace(" ", "_")  # as facepipe why and the report print it
        if reason not in set(Reason):
            raise UsageError(f"--reason {choice.reason} is none: it is one of {', '.join(Reason)}")
        wanted.append(pc.field("reason") == reason)
    if choice.label is not None:
        wanted.append(pc.field("source_label") == choice.label)
    brought = None
    if choice.generation is not None:
        brought = _of_generation(dataset, choice.generation)
        wanted.append(pc.field("face_id").isin(brought["face_id"].combine_chunks()))
    if choice.faces:
        wanted.append(_of_faces(choice.faces))
    if not wanted:
        raise UsageError("say what to take back: face ids, --run, --reason or --label")
    chosen = wanted[0]
    for one in wanted[1:]:
        chosen &= one
    rows: list[dict[str, Any]] = (
        dataset.scan("decisions").to_table(columns=list(_COLUMNS), filter=chosen).to_pylist()
    )
    if brought is not None:  # a face may lie in photos of other runs too
        places = {tuple(row.values()) for row in brought.to_pylist()}
        rows = [row for row in rows if tuple(row[name] for name in _PLACE) in places]
    _check_found(dataset, choice, rows)
    return sorted(rows, key=lambda r: (r["face_id"], r["decision"], r["source_label"] or ""))


def _of_faces(faces: Sequence[str]) -> pc.Expression:
    for face in faces:
        if not _START.fullmatch(face):
            raise UsageError(f"{face!r} is no face id: facepipe why DATASET PHOTO prints them")
    if all(map(_WHOLE.fullmatch, faces)):
        return pc.field("face_id").isin(pa.array(faces))
    if len(faces) > _SEPARATELY:
        raise UsageError(f"{len(faces)} faces: give whole face ids, or --run, --reason, --label")
    chosen = pc.starts_with(pc.field("face_id"), faces[0])
    for face in faces[1:]:
        chosen |= pc.starts_with(pc.field("face_id"), face)
    return chosen


def _of_generation(dataset: Dataset, generation: int) -> pa.Table:
    """Return where the faces are that a run brought."""
    commits = dataset.commits("detect")
    numbers = sorted({int(c.facts["generation"]) for c in commits if "generation" in c.facts})
    if generation not in numbers:
        known = f"{numbers[0]} to {numbers[-1]}" if numbers else "none"
        raise UsageError(f"--run {generation}: no photos of {dataset.uri} came so; known: {known}")
    files = [f for c in commits if c.facts.get("generation") == generation for f in c.files]
    places = [dataset.read(f, list(_PLACE)).select(_PLACE) for f in files if f.table == "faces"]
    return pa.concat_tables([FACES.empty_table().select(_PLACE), *places])


def _check_found(dataset: Dataset, choice: Choice, rows: Sequence[Mapping[str, Any]]) -> None:
    """Raise UsageError where a face or label is not there, or a face is more than one."""
    if choice.label is not None and not rows and not choice.said:
        labelled = pc.field("source_label") == choice.label
        if not dataset.scan("decisions").count_rows(filter=labelled):
            raise UsageError(
                f"no face in {dataset.uri} came under the label {choice.label!r}: facepipe why "
                "DATASET PHOTO prints the label of each face of a photo"
            )
    ids = sorted({row["face_id"] for row in rows})
    for face in choice.faces:
        found = [i for i in ids if i.startswith(face)]
        if len(found) > 1:
            raise UsageError(f"{len(found)} faces have an id that starts with {face!r}")
        if not found and not choice.said and len(choice.faces) == len(_given(choice)):
            raise UsageError(f"no face in {dataset.uri} has an id that starts with {face!r}")


def _given(choice: Choice) -> list[object]:
    """Return all that narrows a choice."""
    others = (choice.generation, choice.reason, choice.label)
    return [*choice.faces, *(o for o in others if o is not None)]


def format_undo(found: Undo) -> str:
    """Return what was done, or would be, as text."""
    lines = []
    if found.taken_back:
        lines.append(f"taken back: {_counted(found.taken_back)}")
    elif found.removed:
        lines.append(f"forgotten: {len(found.removed)} lines of what was said")
    else:
        lines.append("nothing to take back")
    if found.left:
        lines.append(f"left as it is: {_counted(found.left)}")
    lines.append(
        f"the list: {len(found.added)} lines more, {len(found.removed)} fewer, {found.lines} in all"
    )
    return "\n".join(lines)


def _counted(counts: Counter[str]) -> str:
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{n:,} {words.replace('_', ' ')}" for words, n in ordered)
