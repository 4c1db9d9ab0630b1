"""What became of each file of the demo, in words, and whether that is what was expected.

Nothing is judged here but agreement: the truth of a made file is how it was made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from facepipe.quality import labelled_face
from facepipe.schema import Decision, FaceStatus
from facepipe.shards import Dataset
from facepipe.sources import path_of
from pipelines.demo_files import GROUP_NAME, Expected, Made, labels_of
from pipelines.demo_originals import GROUP
from pipelines.demo_words import PIXELS, FoundFace, said

_FACE_COLUMNS = ["face_id", "uri", "box_xyxy_px", "det_score", "eye_distance_px", "status"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a file; ``face`` is the one that its label means, if any was found."""

    made: Made
    status: str
    error: str
    width_px: int
    height_px: int
    faces: tuple[FoundFace, ...]
    face: FoundFace | None
    said: str
    as_expected: bool

    @property
    def expected(self) -> str:
        """Return what the demo expected, in words."""
        return _EXPECTED[self.made.expected]


_EXPECTED = {
    Expected.KEPT: "kept, as the person who is on it",
    Expected.ONCE: "of the files of this picture one is kept, the others are its duplicates",
    Expected.MOVED: "moved to the label of the person who is on it",
    Expected.DROPPED: "dropped, since nobody who has a label is on it, or not found",
    Expected.NAMED: "six faces, each found to be the one that was cut out",
    Expected.LEFT_OUT: "not found, or dropped; if found, as the person who is on it",
    Expected.UNFIT: "marked as unfit for use, or not found",
    Expected.NO_FACE: "no face found",
    Expected.NO_PIXELS: "a row that says why there are no pixels",
}


def read_outcomes(dataset: Dataset, photos: Path, made: Sequence[Made]) -> list[Outcome]:
    """Return what a curated dataset says of each file below ``photos``, in the order given.

    A file that the dataset does not have is left out.
    """
    root = photos.resolve()
    rows = {_name(row["uri"], root): row for row in dataset.table("photos").to_pylist()}
    faces = _faces(dataset, root)
    seen = [
        _outcome(item, rows[item.name], faces.get(item.name, ()))
        for item in made
        if item.name in rows
    ]
    return judged(seen)


def _name(uri: str, root: Path) -> str:
    path = Path(path_of(uri))
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else uri


def _faces(dataset: Dataset, root: Path) -> dict[str, list[FoundFace]]:
    """Return the faces of each file, with their decisions."""
    decided = {(row["face_id"], row["uri"]): row for row in dataset.table("decisions").to_pylist()}
    stays: dict[str, str] = {}  # the file of each face that others are duplicates of
    for (face_id, uri), row in decided.items():
        if row["decision"] != Decision.DUPLICATE or face_id not in stays:
            stays[face_id] = _name(uri, root)
    found: dict[str, list[FoundFace]] = {}
    for row in dataset.table("faces", _FACE_COLUMNS).to_pylist():
        decision = decided[row["face_id"], row["uri"]]
        name = _name(row["uri"], root)
        evidence = stays.get(decision["evidence"] or "", "")
        found.setdefault(name, []).append(_face(row, decision, evidence))
    return found


def _face(row: Mapping[str, Any], decision: Mapping[str, Any], evidence: str) -> FoundFace:
    x1, y1, x2, y2 = row["box_xyxy_px"]
    return FoundFace(
        face_id=row["face_id"],
        box_px=(x1, y1, x2, y2),
        status=row["status"],
        eye_distance_px=row["eye_distance_px"],
        label=decision["source_label"],
        decision=decision["decision"],
        reason=decision["reason"],
        identity=decision["identity_id"],
        evidence=evidence,
        similarity=decision["similarity"],
    )


def _outcome(made: Made, row: Mapping[str, Any], faces: Sequence[FoundFace]) -> Outcome:
    width, height = row["width_px"] or 0, row["height_px"] or 0
    boxes = np.array([face.box_px for face in faces]).reshape(-1, 4)
    place = labelled_face(boxes, width, height)
    face = None if place is None else faces[place]
    return Outcome(
        made=made,
        status=row["status"],
        error=row["error"],
        width_px=width,
        height_px=height,
        faces=tuple(faces),
        face=face,
        said=said(made, row, faces, face),
        as_expected=False,  # not known before all are read
    )


