"""Several packs on the same pairs of crops, and a digest of those: what a promotion is decided on.

Legend: P pairs, M packs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from facepipe import ids
from facepipe.config import Settings
from facepipe.errors import UsageError
from facepipe.evaluate import fold_accuracy
from facepipe.packs import Pack
from pipelines.evaluate_faces import Faces, embed_source
from pipelines.evaluate_pairs import (
    PairList,
    bin_pair_list,
    narrowed,
    read_pair_list,
    similarities,
)
from pipelines.evaluate_sources import open_source
from pipelines.progress import Progress

VERSION = 1  # of what the digest is made of


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedPairs:
    """What packs made of the same pairs."""

    digest: str  # of the crops' bytes, the pairs, their folds and people, and the flip test
    pairs: PairList
    pictures: int
    similarity_MP: npt.NDArray[np.float64]  # NaN where a picture has no face
    right_MP: npt.NDArray[np.bool_]  # judged with the threshold best on the other folds


def measure_pinned(
    data: str,
    pairs_file: str | None,
    packs: Sequence[Pack],
    settings: Settings,
    workers: int,
    progress: Progress,
) -> PinnedPairs:
    """Embed the crops that pairs name with every pack, and judge the pairs.

    ``data``: a dataset, a folder of aligned crops, or a .bin set, which has pairs of its own.
    Raises UsageError for photos that are no aligned crops (another detector would find other
    faces), for pairs of fewer than two folds, and as `open_source`, `read_pair_list`.
    """
    source, pairs = open_source(data), None
    if source.same_P is None:
        if pairs_file is None:
            raise UsageError(f"{data} has no pairs of its own: give --pairs pairs.txt")
        source, pairs = narrowed(source, read_pair_list(Path(pairs_file), source))
    elif pairs_file is not None:
        raise UsageError(f"{data} has pairs of its own: leave out --pairs")
    blind = [pack.model_copy(update={"detector": None}) for pack in packs]
    faces = embed_source(source, blind, settings, workers, progress)
    pairs = pairs or bin_pair_list(faces[0])
    if pairs.fold_P is None:
        raise UsageError(f"{data} has {len(pairs.same_P)} pairs: ten or more are needed for folds")
    similarity_MP = np.stack([similarities(each.unit_ND(), pairs)[0] for each in faces])
    right = [fold_accuracy(one_P, pairs.same_P, pairs.fold_P).right_P for one_P in similarity_MP]
    return PinnedPairs(
        digest=_digest(faces[0], pairs, settings),
        pairs=pairs,
        pictures=len(source.pictures),
        similarity_MP=similarity_MP,
        right_MP=np.stack(right),
    )


def _digest(faces: Faces, pairs: PairList, settings: Settings) -> str:
    """Return the SHA-256 of what is decided on, wherever it lies and whatever it is called."""
    names = [digest.hex() for digest in faces.digests]
    columns = [
        [names[place] for place in pairs.first_P.tolist()],
        [names[place] for place in pairs.second_P.tolist()],
        pairs.same_P.tolist(),
        [] if pairs.fold_P is None else pairs.fold_P.tolist(),
        pairs.people_P2.tolist(),
    ]
    return ids.digest(["pairs", VERSION, columns, settings.embed.flip])
