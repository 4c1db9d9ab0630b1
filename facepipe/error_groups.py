"""Error rates of groups of people at one threshold for all, each with its interval.

FNMR of a group is over its matched pairs, FMR over mismatched pairs of two of its people:
strangers of one's own group are the ones that a threshold tells apart worst (Grother, Ngan
and Hanaoka 2019, NISTIR 8280). One threshold, found on all pairs, is what a system runs with;
a threshold for each group would hide the difference.

Legend: P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from facepipe.bootstrap import CONFIDENCE, SAMPLES, Interval, share_interval

# Without one error, 95 % of Wilson's interval reaches up to 3.84 / (30 + 3.84) = 11 %; with
# fewer people nothing worth saying is excluded.
MIN_PEOPLE = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupErrors:
    """What one threshold does to the people of a group."""

    group: str
    people: int  # on its matched pairs
    matched: int
    mismatched: int  # both people of the group
    fnmr: Interval
    fmr: Interval
    unsupported: tuple[str, ...]  # why a rate of it says little; empty: both are supported


def group_errors(
    similarities_P: npt.ArrayLike,
    same_P: npt.ArrayLike,
    groups_P2: npt.ArrayLike,
    people_P2: npt.ArrayLike,
    threshold: float,
    *,
    fmr: float,
    samples: int = SAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> list[GroupErrors]:
    """Return the error rates of each group, by name.

    A pair matches at similarity >= threshold; NaN (no face) is wrong either way. groups_P2:
    names of the groups of both sides, "" where not known; people_P2: whole numbers. Pairs of
    two groups are in neither. ``fmr`` is the rate that the threshold was set for: a group with
    fewer than 1 / fmr mismatched pairs cannot show it. Raises ValueError for shapes that
    differ.
    """
    score_P, matched_P = np.asarray(similarities_P, np.float64), np.asarray(same_P, bool)
    group_P2, person_P2 = np.asarray(groups_P2, str), np.asarray(people_P2)
    sides = (len(score_P), 2)
    if matched_P.shape != score_P.shape or not group_P2.shape == person_P2.shape == sides:
        raise ValueError(
            f"{score_P.shape} pairs, {group_P2.shape} groups, {person_P2.shape} people"
        )
    accepted_P = score_P >= threshold
    missing_P = np.isnan(score_P)
    options = {"samples": samples, "seed": seed}
    found = []
    for name in sorted({*group_P2.ravel().tolist()} - {""}):
        own_P = (group_P2 == name).all(axis=1)
        genuine_P, stranger_P = own_P & matched_P, own_P & ~matched_P
        people = len(np.unique(person_P2[genuine_P]))
        strangers = int(stranger_P.sum())
        missed = ~accepted_P[genuine_P]
        alarmed = (accepted_P | missing_P)[stranger_P]
        found.append(
            GroupErrors(
                group=name,
                people=people,
                matched=int(genuine_P.sum()),
                mismatched=strangers,
                fnmr=share_interval(missed, person_P2[genuine_P], confidence=confidence, **options),
                fmr=share_interval(
                    alarmed, person_P2[stranger_P], confidence=confidence, **options
                ),
                unsupported=_unsupported(people, strangers, fmr),
            )
        )
    return found


def _unsupported(people: int, mismatched: int, fmr: float) -> tuple[str, ...]:
    reasons = []
    if people < MIN_PEOPLE:
        reasons.append(f"FNMR of {people} people, under {MIN_PEOPLE}")
    if mismatched * fmr < 1 - 1e-9:
        reasons.append(f"{mismatched} mismatched pairs cannot show a FMR of {fmr:g}")
    return tuple(reasons)
