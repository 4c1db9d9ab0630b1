"""Measures: verification on pairs and how sure a share is; detection and clusterings too.

Average precision is in ``detection_score``, clusterings are in ``agreement``; all are
offered here. Legend: P pairs.

A pair one of whose photos has no face has the similarity NaN. It is never skipped: it is
wrong at every threshold (a matched pair not accepted, a mismatched pair accepted).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from facepipe.agreement import Agreement, bcubed, pairwise
from facepipe.detection_score import DetectionScore, average_precision, box_iou
from facepipe.errors import SourceNotFound, UsageError

__all__ = [
    "Agreement",
    "DetectionScore",
    "FoldAccuracy",
    "Pairs",
    "Roc",
    "TarAtFar",
    "average_precision",
    "bcubed",
    "best_threshold",
    "box_iou",
    "fold_accuracy",
    "pairwise",
    "parse_pairs",
    "picture_name",
    "read_pairs",
    "roc",
    "tar_at_far",
    "wilson_bounds",
    "wilson_interval",
]

Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]
Int = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Verification pairs: who against whom, the same person or not, and in which fold."""

    left: tuple[tuple[str, int], ...]  # person, number of the picture (from 1)
    right: tuple[tuple[str, int], ...]
    same_P: Bool
    fold_P: Int


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldAccuracy:
    """Accuracy of each fold with the threshold of all others, and their mean."""

    folds: Int  # the folds' numbers, rising
    accuracy: Float  # one a fold
    threshold: Float  # the threshold each fold was judged with
    right_P: Bool  # which pairs were judged right
    mean: float
    standard_error: float  # std with n - 1, over root n: what LFW's technical report asks for
    std: float  # with n: what insightface prints after "+-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Roc:
    """Operating points from strict to lax: a pair is accepted at similarity >= threshold."""

    threshold: Float
    far: Float  # accepted share of the mismatched pairs
    tar: Float  # accepted share of the matched pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class TarAtFar:
    """The best TAR whose measured FAR does not pass the one asked for."""

    tar: float
    far: float  # measured, <= the one asked for
    threshold: float
    impostors: int  # a FAR under 1 / impostors is not resolved by this data


def read_pairs(path: Path) -> Pairs:
    """Read a pairs file in the format of LFW's pairs.txt.

    Raises SourceNotFound for a file that cannot be read, UsageError for another format.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SourceNotFound(f"cannot read the pairs file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no text: give a pairs.txt in LFW's format") from error
    return parse_pairs(text, name=str(path))


def parse_pairs(text: str, *, name: str = "pairs") -> Pairs:
    """Parse LFW's pairs format: a header, then for each fold matched and mismatched pairs.

    Header: number of folds and of pairs of each kind a fold (one number: a single fold).
    Three fields, ``person a b``, are a matched pair; four, ``person a other b``, a
    mismatched one. Raises UsageError naming the line that breaks the format.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    header = lines[0].split() if lines else []
    if not all(part.isdigit() for part in header) or len(header) not in (1, 2):
        raise UsageError(f"{name}: the first line must be '<folds> <pairs a kind>'")
    folds, pairs = (1, int(header[0])) if len(header) == 1 else map(int, header)
    if len(lines) != 1 + 2 * folds * pairs or not folds * pairs:
        raise UsageError(
            f"{name}: {folds} folds of {pairs} matched and {pairs} mismatched pairs are "
            f"{2 * folds * pairs} lines, but {len(lines) - 1} follow the header"
        )
    left, right, same = [], [], []
    for place, line in enumerate(lines[1:]):
        first, second, matched = _parse_pair(line, f"{name}, pair {place + 1}")
        if matched != (place % (2 * pairs) < pairs):
            raise UsageError(f"{name}, pair {place + 1}: {line!r} has the wrong kind here")
        left.append(first)
        right.append(second)
        same.append(matched)
    fold_P = np.arange(len(same), dtype=np.int64) // (2 * pairs)
    return Pairs(left=tuple(left), right=tuple(right), same_P=np.array(same), fold_P=fold_P)


def _parse_pair(line: str, where: str) -> tuple[tuple[str, int], tuple[str, int], bool]:
    parts = line.split("\t") if "\t" in line else line.split()
    try:
        if len(parts) == 3:
            return (parts[0], int(parts[1])), (parts[0], int(parts[2])), True
        if len(parts) == 4:
            return (parts[0], int(parts[1])), (parts[2], int(parts[3])), False
    except ValueError:
        pass
    raise UsageError(f"{where}: {line!r} is neither 'person a b' nor 'person a other b'")


