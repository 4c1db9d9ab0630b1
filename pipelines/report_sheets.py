"""Contact sheets of the report: for each fate, some of the faces that met it.

Faces are named by their row in `pipelines.report_faces.FaceRows`. Those nearest to the other
side come first, ties by row, so that the same dataset always gives the same sheets.
Legend: R rows of a sheet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facepipe.schema import FaceStatus, Reason
from pipelines.report_faces import UNDECIDED, FaceRows, Fate, Int64, Stage

SHEET_FACES = 40

Settings = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """Faces in a row, with what they have in common."""

    caption: str
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """Faces that met one fate."""

    anchor: str
    title: str
    meaning: str
    count: int
    strips: tuple[Strip, ...]


_TITLES = {
    (Stage.KEPT, Reason.SAME_PERSON): ("Kept", "They agree with the other faces of their label."),
    (Stage.KEPT, Reason.UNLABELLED): ("Kept, unlabelled", "No label to compare them with."),
    (Stage.KEPT, Reason.SINGLE): (
        "Kept, the only face of the label",
        "There is no other usable face of the label to compare them with.",
    ),
    (Stage.KEPT, Reason.NO_DOMINANT): (
        "Kept in doubt",
        "The two faces of a label disagree, and nobody can say which of them is wrong.",
    ),
    (Stage.KEPT, Reason.MERGED): (
        "Kept, merged",
        "They agree with their label, and that is the person of another label too.",
    ),
    (Stage.KEPT, Reason.CLUSTERED): (
        "Kept, found together",
        "Without a label; they agree with other faces of one person.",
    ),
    (Stage.KEPT, Reason.SAID): ("Kept, as a person said", "Or moved, or named so."),
    (Stage.CLEAN, Reason.SAID): ("Dropped, as a person said", "By a line of the dataset's list."),
    (Stage.KEPT, UNDECIDED): ("Fit for use so far", "The labels have not been cleaned yet."),
    (Stage.CLEAN, Reason.OUTLIER): (
        "Dropped: another person",
        "They do not agree with the other faces of their label, and clearly belong to no "
        "other label either.",
    ),
    (Stage.CLEAN, Reason.NO_DOMINANT): (
        "Dropped: a label without a dominant person",
        "No two faces of the label agree, or it holds several people equally often.",
    ),
    (Stage.VECTOR, Reason.NO_VECTOR): ("No vector", "The recogniser gave nothing usable."),
    (Stage.DUPLICATE, Reason.SAME_BYTES): (
        "The same file again",
        "Byte for byte the same photo under another name.",
    ),
    (Stage.DUPLICATE, Reason.SAME_PICTURE): (
        "The same picture again",
        "Another file of the same picture: resized, recompressed, converted.",
    ),
    (Stage.DUPLICATE, Reason.SAME_CROP): (
        "The same picture of the face again",
        "In a photo that differs around it: cut, framed, part of a collage.",
    ),
}


def _quality_titles(settings: Settings) -> dict[str, tuple[str, str]]:
    """Return title and meaning of each mark, with the settings that the dataset was made with."""

    def limit(name: str, unit: str = "") -> str:
        return (
            f"{settings[name]:g}{unit} (quality.{name})" if name in settings else f"quality.{name}"
        )

    return {
        FaceStatus.BYSTANDER: (
            "Bystanders",
            "Not whom the photo's label means: that is the large, central face.",
        ),
        FaceStatus.LOW_SCORE: ("Low score", f"Detector's score under {limit('min_det_score')}."),
        FaceStatus.SMALL: (
            "Too small",
            f"Eyes less than {limit('min_eye_distance_px', ' px')} apart in the photo.",
        ),
        FaceStatus.CUT_OFF: (
            "Cut off",
            f"Share of the face inside the photo under {limit('min_inside_frame')}.",
        ),
        FaceStatus.PROFILE: (
            "Turned away",
            f"Yaw over {limit('max_yaw_deg', '°')}, pitch over {limit('max_pitch_deg', '°')} "
            f"or roll over {limit('max_roll_deg', '°')}.",
        ),
        FaceStatus.BLURRED: ("Blurred", f"Sharpness under {limit('min_sharpness')}."),
        FaceStatus.DARK: ("Too dark", f"Mean grey level under {limit('min_brightness')}."),
        FaceStatus.BRIGHT: ("Too bright", f"Mean grey level over {limit('max_brightness')}."),
    }


def title_of(fate: Fate, settings: Settings) -> tuple[str, str]:
    """Return what a fate is called and what it means."""
    words = fate.reason.replace("_", " ")
    if fate.stage is Stage.QUALITY:
        return _quality_titles(settings).get(fate.reason, (words.capitalize(), ""))
    known = {(stage, str(reason)): text for (stage, reason), text in _TITLES.items()}
    return known.get((fate.stage, fate.reason), (f"{fate.stage.capitalize()}: {words}", ""))


def anchor_of(fate: Fate) -> str:
    """Return the id of a fate's contact sheet in the page."""
    return f"{fate.stage}-{fate.reason}".replace("_", "-")


