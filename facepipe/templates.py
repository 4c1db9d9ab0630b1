"""Templates of several faces, as IJB-B and IJB-C have them: media pooled first, then templates.

The faces of one medium (the frames of a video) are averaged, so that a long video weighs no
more than a still; the media of a template are added up and the sum is brought to length 1
(Whitelam et al. 2017, IARPA Janus Benchmark-B; arithmetic of insightface's
recognition/arcface_torch/eval_ijbc.py, `image2template_feature`, commit 1b8d928).

Legend: F faces, T templates, P pairs of templates, D dimensions.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from facepipe.errors import SourceNotFound, UsageError
from facepipe.pair_people import people_of_pairs

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

BLOCK_FACES = 1 << 12  # rows in float64 at a time: 16 MiB at 512 dimensions
BLOCK_PAIRS = 1 << 15


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateFaces:
    """Which face belongs to which medium of which template."""

    names: tuple[str, ...]
    template_F: Int
    medium_F: Int
    subject_F: Int | None  # who the template shows, where the file says so


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplatePairs:
    """Templates that are compared, by number, and whether they show one subject."""

    first_P: Int
    second_P: Int
    same_P: Bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooled:
    """One unit vector a template; NaN for one without a face."""

    template_T: Int  # rising
    unit_TD: Float


def read_template_faces(path: Path) -> TemplateFaces:
    """Read lines of face, template, medium and, optionally, subject; the last three numbers.

    Fields are parted by spaces or tabs (``ijbc_face_tid_mid.txt`` of insightface) or by commas;
    a first line without numbers is a header. Raises SourceNotFound, UsageError naming the line.
    """
    rows = _rows(path, (3, 4), numbers_from=1)
    widths = {len(row) for row in rows}
    if len(widths) != 1:
        raise UsageError(f"{path}: some lines have a subject and some do not")
    numbers = np.array([[int(field) for field in row[1:]] for row in rows], np.int64)
    subject_F = numbers[:, 2] if widths == {4} else None
    if subject_F is not None and _of_two(numbers[:, 0], subject_F):
        raise UsageError(f"{path}: a template has faces of two subjects")
    return TemplateFaces(
        names=tuple(row[0] for row in rows),
        template_F=numbers[:, 0],
        medium_F=numbers[:, 1],
        subject_F=subject_F,
    )


def read_template_pairs(path: Path) -> TemplatePairs:
    """Read lines of template, template, and 1 for one subject or 0 for two.

    ``ijbc_template_pair_label.txt`` of insightface, or with commas; a first line without
    numbers is a header. Raises SourceNotFound, UsageError naming the line.
    """
    numbers = np.array([[int(f) for f in row] for row in _rows(path, (3,), 0)], np.int64)
    if not np.isin(numbers[:, 2], (0, 1)).all():
        raise UsageError(f"{path}: the third field is 1 for the same subject and 0 for others")
    return TemplatePairs(first_P=numbers[:, 0], second_P=numbers[:, 1], same_P=numbers[:, 2] == 1)


def _of_two(template_F: Int, subject_F: Int) -> bool:
    pairs = np.unique(np.stack([template_F, subject_F], axis=1), axis=0)
    return len(pairs) != len(np.unique(template_F))


def _rows(path: Path, widths: tuple[int, ...], numbers_from: int) -> list[list[str]]:
    rows: list[list[str]] = []
    try:
        for number, row in enumerate(_fields(path), 1):
            numbers = row[numbers_from:]
            fits = len(row) in widths and all(f.lstrip("-").isdigit() for f in numbers)
            if fits:
                rows.append(row)
            elif number > 1 or any(f.lstrip("-").isdigit() for f in numbers):
                raise UsageError(f"{path}, line {number}: {' '.join(row)!r} has another form")
    except OSError as error:
        raise SourceNotFound(f"cannot read {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} is no list: {error}") from error
    if not rows:
        raise UsageError(f"{path} holds no line")
    return rows


def _fields(path: Path) -> Iterator[list[str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        for line in stream:
            if line.strip():
                commas = "," in line
                yield [f.strip() for f in next(csv.reader([line]))] if commas else line.split()


def pool(
    vectors_FD: npt.NDArray[np.floating], template_F: npt.ArrayLike, medium_F: npt.ArrayLike
) -> Pooled:
    """Return one unit vector a template: means of media, added up, brought to length 1.

    vectors_FD: raw embeddings, so that faces weigh by their length as in insightface's script,
    or unit ones, so that all weigh alike; NaN rows have no face and are left out. A medium is
    its template's own: the same number in two templates is two media. In blocks of whole
    templates. Raises ValueError for lengths that differ.
    """
    template, medium = np.asarray(template_F, np.int64), np.asarray(medium_F, np.int64)
    if not len(vectors_FD) == len(template) == len(medium):
        raise ValueError(f"{len(vectors_FD)} vectors for {len(template)} faces")
    names_T = np.unique(template)
    unit_TD = np.full((len(names_T), vectors_FD.shape[1]), np.nan)
    order = np.lexsort((medium, template))
    sorted_F, start = template[order], 0
    while start < len(order):
        stop = min(start + BLOCK_FACES, len(order))
        stop = int(np.searchsorted(sorted_F, sorted_F[stop - 1], side="right"))
        rows = order[start:stop]
        block = vectors_FD[rows].astype(np.float64)
        absent = np.isnan(block.sum(axis=1))
        if absent.any():
            rows, block = rows[~absent], block[~absent]
        if len(rows):
            found, sums = _pooled(block, template[rows], medium[rows])
            unit_TD[np.searchsorted(names_T, found)] = sums
        start = stop
    return Pooled(template_T=names_T, unit_TD=unit_TD)


def _pooled(vectors_FD: Float, template_F: Int, medium_F: Int) -> tuple[Int, Float]:
    """Return the templates of faces sorted by template and medium, and their unit vectors."""
    new_F = (np.diff(template_F, prepend=template_F[0] - 1) != 0) | (
        np.diff(medium_F, prepend=medium_F[0] - 1) != 0
    )
    media = np.flatnonzero(new_F)
    counts = np.diff(media, append=len(template_F))
    mean_MD = _run_sums(vectors_FD, media) / counts[:, None]
    owner_M = template_F[media]
    first = np.flatnonzero(np.diff(owner_M, prepend=owner_M[0] - 1))
    sum_TD = _run_sums(mean_MD, first)
    length_T = np.sqrt(np.sum(np.square(sum_TD), axis=1))
    sum_TD[length_T == 0] = np.nan
    return owner_M[first], sum_TD / np.where(length_T == 0, 1.0, length_T)[:, None]


def _run_sums(rows: Float, first: Int) -> Float:
    """Return the sum of each run of rows, added in their order.

    All runs' second rows at once, then all third ones, and so on: np.add.reduceat takes ten
    times as long over short runs of wide rows.
    """
    counts = np.diff(first, append=len(rows))
    longest = np.argsort(-counts, kind="stable")
    left = len(first) - np.searchsorted(np.sort(counts), np.arange(counts.max()), side="right")
    sums = rows[first]
    for k in range(1, int(counts.max())):
        runs = longest[: left[k]]
        sums[runs] += rows[first[runs] + k]
    return sums


def pair_similarities(pooled: Pooled, first_P: npt.ArrayLike, second_P: npt.ArrayLike) -> Float:
    """Return the cosine of each pair of templates, (P,) float64, in blocks of pairs.

    NaN where one of them has no face. Raises UsageError for a template that has no line.
    """
    sides = []
    for side in (first_P, second_P):
        wanted = np.asarray(side, np.int64)
        place = np.searchsorted(pooled.template_T, wanted).clip(max=len(pooled.template_T) - 1)
        absent = wanted[pooled.template_T[place] != wanted]
        if len(absent):
            raise UsageError(f"template {absent[0]} is compared, but no face belongs to it")
        sides.append(place)
    found = np.empty(len(sides[0]))
    for start in range(0, len(found), BLOCK_PAIRS):
        one, other = (pooled.unit_TD[side[start : start + BLOCK_PAIRS]] for side in sides)
        found[start : start + BLOCK_PAIRS] = np.sum(one * other, axis=1)
    return found


def subjects(pooled: Pooled, pairs: TemplatePairs) -> Int:
    """Return a subject for each template, (T,), as far as matched pairs tell.

    Templates joined by matched pairs are one subject; any other is one of its own. For lists
    that do not name subjects: what is resampled must be people.
    """
    one, other = (
        np.searchsorted(pooled.template_T, side) for side in (pairs.first_P, pairs.second_P)
    )
    return people_of_pairs(len(pooled.template_T), one, other, pairs.same_P)
