"""What was decided about a file of the demo, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from facepipe.schema import Decision, FaceStatus, PhotoStatus, Reason
from pipelines.demo_files import Expected, Made

PIXELS = {PhotoStatus.OK, PhotoStatus.SALVAGED}
_KEPT = {Decision.KEEP, Decision.MERGE}


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFace:
    """A face of a file, and what was decided about it."""

    face_id: str
    box_px: tuple[float, float, float, float]
    status: str
    eye_distance_px: float
    label: str | None
    decision: str
    reason: str
    identity: str | None
    evidence: str  # the file that decided, empty where none did
    similarity: float | None

    @property
    def kept(self) -> bool:
        """Return whether it stays, under whatever name."""
        return self.decision in _KEPT or self.decision == Decision.RELABEL


def said(
    made: Made, row: Mapping[str, Any], faces: Sequence[FoundFace], face: FoundFace | None
) -> str:
    """Return what became of a file, as a sentence without its end."""
    if row["status"] not in PIXELS:
        return f"no pixels: {str(row['status']).replace('_', ' ')} ({row['error']})"
    salvaged = "damaged, and salvaged; " if row["status"] == PhotoStatus.SALVAGED else ""
    if face is None:
        return f"{salvaged}no face found"
    if made.expected is Expected.NAMED:
        kept = Counter(_group_word(f) for f in faces)
        return f"{len(faces)} faces: " + ", ".join(f"{n} {what}" for what, n in kept.items())
    return salvaged + face_words(face)


def _group_word(face: FoundFace) -> str:
    """Return what is said of one face of the group photo."""
    if face.decision == Decision.DUPLICATE:
        return "known from a cut-out, so named after it"
    return "kept without a name" if face.kept else "left out"


def face_words(face: FoundFace) -> str:
    """Return a decision and its reason as a sentence without its end."""
    cosine = "" if face.similarity is None else f" (cosine {round(face.similarity, 2) + 0.0:.2f})"
    who = face.identity or "nobody"
    if face.status != FaceStatus.OK and face.decision == Decision.DROP:
        return _MARKED.get(face.status, f"left out: {face.status.replace('_', ' ')}").format(
            eyes=face.eye_distance_px
        )
    if face.decision == Decision.DUPLICATE:
        return f"{_COPY.get(face.reason, 'a duplicate of')} {face.evidence}{cosine}"
    if face.decision == Decision.RELABEL:
        return f"moved from {face.label} to {who}{cosine}"
    if face.decision == Decision.MERGE:
        return f"kept as {who}: {face.label} is the same person{cosine}"
    words = _WORDS.get((face.decision, face.reason))
    if words is None:
        return f"{face.decision}: {face.reason.replace('_', ' ')}{cosine}"
    return words.format(who=who, label=face.label) + cosine


_MARKED: dict[str, str] = {
    FaceStatus.SMALL: "left out: too small, eyes {eyes:.0f} pixels apart",
    FaceStatus.DARK: "left out: too dark",
    FaceStatus.BRIGHT: "left out: too bright",
    FaceStatus.PROFILE: "left out: turned away",
    FaceStatus.LOW_SCORE: "left out: the detector is not sure enough",
    FaceStatus.CUT_OFF: "left out: cut off by the edge",
}
_COPY: dict[str, str] = {
    Reason.SAME_BYTES: "the same file as",
    Reason.SAME_PICTURE: "the same picture as",
    Reason.SAME_CROP: "the same picture of the face as in",
}
_WORDS: dict[tuple[str, str], str] = {
    (Decision.KEEP, Reason.SAME_PERSON): "kept: agrees with the other faces of {who}",
    (Decision.KEEP, Reason.SINGLE): "kept: the only usable face of {label}",
    (Decision.KEEP, Reason.UNLABELLED): "kept without a name: no label to compare it with",
    (Decision.KEEP, Reason.CLUSTERED): "kept without a name, as one person with others without one",
    (Decision.KEEP, Reason.NO_DOMINANT): "kept in doubt: two faces that disagree",
    (Decision.DROP, Reason.OUTLIER): "dropped: does not agree with the faces of {label}, nor with "
    "those of another label",
    (Decision.DROP, Reason.NO_DOMINANT): "dropped: no person is dominant in {label}",
    (Decision.DROP, Reason.NO_VECTOR): "dropped: the recogniser gave nothing usable",
}