def contact_sheets(faces: FaceRows, settings: Settings, threshold: float | None) -> list[Sheet]:
    """Return a contact sheet for each fate, kept ones first; duplicates have their own section."""
    order = (Stage.KEPT, Stage.CLEAN, Stage.VECTOR, Stage.QUALITY)
    fates = [
        (fate, count)
        for stage in order
        for fate, count in faces.counts().items()
        if fate.stage is stage and fate.reason != Reason.OTHER_IDENTITY
    ]
    found = []
    for fate, count in fates:
        title, meaning = title_of(fate, settings)
        found.append(
            Sheet(
                anchor=anchor_of(fate),
                title=title,
                meaning=meaning,
                count=count,
                strips=_strips(faces, fate, settings, threshold),
            )
        )
    return found


def _strips(
    faces: FaceRows, fate: Fate, settings: Settings, threshold: float | None
) -> tuple[Strip, ...]:
    rows = faces.where(fate)
    if fate.stage is Stage.QUALITY:
        doubt_R, what = _quality_margin(faces, rows, fate.reason, settings), "Nearly fit first"
        if fate.reason == FaceStatus.BYSTANDER:
            what = "Largest first"
    elif np.isfinite(faces.numbers("decisions.similarity")[rows]).any():
        doubt_R, what = certainty(faces, rows, threshold), "Least certain first"
    else:
        doubt_R, what = faces.numbers("det_score")[rows], "Lowest detector score first"
    best = rows[np.lexsort((rows, doubt_R))][:SHEET_FACES]
    if len(rows) <= SHEET_FACES:
        return (Strip(caption=f"{what}.", rows=tuple(best.tolist())),)
    if fate.stage is not Stage.KEPT:
        return (Strip(caption=f"{what}: {SHEET_FACES} of {len(rows):,}.", rows=_ints(best)),)
    half = SHEET_FACES // 2
    rest = np.setdiff1d(rows, best[:half])
    spread = rest[np.arange(half) * len(rest) // half]  # face ids are hashes: an even sample
    return (
        Strip(caption=f"{what}: {half} of {len(rows):,}.", rows=_ints(best[:half])),
        Strip(caption=f"An even sample of the others: {half}.", rows=_ints(spread)),
    )


def _ints(rows: Int64) -> tuple[int, ...]:
    return tuple(rows.tolist())


def certainty(faces: FaceRows, rows: Int64, threshold: float | None) -> NDArray[np.float64]:
    """Return how sure each decision is: its probability, then its distance from the threshold."""
    sure_R = np.nan_to_num(faces.numbers("decisions.confidence")[rows], nan=1.0)
    similarity_R = faces.numbers("decisions.similarity")[rows]
    middle = 0.0 if threshold is None else threshold
    away_R = np.nan_to_num(np.abs(similarity_R - middle), nan=2.0)
    return np.round(sure_R, 6) + 1e-7 * away_R


def _quality_margin(
    faces: FaceRows, rows: Int64, status: str, settings: Settings
) -> NDArray[np.float64]:
    """Return how far each face is from passing, smallest first."""
    at_least = {
        FaceStatus.BYSTANDER: "eye_distance_px",
        FaceStatus.LOW_SCORE: "det_score",
        FaceStatus.SMALL: "eye_distance_px",
        FaceStatus.CUT_OFF: "inside_frame",
        FaceStatus.BLURRED: "sharpness",
        FaceStatus.DARK: "brightness",
    }
    if status in at_least:
        margin_R = -faces.numbers(at_least[FaceStatus(status)])[rows]
    elif status == FaceStatus.BRIGHT:
        margin_R = faces.numbers("brightness")[rows]
    else:
        over = [
            np.abs(faces.numbers(f"{angle}_deg")[rows]) - settings.get(f"max_{angle}_deg", 90.0)
            for angle in ("yaw", "pitch", "roll")
        ]
        margin_R = np.max(over, axis=0)
    return np.nan_to_num(margin_R, nan=np.inf)