def read_people(path: Path) -> list[set[str]]:
    """Return who is in each fold of a list in the format of LFW's people.txt.

    The first line is the number of folds; each is a count and so many lines ``person<tab>n``.
    Raises SourceNotFound for a file that cannot be read, UsageError for another format.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        folds, place = [], 1
        for _ in range(int(lines[0])):
            count = int(lines[place])
            people = [line.split("\t")[0] for line in lines[place + 1 : place + 1 + count]]
            if len(people) != count:
                raise ValueError
            folds.append(set(people))
            place += 1 + count
    except OSError as error:
        raise SourceNotFound(f"cannot read the list of people {path}: {error.strerror}") from error
    except (ValueError, IndexError) as error:
        raise UsageError(f"{path} is no list of people by folds: give LFW's people.txt") from error
    return folds


def picture_name(person: str, number: int) -> str:
    """Return the name LFW gives a picture, without its suffix: ``Abel_Pacheco_0001``."""
    return f"{person}_{number:04d}"


def fold_accuracy(
    similarities_P: npt.ArrayLike, same_P: npt.ArrayLike, folds_P: npt.ArrayLike
) -> FoldAccuracy:
    """Return the accuracy of each fold, judged with the threshold best on all other folds.

    LFW's protocol (Huang et al. 2007, view 2) as in insightface's verification.py, which
    tries a grid of squared distances; here every cut between two similarities is tried,
    and of the cuts that are equally good the middle one is taken. A pair is accepted at
    similarity >= threshold. NaN is wrong in its fold and has no say in thresholds.
    """
    scores_P, matched_P = _checked_pairs(similarities_P, same_P)
    fold_P = np.asarray(folds_P)
    folds = np.unique(fold_P)
    if len(folds) < 2:
        raise ValueError("fold accuracy needs at least two folds: one to judge, one to learn")
    thresholds = [best_threshold(scores_P[fold_P != f], matched_P[fold_P != f]) for f in folds]
    right_P = np.zeros(len(fold_P), dtype=bool)
    for f, t in zip(folds, thresholds, strict=True):
        right_P[fold_P == f] = _judged_right(scores_P[fold_P == f], matched_P[fold_P == f], t)
    accuracy = np.array([right_P[fold_P == f].mean() for f in folds])
    return FoldAccuracy(
        folds=folds,
        accuracy=accuracy,
        threshold=np.array(thresholds),
        right_P=right_P,
        mean=float(accuracy.mean()),
        standard_error=float(accuracy.std(ddof=1) / math.sqrt(len(folds))),
        std=float(accuracy.std()),
    )


def best_threshold(similarities_P: npt.ArrayLike, same_P: npt.ArrayLike) -> float:
    """Return the middle one of the thresholds of highest accuracy; NaN has no say.

    Candidates lie half way between neighbouring similarities, at the lowest (accept all)
    and just over the highest (accept none). 0 where no pair has a similarity.
    """
    scores_P, matched_P = _checked_pairs(similarities_P, same_P)
    scores_P, matched_P = scores_P[~np.isnan(scores_P)], matched_P[~np.isnan(scores_P)]
    if not len(scores_P):
        return 0.0
    levels, place_P = np.unique(scores_P, return_inverse=True)
    gain = np.bincount(place_P, np.where(matched_P, -1.0, 1.0), minlength=len(levels))
    right = np.concatenate([[0.0], np.cumsum(gain)])  # rejecting the lowest c levels
    cuts = np.concatenate(
        [levels[:1], (levels[:-1] + levels[1:]) / 2, [np.nextafter(levels[-1], np.inf)]]
    )
    best = np.flatnonzero(right == right.max())
    return float(cuts[best[(len(best) - 1) // 2]])


def roc(similarities_P: npt.ArrayLike, same_P: npt.ArrayLike) -> Roc:
    """Return the operating point of every distinct similarity, after one that accepts none.

    Raises ValueError unless there are matched and mismatched pairs.
    """
    scores_P, matched_P = _checked_pairs(similarities_P, same_P)
    matched, mismatched = int(matched_P.sum()), int((~matched_P).sum())
    if not matched or not mismatched:
        raise ValueError("a ROC needs matched and mismatched pairs")
    missing_P = np.isnan(scores_P)
    always = int((missing_P & ~matched_P).sum())
    levels, place_P = np.unique(-scores_P[~missing_P], return_inverse=True)
    known_P = matched_P[~missing_P]
    true = np.bincount(place_P, known_P, minlength=len(levels)).cumsum()
    false = np.bincount(place_P, ~known_P, minlength=len(levels)).cumsum()
    return Roc(
        threshold=np.concatenate([[np.inf], -levels]),
        far=(np.concatenate([[0.0], false]) + always) / mismatched,
        tar=np.concatenate([[0.0], true]) / matched,
    )


def tar_at_far(similarities_P: npt.ArrayLike, same_P: npt.ArrayLike, far: float) -> TarAtFar:
    """Return the highest TAR at a measured FAR of at most ``far``.

    No interpolation: the curve is read as the staircase that it is, so the answer never
    promises more than some real threshold gives (insightface's IJB script takes the point
    of nearest FAR, facenet's interpolates linearly; both may overstate). Where missing
    faces alone make the FAR higher, TAR is 0 at an infinite threshold.
    """
    curve = roc(similarities_P, same_P)
    mismatched = int((~np.asarray(same_P, dtype=bool)).sum())
    fits = np.flatnonzero(curve.far <= far)
    if not len(fits):
        none = float(curve.far[0])
        return TarAtFar(tar=0.0, far=none, threshold=math.inf, impostors=mismatched)
    last = fits[-1]
    return TarAtFar(
        tar=float(curve.tar[last]),
        far=float(curve.far[last]),
        threshold=float(curve.threshold[last]),
        impostors=mismatched,
    )


def _checked_pairs(similarities_P: npt.ArrayLike, same_P: npt.ArrayLike) -> tuple[Float, Bool]:
    scores_P = np.asarray(similarities_P, dtype=np.float64)
    matched_P = np.asarray(same_P, dtype=bool)
    if scores_P.ndim != 1 or scores_P.shape != matched_P.shape:
        raise ValueError(f"{scores_P.shape} similarities for {matched_P.shape} pairs")
    return scores_P, matched_P


def _judged_right(scores_P: Float, matched_P: Bool, threshold: float) -> Bool:
    right_P: Bool = ~np.isnan(scores_P) & ((scores_P >= threshold) == matched_P)
    return right_P


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a share (Wilson 1927); (0, 1) without a trial."""
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials")
    if trials == 0:
        return 0.0, 1.0
    return wilson_bounds(successes / trials, trials, confidence)


def wilson_bounds(share: float, trials: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a share of trials, which need be no whole number."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    shrink = 1 + z * z / trials
    middle = (share + z * z / (2 * trials)) / shrink
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials**2)) / shrink
    return max(0.0, middle - half), min(1.0, middle + half)
