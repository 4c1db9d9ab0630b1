"""Error rates by groups of people, from a CSV of pictures and their groups."""

from __future__ import annotations

import csv
import math
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from facepipe.bootstrap import Interval
from facepipe.det import supported
from facepipe.error_groups import GroupErrors, group_errors
from facepipe.errors import SourceNotFound, UsageError
from facepipe.evaluate import tar_at_far
from pipelines.evaluate_pairs import Judged, PairList, Resampling, finite
from pipelines.evaluate_sources import Source

Names = npt.NDArray[np.str_]

DEFAULT_FMR = 1e-2  # of the one threshold, where the pairs support it


def read_groups(path: Path, source: Source) -> Names:
    """Return the group of each picture, "" where the CSV does not name it.

    Lines of path (any end of it that is whole names, or the file name without suffix) and group;
    a header is ``path,group``. Raises SourceNotFound, UsageError for another form and where no
    picture is named.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = [row for row in csv.reader(stream) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceNotFound(f"cannot read --groups {path}: {error}") from error
    group: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        if len(row) != 2 or not all(field.strip() for field in row):
            raise UsageError(f"--groups {path}, line {number}: give a path and a group")
        if number > 1 or row[0].strip() != "path":
            group[row[0].strip()] = row[1].strip()
    found = [
        next((group[n] for n in _names(p.path, p.name) if n in group), "") for p in source.pictures
    ]
    if not any(found):
        raise UsageError(f"--groups {path} names no picture of {source.name}")
    return np.array(found)


def _names(path: str, stem: str) -> list[str]:
    """Return the ends of a path, the longest first, and the file name without its suffix."""
    parts = PurePosixPath(path).parts
    return ["/".join(parts[start:]).replace("//", "/") for start in range(len(parts))] + [stem]


def groups_result(
    judged: Judged, pairs: PairList, group_N: Names, fmr: float | None, resampling: Resampling
) -> dict[str, Any]:
    """Return FNMR and FMR of each group at the threshold of one FMR on all pairs."""
    impostors = int((~pairs.same_P).sum())
    known = [far for far in supported(impostors) if far >= DEFAULT_FMR]
    if fmr is None and not known:
        raise UsageError(
            f"--groups needs a threshold for a FAR, and {impostors} mismatched pairs support none"
        )
    far = known[-1] if fmr is None else fmr
    point = tar_at_far(judged.similarity_P, pairs.same_P, far)
    found = group_errors(
        judged.similarity_P,
        pairs.same_P,
        np.stack([group_N[pairs.first_P], group_N[pairs.second_P]], axis=1),
        pairs.people_P2,
        point.threshold,
        fmr=far,
        samples=resampling.samples,
        seed=resampling.seed,
    )
    return {
        "far": far,
        "threshold": finite(point.threshold),
        "groups": [_row(errors) for errors in found],
    }


def _row(errors: GroupErrors) -> dict[str, Any]:
    return {
        "group": errors.group,
        "people": errors.people,
        "matched": errors.matched,
        "mismatched": errors.mismatched,
        "fnmr": _rate(errors.fnmr),
        "fmr": _rate(errors.fmr),
        "unsupported": list(errors.unsupported),
    }


def _rate(rate: Interval) -> dict[str, Any]:
    share = None if math.isnan(rate.value) else rate.value  # no pair; JSON has no NaN
    return {"rate": share, "interval_95": [rate.low, rate.high]}
