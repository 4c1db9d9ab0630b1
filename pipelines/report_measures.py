"""What the report shows of numbers: similarities, measures of quality, time per step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from facepipe.commits import Commit
from facepipe.schema import Decision, FaceStatus, Reason
from facepipe.shards import Dataset
from pipelines.report_faces import FaceRows
from pipelines.report_figures import (
    Axis,
    Group,
    Histogram,
    Line,
    histogram,
    number,
    percent,
    round_to,
)
from pipelines.stage import total_seconds

STEPS = ("detect", "embed", "dedup", "clean")
COLOURS = 8  # of the parts in the bars of time


def similarity_figure(faces: FaceRows, threshold: float | None) -> Histogram | None:
    """Return cosines to the others of the label: of the faces that stayed, and of the dropped."""
    similarity_N = faces.numbers("decisions.similarity")
    kept_N = faces.equal("decisions.decision", Decision.KEEP)
    dropped_N = faces.equal("decisions.decision", Decision.DROP)
    dropped_N &= faces.equal("decisions.reason", Reason.OUTLIER, Reason.NO_DOMINANT)
    axis = Axis(title="Similarity to the other faces of the label", unit="cosine")
    groups = [
        Group(name="kept", colour="kept", values_N=similarity_N[kept_N]),
        Group(name="dropped", colour="dropped", values_N=similarity_N[dropped_N]),
    ]
    lines = [] if threshold is None else [Line(name="threshold", value=threshold)]
    return histogram(axis, groups, lines)


_MEASURES = (
    (
        "det_score",
        Axis(title="Detector score", unit="0 to 1", high=1.0),
        (("min_det_score", 1),),
    ),
    (
        "eye_distance_px",
        Axis(title="Eye distance", unit="px in the photo, log scale", log=True),
        (("min_eye_distance_px", 1),),
    ),
    (
        "sharpness",
        Axis(title="Sharpness", unit="variance of the Laplacian, log scale", log=True),
        (("min_sharpness", 1),),
    ),
    (
        "yaw_deg",
        Axis(title="Yaw", unit="degrees, to the viewer's right", low=-90.0, high=90.0, step=30.0),
        (("max_yaw_deg", 1), ("max_yaw_deg", -1)),
    ),
    (
        "pitch_deg",
        Axis(title="Pitch", unit="degrees, upwards", low=-90.0, high=90.0, step=30.0),
        (("max_pitch_deg", 1), ("max_pitch_deg", -1)),
    ),
    (
        "roll_deg",
        Axis(title="Roll", unit="degrees, clockwise", low=-180.0, high=180.0, step=60.0),
        (("max_roll_deg", 1), ("max_roll_deg", -1)),
    ),
    (
        "brightness",
        Axis(title="Brightness", unit="mean grey level", low=0.0, high=255.0),
        (("min_brightness", 1), ("max_brightness", 1)),
    ),
)


def measure_figures(faces: FaceRows, settings: Mapping[str, Any]) -> list[Histogram]:
    """Return a histogram of each measure: of faces fit for use, and of marked ones below."""
    fit_N = faces.equal("status", FaceStatus.OK)
    figures = []
    for column, axis, limits in _MEASURES:
        value_N = faces.numbers(column)
        groups = [
            Group(name="fit for use", colour="kept", values_N=value_N[fit_N]),
            Group(name="marked", colour="dropped", values_N=value_N[~fit_N]),
        ]
        lines = [
            Line(name="limit", value=sign * float(settings[name]))
            for name, sign in limits
            if settings.get(name)
        ]
        drawn = histogram(axis, groups, lines)
        figures += [drawn] if drawn else []
    return figures


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """How long a step took, by part: (name, seconds, percent of the longest step, colour)."""

    step: str
    seconds: float
    rate: str
    parts: tuple[tuple[str, float, float, int], ...]


def step_times(dataset: Dataset) -> list[StepTime]:
    """Return the time of each committed step, in the order of the steps."""
    order = {name: i for i, name in enumerate(STEPS)}
    names = sorted(dataset.steps(), key=lambda s: (order.get(s.partition("-")[0], len(order)), s))
    commits = {name: dataset.commits(name) for name in names}
    seconds = {name: total_seconds(c) for name, c in commits.items() if c}
    longest = max((sum(parts.values()) for parts in seconds.values()), default=0.0)
    ordered = {name: sorted(p.items(), key=lambda p: (-p[1], p[0])) for name, p in seconds.items()}
    words = list(dict.fromkeys(part for parts in ordered.values() for part, _ in parts))
    return [
        StepTime(
            step=name.replace("-", " ", 1),
            seconds=sum(parts.values()),
            rate=_rate(name, commits[name], sum(parts.values())),
            parts=tuple(
                (part, s, percent(s, longest), words.index(part) % COLOURS)
                for part, s in ordered[name]
            ),
        )
        for name, parts in seconds.items()
    ]


def _rate(step: str, commits: Sequence[Commit], seconds: float) -> str:
    """Return photos or faces a second of one worker."""
    table, what = ("photos", "photos") if step == "detect" else (None, "faces")
    rows = sum(f.rows for c in commits for f in c.files if table in (None, f.table))
    return f"{number(round_to(rows / seconds, 3))} {what}/s" if rows and seconds > 0 else ""
