"""LFW cut by people for bench_losses.py: training samples, and pairs of people in none of them.

The faces are a dataset that `facepipe curate --labels folder` made of LFW. A fold of pairs.txt and
people.txt shares nobody with another, so that whole folds are held back. What is trained on is what
DECISIONS keep of the other folds' people; what is tested on is the large, central face of each
picture, kept or not, as `facepipe evaluate` takes it.

Legend: N samples, P pairs, C crops; H, W pixels.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from facepipe import ids
from facepipe.align import decode_crop
from facepipe.evaluate import picture_name, read_pairs
from facepipe.quality import labelled_face
from facepipe.shards import Dataset
from facepipe.sources import path_of
from training.dataset_samples import dataset_samples
from training.samples import Samples

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class TestPairs:
    """Pairs of crops of people who are not trained on."""

    crops_CHWC: npt.NDArray[np.uint8]  # RGB
    left_P: Int64  # a crop, or -1 where the picture has no face
    right_P: Int64
    same_P: Bool
    fold_P: Int64
    people_P2: Int64  # who, by number


def training_samples(dataset: Dataset, people: Collection[str], min_faces: int = 2) -> Samples:
    """Return the kept samples of some people who have so many of them.

    A sample counts as of these people where both its identity and its folder say so.
    """
    samples = dataset_samples(dataset)
    known = np.array([name in people for name in samples.people])
    keep_N = known[samples.label_N] & np.array([n in people for n in _folders(dataset, samples)])
    size_L = np.bincount(samples.label_N[keep_N], minlength=len(samples.people))
    return _only(samples, keep_N & (size_L >= min_faces)[samples.label_N])


def test_pairs(dataset: Dataset, pairs_file: Path, folds: Collection[int]) -> TestPairs:
    """Return the pairs of some folds (from 0), with their crops."""
    pairs = read_pairs(pairs_file)
    chosen = np.flatnonzero(np.isin(pairs.fold_P, list(folds)))
    sides = [[(pairs.left[p], pairs.right[p])[side] for p in chosen] for side in (0, 1)]
    names = sorted({picture_name(*picture) for side in sides for picture in side})
    crops = _crops_of(dataset, set(names))
    there = [name for name in names if name in crops]
    number = {name: place for place, name in enumerate(there)}
    people = {name: n for n, name in enumerate(sorted({p for s in sides for p, _ in s}))}
    left_P, right_P = (
        np.array([number.get(picture_name(*picture), -1) for picture in side]) for side in sides
    )
    return TestPairs(
        crops_CHWC=np.stack([crops[name] for name in there]),
        left_P=left_P,
        right_P=right_P,
        same_P=pairs.same_P[chosen],
        fold_P=pairs.fold_P[chosen],
        people_P2=np.array([[people[p] for p, _ in side] for side in sides]).T,
    )


def _folders(dataset: Dataset, samples: Samples) -> list[str | None]:
    """Return the folder that each sample's photo lay in."""
    found: list[str | None] = []
    rows_N = samples.row_of(np.arange(len(samples)))
    for group, file in enumerate(dataset.files("faces")):
        labels = dataset.read(file, ["source_label"])["source_label"].to_pylist()
        start, stop = samples.start_G1[group : group + 2].tolist()
        found += [labels[row] for row in rows_N[start:stop].tolist()]
    return found


def _only(samples: Samples, keep_N: Bool) -> Samples:
    """Return some of the samples, their people numbered anew."""
    kept = np.flatnonzero(keep_N)
    groups = len(samples.start_G1) - 1
    size_G = np.bincount(samples.group_of(kept), minlength=groups)
    labels, label_K = np.unique(samples.label_N[kept], return_inverse=True)
    people = [samples.people[label] for label in labels.tolist()]
    return replace(
        samples,
        start_G1=np.concatenate([[0], np.cumsum(size_G)]).astype(np.int64),
        row_N=samples.row_of(kept).astype(np.uint32),
        label_N=label_K.astype(np.int32),
        weight_N=samples.weight_N[kept],
        people=people,
        counts={**samples.counts, "used": len(kept), "of other people": int((~keep_N).sum())},
        digest=ids.digest([samples.digest, people, len(kept)]),
    )


def _crops_of(dataset: Dataset, names: set[str]) -> dict[str, npt.NDArray[np.uint8]]:
    """Return picture name -> its large, central face, RGB."""
    photos = dataset.table("photos", ["uri", "width_px", "height_px"]).to_pylist()
    size = {r["uri"]: (r["width_px"], r["height_px"]) for r in photos if _name(r) in names}
    faces: dict[str, list[dict[str, Any]]] = {}
    for file in dataset.files("faces"):
        for row in dataset.read(file, ["uri", "box_xyxy_px", "crop"]).to_pylist():
            if row["uri"] in size:
                faces.setdefault(row["uri"], []).append(row)
    found = {}
    for uri, rows in faces.items():
        best = labelled_face(np.array([r["box_xyxy_px"] for r in rows]), *size[uri]) or 0
        crop = decode_crop(rows[best]["crop"])
        if crop is not None:
            found[_name(rows[best])] = np.ascontiguousarray(crop[..., ::-1])
    return found


def _name(row: dict[str, Any]) -> str:
    return PurePosixPath(path_of(row["uri"])).stem
