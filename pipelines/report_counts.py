"""The counts of the report: what became of every photo, and the funnel down to kept faces.

A level of the funnel is the one before it less its losses, each with its reason: whatever
goes in is seen to come out somewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from facepipe.schema import PhotoStatus, Reason
from facepipe.shards import Dataset
from pipelines.report_faces import FaceRows, Stage
from pipelines.report_figures import percent
from pipelines.report_sheets import anchor_of, title_of
from pipelines.report_shots import place_of, shown

FAILURE_ROWS = 50
ERROR_CHARS = 300
_WITH_PIXELS = {PhotoStatus.OK, PhotoStatus.SALVAGED}
_MEANINGS: dict[str, str] = {
    PhotoStatus.TRUNCATED: "Cut short; decode.truncated refuses such files.",
    PhotoStatus.CORRUPT: "Images by their first bytes, but no decoder can read them.",
    PhotoStatus.NOT_AN_IMAGE: "No image format that facepipe reads.",
    PhotoStatus.TOO_LARGE: "Over decode.max_pixels or decode.max_file_bytes.",
    PhotoStatus.UNREADABLE: "The file itself could not be read.",
    PhotoStatus.CRASHED: "Decoding killed or hung a worker, also when tried alone.",
}
_KEPT = {
    Reason.SAME_PERSON: "agree with their label",
    Reason.SINGLE: "the only face of their label",
    Reason.NO_DOMINANT: "in doubt: pairs that disagree",
    Reason.UNLABELLED: "without a label",
    Reason.OTHER_IDENTITY: "moved to another label",
    Reason.MERGED: "of a label that is another's person",
    Reason.CLUSTERED: "found together, without a label",
    Reason.SAID: "as a person said",
}


@dataclass(slots=True, kw_only=True)
class Photos:
    """Counts of PHOTOS, and a few of those that gave no pixels."""

    statuses: Counter[str] = field(default_factory=Counter)
    without_face: int = 0
    root: str = ""
    failed: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # first by path

    @property
    def listed(self) -> int:
        """Return how many photos there are, with or without pixels."""
        return self.statuses.total()

    @property
    def with_pixels(self) -> int:
        """Return how many could be decoded."""
        return sum(n for status, n in self.statuses.items() if status in _WITH_PIXELS)

    @property
    def salvaged(self) -> int:
        """Return how many of those are damaged."""
        return self.statuses[PhotoStatus.SALVAGED]

    def add_failed(self, rows: list[dict[str, Any]]) -> None:
        """Remember rows without pixels, the first of each status."""
        for row in rows:
            self.failed.setdefault(row["status"], []).append(row)
        for status, failed in self.failed.items():
            failed.sort(key=lambda row: (row["uri"], row["member"] or ""))
            self.failed[status] = failed[:FAILURE_ROWS]


def read_photos(dataset: Dataset) -> Photos:
    """Read PHOTOS shard by shard; only counts and the first failures stay."""
    photos = Photos()
    ends: list[str] = []
    for file in dataset.files("photos"):
        table = dataset.read(file, ["uri", "member", "faces", "status", "error"])
        if table.num_rows == 0:
            continue
        photos.statuses.update(table["status"].to_pylist())
        pixels = pc.is_in(table["status"], value_set=pa.array(sorted(_WITH_PIXELS)))
        faceless = pc.and_(pixels, pc.equal(table["faces"], 0))
        photos.without_face += int(pc.sum(faceless).as_py() or 0)
        photos.add_failed(table.filter(pc.invert(pixels)).to_pylist())
        span = pc.min_max(table["uri"]).as_py()
        ends = [min([span["min"], *ends]), max([span["max"], *ends])]
    photos.root = _common_folder(*ends) if ends else ""
    return photos


def _common_folder(one: str, other: str) -> str:
    same = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))
    return one[: one.rfind("/", 0, same) + 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Some photos of a status without pixels: (path, error)."""

    status: str
    meaning: str
    count: int
    examples: tuple[tuple[str, str], ...]


