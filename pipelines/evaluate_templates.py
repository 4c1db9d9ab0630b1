"""IJB-style verification: pictures pooled to templates, and templates compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from facepipe.errors import UsageError
from facepipe.templates import (
    TemplateFaces,
    TemplatePairs,
    pair_similarities,
    pool,
    read_template_faces,
    read_template_pairs,
    subjects,
)
from pipelines.evaluate_pairs import PairList
from pipelines.evaluate_sources import Source

Int = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateLists:
    """The two lists of a protocol, and where each face of the first is in the source."""

    faces: TemplateFaces
    pairs: TemplatePairs
    place_F: Int


def read_templates(faces_file: str, pairs_file: str, source: Source) -> TemplateLists:
    """Read both lists. Raises UsageError for a face that the source has no picture of."""
    faces = read_template_faces(Path(faces_file))
    pairs = read_template_pairs(Path(pairs_file))
    if pairs.same_P.all() or not pairs.same_P.any():
        raise UsageError(f"{pairs_file}: pairs of one subject and of two are needed")
    places: dict[str, int] = {}
    for n, picture in enumerate(source.pictures):
        name = PurePosixPath(picture.path).name
        places |= {picture.path: n, name: n, picture.name: n}
    place_F = np.array([places.get(name, -1) for name in faces.names], np.int64)
    absent = np.flatnonzero(place_F < 0)
    if len(absent):
        raise UsageError(
            f"{source.name} has no picture {faces.names[absent[0]]!r} of {faces_file}, and "
            f"{len(absent) - 1} more are missing"
        )
    return TemplateLists(faces=faces, pairs=pairs, place_F=place_F)


def template_similarities(
    raw_ND: npt.NDArray[np.float32], lists: TemplateLists
) -> tuple[npt.NDArray[np.float64], PairList]:
    """Return the cosine of each pair of templates, and the pairs with their people.

    Raw vectors, not unit ones: a face weighs by the length of its embedding, as in
    insightface's script (its use_norm_score).
    """
    pooled = pool(raw_ND[lists.place_F], lists.faces.template_F, lists.faces.medium_F)
    first, second = lists.pairs.first_P, lists.pairs.second_P
    cosine = pair_similarities(pooled, first, second)
    if lists.faces.subject_F is None:
        subject_T = subjects(pooled, lists.pairs)
    else:
        row = np.unique(lists.faces.template_F, return_index=True)[1]
        subject_T = lists.faces.subject_F[row]
    sides = [np.searchsorted(pooled.template_T, side) for side in (first, second)]
    return cosine, PairList(
        first_P=sides[0],
        second_P=sides[1],
        same_P=lists.pairs.same_P,
        fold_P=None,
        people_P2=np.stack([subject_T[side] for side in sides], axis=1).astype(np.int64),
    )
