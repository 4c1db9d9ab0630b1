"""Verification accuracy from a dataset's own tables: pairs of photos in LFW's format."""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facepipe.errors import UsageError
from facepipe.evaluate import fold_accuracy, picture_name, read_pairs, tar_at_far, wilson_interval
from facepipe.neighbors import vector_matrix
from facepipe.quality import labelled_face
from facepipe.schema import EmbeddingStatus
from facepipe.shards import Dataset
from facepipe.sources import path_of

FARS = (1e-1, 1e-2, 1e-3)


def evaluate_pairs(dataset: Dataset, pairs_file: str) -> dict[str, Any]:
    """Return accuracy per fold and in the mean, its interval, and TAR at some FARs.

    The face of a photo is its large, central one (`facepipe.quality.labelled_face`), whatever its
    quality.
    Pairs that name a photo which is not in the dataset are left out and counted. Raises
    UsageError where the pairs file is missing or too few of its pairs are in the dataset.
    """
    path = Path(pairs_file)
    if not path.is_file():
        raise UsageError(f"--pairs {path} does not exist: give a file in the format of pairs.txt")
    pairs = read_pairs(path)
    vectors = _vectors_by_picture(dataset)
    listed = dataset.table("photos", ["uri", "member"]).to_pylist()
    photos = {_name(row["uri"], row["member"]) for row in listed}
    names = [
        (picture_name(*a), picture_name(*b)) for a, b in zip(pairs.left, pairs.right, strict=True)
    ]
    here = np.array([a in photos and b in photos for a, b in names])
    same, fold = pairs.same_P[here], pairs.fold_P[here]
    if len(set(fold.tolist())) < 2 or len(set(same.tolist())) < 2:
        raise UsageError(
            f"{int(here.sum())} of the {len(here)} pairs of {path} have both photos in "
            f"{dataset.uri}, which is too few: matched and mismatched ones of two folds are needed"
        )
    similarity = np.array(
        [
            float(vectors[a] @ vectors[b]) if a in vectors and b in vectors else math.nan
            for (a, b), is_here in zip(names, here, strict=True)
            if is_here
        ]
    )
    folds = fold_accuracy(similarity, same, fold)
    right = round(float(sum(a * (fold == f).sum() for f, a in _by_fold(folds))))
    low, high = wilson_interval(right, len(similarity))
    return {
        "pairs": len(similarity),
        "pairs_not_in_dataset": int((~here).sum()),
        "pairs_without_face": int(np.isnan(similarity).sum()),
        "accuracy": folds.mean,
        "standard_error": folds.standard_error,
        "std": folds.std,
        "interval_95": [low, high],
        "folds": [
            {"fold": int(f), "accuracy": float(a), "threshold": float(t)}
            for f, a, t in zip(folds.folds, folds.accuracy, folds.threshold, strict=True)
        ],
        "tar_at_far": [
            {"far": far, "tar": t.tar, "measured_far": t.far, "threshold": t.threshold}
            for far in FARS
            for t in [tar_at_far(similarity, same, far)]
        ],
        "model_id": dataset.current_model(),
    }


def _by_fold(folds: Any) -> list[tuple[int, float]]:
    return list(zip(folds.folds.tolist(), folds.accuracy.tolist(), strict=True))


def _vectors_by_picture(dataset: Dataset) -> dict[str, NDArray[np.float32]]:
    """Return file name without suffix -> unit vector of the photo's large, central face."""
    model = dataset.current_model()
    dataset.require_embeddings(model)
    photos = dataset.table("photos", ["uri", "member", "width_px", "height_px"]).to_pylist()
    size = {(r["uri"], r["member"]): (r["width_px"], r["height_px"]) for r in photos}
    faces: dict[tuple[str, str | None], list[dict[str, Any]]] = {}
    for row in dataset.table("faces", ["face_id", "uri", "member", "box_xyxy_px"]).to_pylist():
        faces.setdefault((row["uri"], row["member"]), []).append(row)
    chosen: dict[str, list[str]] = {}  # the same bytes may be there under several names
    for place, rows in faces.items():
        best = labelled_face(np.array([r["box_xyxy_px"] for r in rows]), *size[place]) or 0
        chosen.setdefault(rows[best]["face_id"], []).append(_name(*place))
    found: dict[str, NDArray[np.float32]] = {}
    for file in dataset.files("embeddings", model):
        table = dataset.read(file, ["face_id", "vector", "status"])
        vectors = vector_matrix(table).astype(np.float32)
        columns = (table[c].to_pylist() for c in ("face_id", "status"))
        for row, (face, status) in enumerate(zip(*columns, strict=True)):
            if status == EmbeddingStatus.OK:
                found |= dict.fromkeys(chosen.get(face, ()), vectors[row])
    return found


def _name(uri: str, member: str | None) -> str:
    """Return the file name of a photo without its suffix, also in an archive."""
    return PurePosixPath(member if member is not None else path_of(uri)).stem


def format_evaluation(result: dict[str, Any]) -> str:
    """Return an evaluation as text."""
    low, high = result["interval_95"]
    absent = result["pairs_not_in_dataset"]
    lines = [
        f"{result['pairs']} pairs, {result['pairs_without_face']} of them with a photo "
        "without a face (counted as wrong)"
        + (f"; {absent} more name photos that are not in the dataset" if absent else ""),
        f"accuracy {result['accuracy']:.4%} +- {result['std']:.4%} over "
        f"{len(result['folds'])} folds (standard error {result['standard_error']:.4%}; "
        f"95 % interval {low:.4%} to {high:.4%})",
    ]
    lines += [
        f"  fold {f['fold']}: {f['accuracy']:.4%} at threshold {f['threshold']:.4f}"
        for f in result["folds"]
    ]
    lines += [
        f"TAR {t['tar']:.4f} at FAR {t['far']:g} (threshold {t['threshold']:.4f})"
        for t in result["tar_at_far"]
    ]
    return "\n".join(lines)