# -- as expected? ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Truth:
    """What can be said only of all files together."""

    home: Mapping[str, str]  # the name that most of a person's kept faces have
    person_of: Mapping[str, str | None]  # of files
    picture_of: Mapping[str, str | None]
    kept_first: frozenset[str]  # of each picture's files, the first whose face is kept

    def right(self, outcome: Outcome) -> bool:
        """Return whether a kept face has the name of the person who is on it."""
        face, person = outcome.face, outcome.made.person
        if face is None or not face.kept or person is None:
            return False
        if outcome.made.label is None:  # nobody has to name it, but not after another
            others = set(self.home.values()) - labels_of(person)
            return face.identity not in others
        return face.identity is not None and face.identity == self.home.get(person)


def judged(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return outcomes with whether each is as expected, given all the others."""
    truth = _Truth(
        home=_homes(outcomes),
        person_of={o.made.name: o.made.person for o in outcomes},
        picture_of={o.made.name: o.made.picture for o in outcomes},
        kept_first=_kept_first(outcomes),
    )
    return [replace(o, as_expected=_AGREES[o.made.expected](o, truth)) for o in outcomes]


def _homes(outcomes: Iterable[Outcome]) -> dict[str, str]:
    counts: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        person, face = outcome.made.person, outcome.face
        if person is None or face is None or face.identity is None or not face.kept:
            continue
        if face.identity in labels_of(person):
            counts.setdefault(person, Counter())[face.identity] += 1
    return {
        person: min(found, key=lambda name: (-found[name], name))
        for person, found in counts.items()
    }


def _kept_first(outcomes: Iterable[Outcome]) -> frozenset[str]:
    first: dict[str, str] = {}
    for outcome in outcomes:
        made, face = outcome.made, outcome.face
        if made.expected is Expected.ONCE and made.picture and face is not None and face.kept:
            first.setdefault(made.picture, made.name)
    return frozenset(first.values())


def _copy_of_its_picture(outcome: Outcome, truth: _Truth) -> bool:
    face = outcome.face
    if face is None or face.decision != Decision.DUPLICATE:
        return False
    return (
        truth.picture_of.get(face.evidence) == outcome.made.picture
        or face.evidence == GROUP_NAME  # which it was cut out of
    )


def _once(outcome: Outcome, truth: _Truth) -> bool:
    if _copy_of_its_picture(outcome, truth):
        return True
    return outcome.made.name in truth.kept_first and truth.right(outcome)


def _named(outcome: Outcome, truth: _Truth) -> bool:
    """Return whether each sitter of the group is one of its faces, and that one's duplicate."""
    found = set()
    for face in outcome.faces:
        x1, y1, x2, y2 = face.box_px
        for sitter in GROUP.sitters:
            left, top, right, bottom = sitter.box_px
            here = left < (x1 + x2) / 2 < right and top < (y1 + y2) / 2 < bottom
            known = face.decision == Decision.DUPLICATE
            if here and known and truth.person_of.get(face.evidence) == sitter.name:
                found.add(sitter.name)
    return len(found) == len(GROUP.sitters) == len(outcome.faces)


_AGREES: dict[Expected, Callable[[Outcome, _Truth], bool]] = {
    Expected.KEPT: lambda o, truth: truth.right(o),
    Expected.ONCE: _once,
    Expected.MOVED: lambda o, truth: (
        truth.right(o) and o.face is not None and o.face.decision == Decision.RELABEL
    ),
    Expected.DROPPED: lambda o, _: o.face is None or o.face.decision == Decision.DROP,
    Expected.NAMED: _named,
    Expected.LEFT_OUT: lambda o, truth: (
        o.face is None
        or o.face.decision == Decision.DROP
        or _copy_of_its_picture(o, truth)
        or truth.right(o)
    ),
    Expected.UNFIT: lambda o, _: (
        o.face is None or (o.face.decision == Decision.DROP and o.face.status != FaceStatus.OK)
    ),
    Expected.NO_FACE: lambda o, _: o.status in PIXELS and not o.faces,
    Expected.NO_PIXELS: lambda o, _: o.status not in PIXELS,
}
