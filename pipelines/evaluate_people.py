"""Identification: each person's first picture enrolled, the others searched.

Who is on a picture is its label. The people of two or more pictures are enrolled with the
first by name and searched with the rest; the people of one picture are searched and enrolled
nowhere: they are the strangers of the open set. Legend: N pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from facepipe.det import require_supported, supported
from facepipe.errors import UsageError
from facepipe.identification import Searches, fnir_at_fpir, rank_k, search
from pipelines.evaluate_pairs import Resampling, finite
from pipelines.evaluate_sources import Source

Int = npt.NDArray[np.int64]

RANKS = (1, 5, 10)
FPIRS = (1e-1, 1e-2, 1e-3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """Which pictures are enrolled and which are searched."""

    person_N: Int  # -1 without a label
    enrolled: Int  # places of pictures
    searched: Int

    @property
    def strangers(self) -> int:
        """Return how many searches are for people who are not enrolled."""
        enrolled = self.person_N[self.enrolled]
        return int((~np.isin(self.person_N[self.searched], enrolled)).sum())


def assign_roles(source: Source) -> Roles:
    """Return who is enrolled and who is searched, from labels and names alone.

    Raises UsageError unless a person has two pictures.
    """
    labels = sorted({p.label for p in source.pictures if p.label is not None})
    number = {label: n for n, label in enumerate(labels)}
    person_N = np.array([number.get(p.label or "", -1) for p in source.pictures], np.int64)
    order = sorted(np.flatnonzero(person_N >= 0).tolist(), key=lambda n: source.pictures[n].path)
    counts = np.bincount(person_N[order], minlength=len(labels)) if order else np.zeros(0, int)
    enrolled: list[int] = []
    searched: list[int] = []
    seen: set[int] = set()
    for n in order:
        person = int(person_N[n])
        first = person not in seen
        seen.add(person)
        (enrolled if first and counts[person] > 1 else searched).append(n)
    if not enrolled:
        raise UsageError(
            f"--identify needs people with two pictures or more, and {source.name} has none: "
            "give a folder per person, or a dataset made with --labels folder"
        )
    return Roles(
        person_N=person_N,
        enrolled=np.array(enrolled, np.int64),
        searched=np.array(searched, np.int64),
    )


def identify(
    unit_ND: npt.NDArray[np.float64],
    roles: Roles,
    distractors_XD: npt.NDArray[np.float64] | None,
) -> Searches:
    """Search what is to be searched among the enrolled and the distractors."""
    return search(
        unit_ND[roles.searched],
        roles.person_N[roles.searched],
        unit_ND[roles.enrolled],
        roles.person_N[roles.enrolled],
        distractors_XD,
    )


def identification_result(
    searches: Searches,
    roles: Roles,
    distractors: int,
    fpirs: Sequence[float] | None,
    resampling: Resampling,
) -> dict[str, Any]:
    """Return rank-k and FNIR at FPIRs as numbers; ``fpirs`` None: `FPIRS` that are supported.

    Raises UsageError for a FPIR that the strangers cannot support.
    """
    options = {"samples": resampling.samples, "seed": resampling.seed}
    strangers = int((~searches.mated_N).sum())
    asked = tuple(f for f in FPIRS if f in supported(strangers)) if fpirs is None else tuple(fpirs)
    require_supported(asked, strangers, "FPIR")
    ranked = zip(RANKS, rank_k(searches, RANKS, **options), strict=True)
    points = fnir_at_fpir(searches, asked, **options) if asked else []
    return {
        "enrolled": len(roles.enrolled),
        "distractors": distractors,
        "searches": int(searches.mated_N.sum()),
        "strangers": strangers,
        "ranks": [
            {"rank": k, "rate": found.value, "interval_95": [found.low, found.high]}
            for k, found in ranked
        ],
        "fnir_at_fpir": [
            {
                "fpir": point.fpir,
                "fnir": point.fnir.value,
                "interval_95": [point.fnir.low, point.fnir.high],
                "measured_fpir": point.measured_fpir,
                "threshold": finite(point.threshold),
            }
            for point in points
        ],
        "fpirs_unsupported": [f for f in FPIRS if f not in supported(strangers)],
    }