def failures(photos: Photos) -> list[Failure]:
    """Return the statuses without pixels, most frequent first, FAILURE_ROWS examples in all."""
    ordered = sorted(photos.failed, key=lambda s: (-photos.statuses[s], s))
    found, left = [], FAILURE_ROWS
    for i, status in enumerate(reversed(ordered)):  # the rare ones leave room for the frequent
        quota = left // (len(ordered) - i)
        chosen = photos.failed[status][:quota]
        left -= len(chosen)
        examples = [
            (place_of(row, photos.root), shown(row["error"], ERROR_CHARS)) for row in chosen
        ]
        found.append(
            Failure(
                status=status.replace("_", " "),
                meaning=_MEANINGS.get(status, ""),
                count=photos.statuses[status],
                examples=tuple(examples),
            )
        )
    return found[::-1]


# -- the funnel --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A part of a level that the next one does not have."""

    text: str
    count: int
    anchor: str
    left_percent: float
    width_percent: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One bar of the funnel: what is left, and what was lost to get there."""

    name: str
    before: int
    count: int
    width_percent: float
    losses: tuple[Loss, ...]
    note: str = ""


def _level(
    name: str, whole: int, before: int, losses: list[tuple[str, int, str]], note: str = ""
) -> Level:
    count = before - sum(n for _, n, _ in losses)
    drawn, left = [], count
    for text, n, anchor in losses:
        where, width = percent(left, whole), percent(n, whole)
        drawn.append(
            Loss(text=text, count=n, anchor=anchor, left_percent=where, width_percent=width)
        )
        left += n
    return Level(
        name=name,
        before=before,
        count=count,
        width_percent=percent(count, whole),
        losses=tuple(drawn),
        note=note,
    )


def funnel(
    photos: Photos, faces: FaceRows, settings: Mapping[str, Any], problems: Mapping[str, str]
) -> dict[str, list[Level]]:
    """Return the levels of photos and of faces; each level's losses make up the difference."""
    listed = photos.listed
    failed = [
        (s.replace("_", " "), n, "failures")
        for s, n in sorted(photos.statuses.items(), key=lambda pair: (-pair[1], pair[0]))
        if s not in _WITH_PIXELS
    ]
    no_face = [("no face found", photos.without_face, "")] if photos.without_face else []
    salvaged = f"{photos.salvaged:,} of them damaged, and salvaged" if photos.salvaged else ""
    by_photo = [
        _level("Photos listed", listed, listed, []),
        _level("with pixels", listed, listed, failed, salvaged),
        _level("with a face", listed, photos.with_pixels, no_face),
    ]
    levels = [_level("Faces found", len(faces), len(faces), [])]
    names = {
        Stage.QUALITY: ("fit for use", ""),
        Stage.DUPLICATE: ("not seen before", _note(problems, "dedup")),
        Stage.VECTOR: ("with a vector", ""),
        Stage.CLEAN: ("left so far" if "clean" in problems else "kept", _note(problems, "clean")),
    }
    for stage, (name, note) in names.items():
        losses = _losses(faces, stage, settings)
        if stage is Stage.VECTOR and not losses:
            continue
        levels.append(_level(name, len(faces), levels[-1].count, losses, note))
    return {"photos": by_photo, "faces": levels}


def _losses(
    faces: FaceRows, stage: Stage, settings: Mapping[str, Any]
) -> list[tuple[str, int, str]]:
    return [
        (
            title_of(fate, settings)[0].removeprefix("Dropped: "),
            count,
            "duplicates" if stage is Stage.DUPLICATE else anchor_of(fate),
        )
        for fate, count in faces.counts().items()
        if fate.stage is stage
    ]


def _note(problems: Mapping[str, str], step: str) -> str:
    return f"facepipe {step} {problems[step]}" if step in problems else ""


def kept_reasons(faces: FaceRows) -> list[tuple[str, int, str]]:
    """Return why faces were kept, in words, with their count and their sheet's anchor."""
    words = {str(reason): text for reason, text in _KEPT.items()}
    return [
        (
            words.get(fate.reason, "not compared with their label yet"),
            count,
            "moves" if fate.reason == Reason.OTHER_IDENTITY else anchor_of(fate),
        )
        for fate, count in faces.counts().items()
        if fate.stage is Stage.KEPT
    ]
