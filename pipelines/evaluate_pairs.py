"""Verification: pairs of pictures judged with the vectors of one or more packs.

Legend: N pictures, P pairs, D dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from facepipe.bootstrap import Interval, paired_difference, share_interval
from facepipe.det import (
    Det,
    TarBand,
    det,
    equal_error,
    require_supported,
    supported,
    tar_differences,
    tars_at_fars,
)
from facepipe.errors import UsageError
from facepipe.evaluate import FoldAccuracy, fold_accuracy, picture_name, read_pairs, wilson_interval
from facepipe.grid_accuracy import folds_in_order, grid_accuracy, squared_distances
from facepipe.pair_people import people_of_pairs
from pipelines.evaluate_faces import Faces
from pipelines.evaluate_sources import Source

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

FARS = (1e-1, 1e-2, 1e-3)  # reported where nothing else is asked for, if the data support them
BLOCK_PAIRS = 1 << 15


@dataclass(frozen=True, slots=True, kw_only=True)
class PairList:
    """Pairs of pictures, by their place in the source."""

    first_P: Int
    second_P: Int
    same_P: Bool
    fold_P: Int | None  # None: too few pairs for folds
    people_P2: Int
    absent: int = 0  # pairs of the file that name a picture which is not there


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampling:
    """How intervals are found."""

    samples: int
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What the vectors of one pack make of the pairs."""

    similarity_P: Float
    folds: FoldAccuracy | None
    grid: FoldAccuracy | None
    accuracy: Interval | None
    curve: Det
    bands: tuple[TarBand, ...]


def read_pair_list(path: Path, source: Source) -> PairList:
    """Return the pairs of a file in LFW's format that the source has both pictures of.

    Raises UsageError where the file is missing or too few of its pairs are there.
    """
    if not path.is_file():
        raise UsageError(f"--pairs {path} does not exist: give a file in the format of pairs.txt")
    pairs = read_pairs(path)
    place = {picture.name: n for n, picture in enumerate(source.pictures)}
    sides = [
        np.array([place.get(picture_name(*who), -1) for who in side], np.int64)
        for side in (pairs.left, pairs.right)
    ]
    here = (sides[0] >= 0) & (sides[1] >= 0)
    same, fold = pairs.same_P[here], pairs.fold_P[here]
    if len(set(fold.tolist())) < 2 or len(set(same.tolist())) < 2:
        raise UsageError(
            f"{int(here.sum())} of the {len(here)} pairs of {path} have both photos in "
            f"{source.name}, which is too few: matched and mismatched ones of two folds are needed"
        )
    people = np.array([[a[0], b[0]] for a, b in zip(pairs.left, pairs.right, strict=True)])[here]
    _, code = np.unique(people, return_inverse=True)
    return PairList(
        first_P=sides[0][here],
        second_P=sides[1][here],
        same_P=same,
        fold_P=fold,
        people_P2=code.reshape(-1, 2).astype(np.int64),
        absent=int((~here).sum()),
    )


def narrowed(source: Source, pairs: PairList) -> tuple[Source, PairList]:
    """Return only the pictures that pairs name, in their order, so that others cost nothing."""
    used, place = np.unique(np.stack([pairs.first_P, pairs.second_P]), return_inverse=True)
    wanted = set(used.tolist())

    def read() -> Iterator[bytes]:
        return (data for number, data in enumerate(source.read()) if number in wanted)

    first, second = place.reshape(2, -1).astype(np.int64)
    pictures = tuple(source.pictures[number] for number in used.tolist())
    return replace(source, pictures=pictures, read=read), replace(
        pairs, first_P=first, second_P=second
    )


def require_both_kinds(source: Source) -> None:
    """Raise UsageError for a .bin set whose pairs are all matched, or all mismatched."""
    same_P = source.same_P or ()
    if len(set(same_P)) < 2:
        raise UsageError(
            f"{source.name} has {len(same_P)} pairs, {sum(same_P)} of them matched: matched and "
            "mismatched ones are needed"
        )


def bin_pair_list(faces: Faces) -> PairList:
    """Return the pairs of a .bin set, in ten folds by order as insightface takes them.

    People are told by equal pictures and matched pairs.
    """
    same = np.array(faces.source.same_P or (), dtype=bool)
    first = np.arange(0, 2 * len(same), 2)
    _, item = np.unique(np.array(faces.digests), return_inverse=True)
    person_N = people_of_pairs(int(item.max()) + 1, item[first], item[first + 1], same)[item]
    return PairList(
        first_P=first,
        second_P=first + 1,
        same_P=same,
        fold_P=folds_in_order(len(same)) if len(same) >= 10 else None,
        people_P2=np.stack([person_N[first], person_N[first + 1]], axis=1),
    )


def similarities(unit_ND: npt.NDArray[np.floating], pairs: PairList) -> tuple[Float, Float]:
    """Return cosine and squared distance of each pair, float64; NaN where a face is missing."""
    cosine, distance = np.empty(len(pairs.same_P)), np.empty(len(pairs.same_P))
    for start in range(0, len(cosine), BLOCK_PAIRS):
        rows = slice(start, start + BLOCK_PAIRS)
        one = unit_ND[pairs.first_P[rows]].astype(np.float64)
        other = unit_ND[pairs.second_P[rows]].astype(np.float64)
        cosine[rows] = np.sum(one * other, axis=1)
        distance[rows] = squared_distances(one, other)
    return cosine, distance


def judge(
    unit_ND: npt.NDArray[np.floating],
    pairs: PairList,
    fars: Sequence[float] | None,
    resampling: Resampling,
) -> Judged:
    """Return accuracy, DET and TAR at FARs; ``fars`` None: `FARS` as far as they are supported.

    Raises UsageError for a FAR that the pairs cannot support.
    """
    cosine, distance = similarities(unit_ND, pairs)
    return judge_scores(cosine, pairs, fars, resampling, distance)


def judge_scores(
    similarity_P: Float,
    pairs: PairList,
    fars: Sequence[float] | None,
    resampling: Resampling,
    distance_P: Float | None = None,
) -> Judged:
    """Return what similarities say of pairs; insightface's arithmetic where distances are given."""
    if len(np.unique(pairs.people_P2)) < 2:
        raise UsageError("all pairs are of one person: nothing can be said beyond that person")
    impostors = int((~pairs.same_P).sum())
    asked = supported_fars(impostors) if fars is None else tuple(fars)
    require_supported(asked, impostors)
    options = {"samples": resampling.samples, "seed": resampling.seed}
    folds = grid = accuracy = None
    if pairs.fold_P is not None:
        folds = fold_accuracy(similarity_P, pairs.same_P, pairs.fold_P)
        accuracy = share_interval(folds.right_P, pairs.people_P2, **options)
        if distance_P is not None:
            grid = grid_accuracy(distance_P, pairs.same_P, pairs.fold_P)
    return Judged(
        similarity_P=similarity_P,
        folds=folds,
        grid=grid,
        accuracy=accuracy,
        curve=det(similarity_P, pairs.same_P),
        bands=tuple(tars_at_fars(similarity_P, pairs.same_P, asked, pairs.people_P2, **options)),
    )


def supported_fars(impostors: int) -> tuple[float, ...]:
    """Return the FARs reported by default: `FARS`, and smaller ones that so many pairs show."""
    known = supported(impostors)
    return tuple(far for far in known if far >= min(FARS) or far * impostors >= 10)


def pairs_result(judged: Judged, pairs: PairList) -> dict[str, Any]:
    """Return what was found as numbers and lists."""
    missing = int(np.isnan(judged.similarity_P).sum())
    result: dict[str, Any] = {
        "pairs": len(judged.similarity_P),
        "pairs_not_in_dataset": pairs.absent,
        "pairs_without_face": missing,
    }
    if judged.folds is not None and judged.accuracy is not None:
        result |= _folds_result(judged.folds, judged.accuracy)
    if judged.grid is not None:
        grid = judged.grid
        result["insightface"] = {
            "accuracy": grid.mean,
            "std": grid.std,
            "folds": [float(a) for a in grid.accuracy],
            "thresholds": [float(t) for t in grid.threshold],  # squared distances
        }
    return result | {
        "equal_error": equal_error(judged.curve),
        "tar_at_far": [
            {
                "far": band.far,
                "tar": band.tar.value,
                "interval_95": [band.tar.low, band.tar.high],
                "measured_far": band.measured_far,
                "threshold": finite(band.threshold),
            }
            for band in judged.bands
        ],
        "fars_unsupported": [
            far for far in FARS if far not in supported(int((~pairs.same_P).sum()))
        ],
    }


def _folds_result(folds: FoldAccuracy, accuracy: Interval) -> dict[str, Any]:
    right, trials = int(folds.right_P.sum()), len(folds.right_P)
    return {
        "accuracy": folds.mean,
        "standard_error": folds.standard_error,
        "std": folds.std,
        "interval_95": list(wilson_interval(right, trials)),
        "people_interval_95": [accuracy.low, accuracy.high],
        "folds": [
            {"fold": int(f), "accuracy": float(a), "threshold": float(t)}
            for f, a, t in zip(folds.folds, folds.accuracy, folds.threshold, strict=True)
        ],
    }


def finite(threshold: float) -> float | None:
    """Return a threshold, None for the infinite one that accepts nothing, which JSON lacks."""
    return threshold if math.isfinite(threshold) else None


def difference_result(
    judged: Judged, first: Judged, pairs: PairList, resampling: Resampling
) -> dict[str, Any]:
    """Return how a pack differs from the first on the same pairs, resampling people."""
    options = {"samples": resampling.samples, "seed": resampling.seed}
    result: dict[str, Any] = {}
    if judged.folds is not None and first.folds is not None:
        gain = paired_difference(
            judged.folds.right_P, first.folds.right_P, pairs.people_P2, **options
        )
        result["accuracy"] = _difference(gain)
    fars = [band.far for band in first.bands]
    gains = tar_differences(
        judged.similarity_P, first.similarity_P, pairs.same_P, fars, pairs.people_P2, **options
    )
    result["tar_at_far"] = [
        {"far": far} | _difference(gain) for far, gain in zip(fars, gains, strict=True)
    ]
    return result


def _difference(gain: Interval) -> dict[str, Any]:
    return {"difference": gain.value, "interval_95": [gain.low, gain.high]}
